# SPDX-License-Identifier: Apache-2.0
"""`diff`: what a node's kernel has against what it should have."""

from __future__ import annotations

from contextlib import AsyncExitStack

import click
from msgspec import structs

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_ctl import console
from pointsman_ctl.core.difference import COLUMNS, difference_data, verdict
from pointsman_ctl.core.table import render_table
from pointsman_ctl.errors import EXIT_FAILURE, EXIT_OK, PlannerError
from pointsman_ctl.output import Format, show_prose
from pointsman_ctl.planner import connect
from pointsman_ctl.run import Run, finish, with_output, with_run


@click.command()
@click.argument("node")
@with_output("text", "json", "yaml")
@with_run
def diff(run: Run, shown: Format, node: str) -> int:
    """Planned against programmed, and why they differ.

    A planner knows by digest whether a node's kernel has its plan, and of each service that it has not, whether the
    plan waits, is on its way, or was refused and with which words of the kernel. Ends with status 1 when something
    differs.
    """
    found = finish(_ask(run, node))
    text = list(verdict(found))
    if found.differences:
        text += render_table(found.differences, COLUMNS, heads=shown.heads, colours=console.has_colours())
    show_prose(difference_data(found), text, shown)
    return EXIT_OK if found.status.state == pb.NodeStatus.STATE_SYNCED else EXIT_FAILURE


async def _ask(run: Run, node: str) -> pb.GetNodeResponse:
    """The answer of the planner with the node's stream, if one of the context's planners is it; else any planner's."""
    request = pb.GetNodeRequest(node_name=node)
    async with run.planner() as planner:
        found = await planner.ask(planner.control.GetNode, request)
    is_settled = found.status.state in (pb.NodeStatus.STATE_SYNCED, pb.NodeStatus.STATE_DISCONNECTED)
    for address in run.context.servers:
        if found.has_stream or is_settled or address == planner.address:
            continue
        alone = structs.replace(run.context, servers=(address,))
        async with AsyncExitStack() as stack:
            try:
                other = await stack.enter_async_context(connect(alone, timeout_seconds=run.timeout_seconds))
                answer = await other.ask(other.control.GetNode, request)
            except PlannerError as error:
                console.note(f"warning: {error}")
                continue
            found = answer if answer.has_stream else found
    return found
