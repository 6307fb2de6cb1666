# SPDX-License-Identifier: Apache-2.0
"""`status`: how far each node has come, once or as it changes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final

import click
import grpc

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_ctl import console
from pointsman_ctl.core import node_view
from pointsman_ctl.errors import CtlError, PlannerError
from pointsman_ctl.output import Format, View, lines, show
from pointsman_ctl.planner import Planner, messages
from pointsman_ctl.run import Run, finish, with_output, with_run

_REDRAW_SECONDS_MIN: Final = 0.2
_AGAIN_SECONDS: Final = (0.5, 2.0)


@click.command()
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@click.option("-l", "--selector", default="", help="Only nodes with these labels, as in kubectl.")
@click.option("-w", "--watch", is_flag=True, help="Go on showing changes until interrupted.")
@with_output()
@with_run
def status(run: Run, shown: Format, nodes: tuple[str, ...], selector: str, watch: bool) -> None:
    """How far each node has come.

    SHARD is the planner that serves the node. SENT, ACKED and APPLIED are revisions of that planner: the last one sent,
    the last one that the node holds, the last one in its kernel. They stand still while changes do not concern a node:
    STATE is decided by digests. AGE is since when the node is in its state; REASON says why it is not Synced.

    A NODE that the planner does not know is an error (status 1).

    \b
    Synced        the kernel has what the planner wants, by digest
    Stale         something is under way
    Nacked        the node refused Services, each with the kernel's reason
    Unresponsive  connected, but silent or not acknowledging
    Disconnected  no enforcer of this node is connected to any planner
    """
    wanted = pb.NodeSelector(names=nodes, label_selector=selector) if nodes or selector else None
    finish(_watch(run, shown, wanted) if watch else _once(run, shown, wanted))


def view_of(nodes: Iterable[pb.NodeStatus]) -> View[pb.NodeStatus]:
    """Nodes in every form."""
    return View(
        rows=list(nodes),
        columns=node_view.columns(time.time()),
        name=lambda node: f"node/{node.name}",
        data=node_view.node_data,
        none="no nodes: the planner knows none, or none has these names and labels",
    )


async def _once(run: Run, shown: Format, wanted: pb.NodeSelector | None) -> None:
    async with run.planner() as planner:
        found = await planner.nodes(wanted)
    show(view_of(found), shown)
    unknown = sorted(set(wanted.names if wanted else ()) - {node.name for node in found})
    if unknown:
        hint = "`pointsmanctl status -o name` lists the nodes; -l leaves out those without the labels"
        raise CtlError(f"no such node: {', '.join(unknown)}\n  hint: {hint}")


async def _watch(run: Run, shown: Format, wanted: pb.NodeSelector | None) -> None:
    """Follow the nodes; a stream that ends is opened anew, at the next planner that answers."""
    board = _Board(shown)
    token = ""
    while True:
        async with run.planner() as planner:
            try:
                async for message in _changes(planner, wanted, token):
                    token = board.take(message) or token
            except PlannerError as error:
                if error.status not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                    raise
                console.note(f"{error}\nopening the watch anew ...")
                await asyncio.sleep(random.uniform(*_AGAIN_SECONDS))  # noqa: S311 - jitter, no secret


async def _changes(
    planner: Planner, wanted: pb.NodeSelector | None, token: str
) -> AsyncIterator[pb.WatchNodesResponse]:
    request = pb.WatchNodesRequest(nodes=wanted, resume_token=token)
    async for message in messages(planner.address, planner.control.WatchNodes(request)):
        yield message


class _Board:
    """What is shown of a watch: a page that is drawn anew on a terminal, one line for each change elsewhere."""

    def __init__(self, shown: Format) -> None:
        self._shown = shown
        self._is_page = console.is_terminal() and not shown.is_data and shown.name != "name"
        self._nodes: dict[str, pb.NodeStatus] = {}
        self._is_synced = False
        self._named: set[str] = set()
        self._are_heads_due = shown.heads
        self._drawn = 0.0

    def take(self, message: pb.WatchNodesResponse) -> str:
        """Take a message in; the resume token that came with it, or nothing."""
        match message.WhichOneof("message"):
            case "opened":
                self._is_synced = message.opened.start == pb.WatchOpened.START_RESUME
                self._named = set()
            case "changes":
                self._take_changes(message.changes)
                return message.changes.resume_token
            case "synced":
                if not self._is_synced:
                    self._nodes = {name: node for name, node in self._nodes.items() if name in self._named}
                self._is_synced = True
                self._draw()
                return message.synced.resume_token
            case "heartbeat":
                self._draw()
                return message.heartbeat.resume_token
        return ""

    def _take_changes(self, changes: pb.NodeChanges) -> None:
        self._nodes.update((node.name, node) for node in changes.nodes)
        self._named.update(node.name for node in changes.nodes)
        for name in changes.removals:
            self._nodes.pop(name, None)
        if not self._is_page:
            self._append(changes)
        elif self._is_synced and time.monotonic() - self._drawn >= _REDRAW_SECONDS_MIN:
            self._draw()

    def _append(self, changes: pb.NodeChanges) -> None:
        if changes.nodes:
            form = Format(name=self._shown.name, heads=self._are_heads_due)
            console.say(lines(view_of(changes.nodes), form))
            self._are_heads_due = False
        for name in changes.removals:
            console.note(f"node {name} is gone")

    def _draw(self) -> None:
        if self._is_page:
            self._drawn = time.monotonic()
            ordered = [self._nodes[name] for name in sorted(self._nodes)]
            console.redraw([node_view.summary(ordered), "", *lines(view_of(ordered), self._shown)])
