# SPDX-License-Identifier: Apache-2.0
"""`connectivity-test`: real connections to Services' frontends, compared with what the plan says of them."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
import grpc
import msgspec

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.types.v1.types_pb2 import Protocol
from pointsman_chassis.duration import Duration
from pointsman_ctl import console, probe
from pointsman_ctl.commands.plan import chosen_services
from pointsman_ctl.core.connectivity import Attempt, Target, judge, targets
from pointsman_ctl.core.plan_view import service_text
from pointsman_ctl.core.verdict import Result, failed, is_failure, junit, report, report_data, summary
from pointsman_ctl.core.words import address
from pointsman_ctl.errors import CtlError, PlannerError, ToolError, UsageError
from pointsman_ctl.files import write_text
from pointsman_ctl.output import Format, show_prose
from pointsman_ctl.planner import Planner
from pointsman_ctl.run import Run, finish, with_output, with_run
from pointsman_ctl.types import DurationType

_SERVICES_MAX: Final = 100
_EXTRA_SECONDS: Final = 30.0
_Answers = list[list[tuple[str, float, str, str]]]


@click.command("connectivity-test")
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@click.option(
    "--node", default="", envvar="NODE_NAME", help="The node that handles the packets; without it, this host."
)
@click.option(
    "--from",
    "place",
    metavar="COMMAND",
    default="",
    help="Connect from another place: what runs a command there, such as `kubectl -n shop exec web-1 --`. "
    "It needs python3 there.",
)
@click.option("--attempts", type=click.IntRange(1, 100), default=3, show_default=True, help="Connections to each.")
@click.option("--timeout", type=DurationType(), default="1s", show_default=True, help="How long each may take.")
@click.option("--junit", "junit_file", metavar="FILE", default="", help="Also write a JUnit XML report.")
@with_output("text", "json", "yaml")
@with_run
def connectivity_test(run: Run, shown: Format, services: tuple[str, ...], node: str, **options: Any) -> None:
    """Open real connections, and compare how they end with the plan.

    To every frontend of the Services named, from a place that the packets of NODE come from.
    Run it on a node, in a pod of it, or with `--from` anywhere. Forwarded must connect, rejected must be refused,
    dropped must stay silent. Without SERVICE, the first 100 of the node's plan. Nothing is created in the cluster, and
    nothing but the connection itself is asked of the applications.

    \b
    pointsmanctl connectivity-test shop/frontend --node node-1 --junit report.xml
    pointsmanctl connectivity-test --node node-1 --from "kubectl -n shop exec deploy/frontend --"
    """
    place = shlex.split(options["place"])
    node = node or socket.gethostname().lower()
    results = finish(_test(run, node, services, place, options["attempts"], options["timeout"]))
    if options["junit_file"]:
        write_text(options["junit_file"], junit("pointsmanctl connectivity-test", results))
    show_prose(report_data(results), list(report(results, colours=console.has_colours())), shown)
    if is_failure(results):
        raise CtlError(summary(results))


async def _test(
    run: Run, node: str, services: tuple[str, ...], place: Sequence[str], attempts: int, timeout_seconds: Duration
) -> list[Result]:
    wanted = chosen_services(services)
    async with run.planner() as planner:
        plan = await _plan(planner, node)
        missing = wanted - {service_text(each) for each in plan.services}
        if missing:
            raise UsageError(f"the plan of {node} has no {', '.join(sorted(missing))}")
        chosen = [each for each in plan.services if not wanted or service_text(each) in wanted]
        tried = [target for each in chosen[:_SERVICES_MAX] for target in targets(each, plan.node)]
        if not tried:
            raise CtlError("there is no frontend to connect to")
        console.progress(f"connecting to {len(tried)} frontends ...")
        sources = await asyncio.to_thread(_connect, place, tried, 0, timeout_seconds)
        explained = await asyncio.gather(
            *(_explain(planner, node, target, found[0][3]) for target, found in zip(tried, sources, strict=True))
        )
        answers = await asyncio.to_thread(_connect, place, tried, attempts, timeout_seconds)
        console.progress("")
    return [
        _result(target, answer, found, bool(source[0][3]))
        for target, answer, found, source in zip(tried, explained, answers, sources, strict=True)
    ]


async def _plan(planner: Planner, node: str) -> pb.GetNodePlanResponse:
    try:
        return await planner.node_plan(node)
    except PlannerError as error:
        if error.status not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
            raise
        hint = "run this on a node; or give --node, and --from with what runs a command there"
        raise UsageError(f"{node!r} is no node of this cluster\n  hint: {hint}") from error


def _result(
    target: Target,
    answer: pb.ExplainPacketResponse | str,
    found: Sequence[tuple[str, float, str, str]],
    is_routed: bool,
) -> Result:
    if isinstance(answer, str):
        return failed(target.service, target.text, f"the planner cannot say: {answer}", "ask again once it is in sync")
    seen = [Attempt(outcome=o, milliseconds=ms, detail=detail, source=source) for o, ms, detail, source in found]
    result = judge(target, answer, seen if is_routed else [])
    return replace(result, seconds=sum(each.milliseconds for each in seen) / 1000)


async def _explain(planner: Planner, node: str, target: Target, source: str) -> pb.ExplainPacketResponse | str:
    if not source:
        return pb.ExplainPacketResponse()
    request = pb.ExplainPacketRequest(
        node_name=node,
        source_address=address(source),
        destination_address=address(target.address),
        destination_port=target.port,
        protocol=Protocol.Value(f"PROTOCOL_{target.protocol}"),
    )
    try:
        return await planner.ask(planner.control.ExplainPacket, request)
    except PlannerError as error:
        return str(error)


def _connect(place: Sequence[str], tried: Sequence[Target], attempts: int, timeout_seconds: float) -> _Answers:
    """Connect from the place; from here when none is named. With no attempts, only what the source address would be."""
    request = msgspec.json.encode(
        {
            "targets": [[target.address, target.port, target.protocol] for target in tried],
            "attempts": attempts,
            "timeout": float(timeout_seconds),
        }
    )
    python = [sys.executable] if not place else [*place, "python3"]
    argv = [*python, "-c", Path(probe.__file__).read_text(encoding="utf-8")]
    longest = len(tried) * attempts * timeout_seconds + _EXTRA_SECONDS
    started = time.monotonic()
    try:
        done = subprocess.run(
            argv, input=request, capture_output=True, check=False, timeout=longest, env=os.environ.copy()
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-500:]
            raise ToolError(
                f"`{shlex.join([*place, 'python3'])}` ended with {done.returncode}: {said or 'it said nothing'}"
            )
        return msgspec.json.decode(done.stdout, type=_Answers)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"the connections were not done after {time.monotonic() - started:.0f} s") from error
    except (FileNotFoundError, PermissionError) as error:
        raise UsageError(f"--from: {argv[0]} cannot be run: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ToolError(f"`{shlex.join(place)}` printed something else than the answers: {error}") from error
