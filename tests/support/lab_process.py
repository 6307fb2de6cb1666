# SPDX-License-Identifier: Apache-2.0
"""Pointsman's processes in a lab, seen from a test: their figures, and how they are taken away and brought back."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, Literal

from pointsman_lab.errors import RemoteError
from pointsman_lab.nodes import are_synced, node_states
from pointsman_lab.supervise.services import METRICS_PORT, PLANNER_METRICS_PORT, WATCHER_METRICS_PORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pointsman_lab.cluster import Cluster

Manner = Literal["killed", "ended", "stopped"]
"""kill -9; SIGTERM; SIGSTOP, which closes no connection."""


async def wait_synced(cluster: Cluster, *, timeout_seconds: float = 30.0) -> None:
    """Wait until the planner has proof, by digest, that every node has everything.

    Raises:
        NotConvergedError: not in time.
    """

    async def are_all() -> bool:
        return are_synced(cluster, await node_states(cluster))

    await cluster.wait_until(are_all, "every node is synced", timeout_seconds=timeout_seconds)


async def enforcer_status(cluster: Cluster, node: str) -> dict[str, Any]:
    """What a node's enforcer says of itself."""
    found: dict[str, Any] = json.loads(
        await cluster.node_exec(node, "curl", "-sf", "--max-time", "5", f"http://127.0.0.1:{METRICS_PORT}/statusz")
    )
    return found


async def figure(cluster: Cluster, process: str, name: str, **labels: str) -> float:
    """The sum of a process's metric over all its series that carry the given labels; 0 when there is none."""
    ports = {"watcher": WATCHER_METRICS_PORT, "planner": PLANNER_METRICS_PORT}
    kind, _, rest = process.partition("-")
    place = rest if kind == "enforcer" else process
    url = f"http://{cluster.topology.address_of(place).ipv4}:{ports.get(kind, METRICS_PORT)}/metrics"
    text = await cluster.node_exec(place, "curl", "-sf", "--max-time", "5", url)
    total = 0.0
    for line in text.splitlines():
        matched = re.fullmatch(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)", line)
        if matched and all(f'{key}="{value}"' in (matched[1] or "") for key, value in labels.items()):
            total += float(matched[2])
    return total


async def wait_figure(cluster: Cluster, process: str, name: str, wanted: float, **labels: str) -> None:
    """Wait until a process that may just begin shows a metric of at least `wanted`."""

    async def is_there() -> bool:
        try:
            return await figure(cluster, process, name, **labels) >= wanted
        except RemoteError:
            return False

    await cluster.wait_until(is_there, f"{name} of {process} is {wanted}")


async def take_away(cluster: Cluster, process: str, manner: Manner) -> None:
    """Take a process away and wait until it is."""
    await cluster.signal(process, {"killed": "KILL", "ended": "TERM", "stopped": "STOP"}[manner], restart=False)
    wanted = "stopped" if manner == "stopped" else "ended"

    async def is_away() -> bool:
        return (await cluster.processes())[process].state == wanted

    await cluster.wait_until(is_away, f"{process} is {manner}")


async def bring_back(cluster: Cluster, process: str) -> None:
    """Bring back what `take_away` took, whichever way, and wait until it is ready; one that runs is left alone."""
    state = (await cluster.processes())[process].state
    if state == "stopped":
        await cluster.signal(process, "CONT")
        await cluster.wait_process_ready(process)
    elif state == "ended":
        await cluster.start_process(process)


@contextlib.asynccontextmanager
async def away(cluster: Cluster, process: str, manner: Manner = "killed") -> AsyncIterator[None]:
    """The process is away as long as the body runs."""
    await take_away(cluster, process, manner)
    try:
        yield
    finally:
        await bring_back(cluster, process)
