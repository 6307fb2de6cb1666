# SPDX-License-Identifier: Apache-2.0
"""The contract kit's command line: one line for each rule, and exit status 1 when one was broken."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from kit import enforcer_checks, stream_checks
from kit.bench import Bench
from kit.control_api import FAULTS, ControlApi, serving
from kit.controller_checks import judged
from kit.planner import kit_planner
from kit.verdicts import BrokenRuleError, Result, UnseenRuleError, Verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks against an enforcer or a controller."""
    parser = argparse.ArgumentParser(prog="tests/kit/run.py", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    enforcer = kinds.add_parser("enforcer", help="be the planner of an enforcer")
    enforcer.add_argument("--listen", default="127.0.0.1:7402", help="where the enforcer will dial (plaintext)")
    enforcer.add_argument("--fresh", action="store_true", help="the enforcer begins without a plan")
    enforcer.add_argument("--only", default="", metavar="RULES", help="rules to check, with commas; all when left out")
    enforcer.add_argument("--interval", type=float, default=1.0, help="heartbeat interval in seconds: the kit's pace")
    enforcer.add_argument("--command", default="", help="starts the enforcer; it is ended at the end")
    controller = kinds.add_parser("controller", help="be the planner of a controller that changes overrides")
    controller.add_argument("--listen", default="127.0.0.1:7402", help="where the controller will dial (plaintext)")
    controller.add_argument("--seconds", type=float, default=60.0, help="how long to watch it at most")
    controller.add_argument("--faults", default="", metavar="NAMES", help=f"of {', '.join(FAULTS)}, with commas")
    controller.add_argument("--command", default="", help="starts the controller; the check ends when it does")
    parsed = parser.parse_args(arguments)
    verdicts = asyncio.run(_enforcer(parsed) if parsed.kind == "enforcer" else _controller(parsed))
    print("\n".join(verdicts.summary()))  # noqa: T201 - a command-line tool prints
    return 1 if verdicts.broken else 0


async def _enforcer(parsed: argparse.Namespace) -> Verdicts:
    verdicts = Verdicts()
    wanted = {rule for rule in parsed.only.split(",") if rule}
    host = parsed.listen.rpartition(":")[0]
    async with kit_planner(parsed.listen) as planner, kit_planner(f"{host}:0") as other, _running(parsed.command):
        print(f"waiting for an enforcer at {planner.address}", flush=True)  # noqa: T201 - a command-line tool prints
        bench = Bench(
            planner=planner,
            other=other,
            is_fresh=parsed.fresh,
            interval_seconds=parsed.interval,
            refusal_seconds=6 * parsed.interval,
        )
        for rule, fact, body in (*enforcer_checks.CHECKS, *stream_checks.CHECKS):
            if wanted and rule not in wanted:
                continue
            result, seen = Result.PASSED, ""
            try:
                await body(bench)
            except BrokenRuleError as error:
                result, seen = Result.BROKEN, str(error)
                bench.forget()
            except UnseenRuleError as error:
                result, seen = Result.UNSEEN, str(error)
            print(verdicts.add(rule, fact, result, seen), flush=True)  # noqa: T201 - a command-line tool prints
    return verdicts


async def _controller(parsed: argparse.Namespace) -> Verdicts:
    verdicts = Verdicts()
    api = ControlApi(fault for fault in parsed.faults.split(",") if fault)  # type: ignore[abstract]  # as it says itself
    async with serving(api, parsed.listen) as address, _running(parsed.command) as process:
        print(f"waiting for a controller at {address}", flush=True)  # noqa: T201 - a command-line tool prints
        try:
            async with asyncio.timeout(parsed.seconds):
                await (process.wait() if process is not None else asyncio.Event().wait())
        except TimeoutError:
            print(f"{parsed.seconds:.0f} s are over")  # noqa: T201 - a command-line tool prints
    for rule, fact, result, seen in judged(api.calls):
        print(verdicts.add(rule, fact, result, seen))  # noqa: T201 - a command-line tool prints
    return verdicts


@asynccontextmanager
async def _running(command: str) -> AsyncIterator[asyncio.subprocess.Process | None]:
    if not command:
        yield None
        return
    process = await asyncio.create_subprocess_exec(*shlex.split(command), stdout=sys.stderr)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
