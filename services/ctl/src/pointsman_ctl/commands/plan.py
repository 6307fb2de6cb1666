# SPDX-License-Identifier: Apache-2.0
"""`plan`: what a node is to do, service by service."""

from __future__ import annotations

import click

from pointsman_ctl.core.plain import plain
from pointsman_ctl.core.plan_view import PLAN_COLUMNS, plan_data, service_text
from pointsman_ctl.core.words import service_name
from pointsman_ctl.errors import UsageError
from pointsman_ctl.output import Format, View, show
from pointsman_ctl.run import Run, finish, with_output, with_run


@click.command()
@click.argument("node")
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@with_output()
@with_run
def plan(run: Run, shown: Format, node: str, services: tuple[str, ...]) -> None:
    """The plan of a node, service by service.

    Every Service, or those named, with ports, frontends and endpoints as this node gets them.
    `-o yaml` shows all of it: each frontend, what happens to whom, each endpoint with its weight.
    """
    finish(_plan(run, shown, node, services))


def chosen_services(services: tuple[str, ...]) -> frozenset[str]:
    """`namespace/name` of the Services that were named.

    Raises:
        UsageError: one is no name of a Service.
    """
    try:
        return frozenset(str(plain(service_name(service, ""))) for service in services)
    except ValueError as error:
        raise UsageError(str(error)) from error


async def _plan(run: Run, shown: Format, node: str, services: tuple[str, ...]) -> None:
    wanted = chosen_services(services)
    async with run.planner() as planner:
        whole = await planner.node_plan(node)
    about = {"node": plain(whole.node), "digest": f"{whole.digest:016x}", "position": plain(whole.position)}
    view = View(
        rows=[each for each in whole.services if not wanted or service_text(each) in wanted],
        columns=PLAN_COLUMNS,
        name=lambda each: f"svc/{service_text(each)}",
        data=plan_data,
        about=about,
        none=f"the plan of {node} has no such Service",
    )
    show(view, shown)
