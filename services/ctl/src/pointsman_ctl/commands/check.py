# SPDX-License-Identifier: Apache-2.0
"""`check`: is everything as it should be, and what to do where it is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

import click

from pointsman_chassis.duration import Duration
from pointsman_ctl import console
from pointsman_ctl.checks.cluster_looks import cluster_looks
from pointsman_ctl.checks.look import Look, look
from pointsman_ctl.checks.machine_looks import machine_looks
from pointsman_ctl.checks.planner_looks import planner_looks
from pointsman_ctl.core.verdict import Outcome, Result, is_failure, junit, report, report_data, summary
from pointsman_ctl.errors import CtlError
from pointsman_ctl.files import write_text
from pointsman_ctl.output import Format, show_prose
from pointsman_ctl.run import Run, finish, with_output, with_run
from pointsman_ctl.types import DurationType

_AGAIN_SECONDS: Final = 2.0
_PARTS: Final = ("planners", "cluster", "node")


@click.command()
@click.option(
    "--pre", is_flag=True, help="Before an installation: can this cluster run Pointsman, and may I install it?"
)
@click.option("--local", is_flag=True, help="Also look at this machine as a node: kernel, tools, other proxies' rules.")
@click.option(
    "--skip", multiple=True, type=click.Choice(_PARTS), help="Leave out planners, cluster (kubectl), or node."
)
@click.option("--wait", type=DurationType(), default="0s", show_default=True, help="Try again so long while it fails.")
@click.option("--junit", "junit_file", metavar="FILE", default="", help="Also write a JUnit XML report.")
@with_output("text", "json", "yaml")
@with_run
def check(run: Run, shown: Format, pre: bool, local: bool, skip: tuple[str, ...], **options: Any) -> None:
    """Look for what is wrong, and say what to do.

    Planners, nodes, shards, Redis, certificates, clocks, rights, pods, and who else programs Services: one line for
    each check, and a hint where something is wrong. Ends with status 1 when a check failed; warnings do not count.
    `--pre --local` on a node looks at what an installation there needs.
    """
    looks = _looks(run, is_before=pre, is_local=local, skip=skip)
    if not looks:
        raise click.UsageError("nothing is left to check")
    results = finish(_until(looks, options["wait"]))
    if options["junit_file"]:
        write_text(options["junit_file"], junit("pointsmanctl check", results))
    show_prose(report_data(results), list(report(results, colours=console.has_colours())), shown)
    if is_failure(results):
        raise CtlError(f"{summary(results)}")


def _looks(run: Run, *, is_before: bool, is_local: bool, skip: tuple[str, ...]) -> list[Look]:
    looks: list[Look] = []
    if "planners" not in skip and not is_before:
        looks += planner_looks(run)
    if "cluster" not in skip:
        looks += cluster_looks(run, is_before=is_before)
    if "node" not in skip and is_local:
        looks += machine_looks(is_before=is_before)
    return looks


async def _until(looks: Iterable[Look], patience: Duration) -> list[Result]:
    """The results of the last round: the first in which nothing fails, or the one after which the time is over."""
    deadline = time.monotonic() + patience
    while True:
        console.progress("checking ...")
        rounds = await asyncio.gather(*(look(each) for each in looks))
        console.progress("")
        results = _ordered([result for each in rounds for result in each])
        failures = sum(result.outcome is Outcome.FAILED for result in results)
        if not failures or time.monotonic() + _AGAIN_SECONDS > deadline:
            return results
        console.progress(f"{failures} checks fail; trying again ...")
        await asyncio.sleep(_AGAIN_SECONDS)


def _ordered(results: list[Result]) -> list[Result]:
    """Categories together, in the order of their first results."""
    categories = list(dict.fromkeys(result.category for result in results))
    return sorted(results, key=lambda result: categories.index(result.category))
