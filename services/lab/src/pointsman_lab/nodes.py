# SPDX-License-Identifier: Apache-2.0
"""How far each node has come, as the planners of a lab say; any of them is asked about all nodes."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from pointsman_lab.errors import RemoteError

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster

NodeState = dict[str, Any]
_CONVERGED_SECONDS = 15.0
_AWAY = "disconnected"


async def node_states(cluster: Cluster) -> list[NodeState]:
    """Each node once, by name, as the planner says that is least content with it; empty when no planner answers."""
    worst: dict[str, NodeState] = {}
    async for state in _all_states(cluster):
        known = worst.get(state["name"])
        if known is None or is_synced(known):
            worst[state["name"]] = state
    return [worst[name] for name in sorted(worst)]


async def planner_of(cluster: Cluster, node: str) -> str:
    """The planner that has a node's stream, empty when none says so."""
    async for state in _all_states(cluster):
        if state["name"] == node and state["state"] != _AWAY:
            return str(state["planner"])
    return ""


async def wait_synced(cluster: Cluster, *, timeout_seconds: float = _CONVERGED_SECONDS) -> list[NodeState]:
    """Wait, but not for ever, until every node is synced; what the planners said last."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        states = await node_states(cluster)
        if are_synced(cluster, states) or time.monotonic() > deadline:
            return states


def is_synced(state: NodeState) -> bool:
    """Whether a planner has proof, by digest, that the node's kernel has its plan."""
    return state["state"] == "synced" and bool(state["digests_equal"])


def are_synced(cluster: Cluster, states: list[NodeState]) -> bool:
    """Whether every node of the lab is named and synced."""
    return {state["name"] for state in states if is_synced(state)} == {node.name for node in cluster.nodes}


async def _all_states(cluster: Cluster) -> AsyncIterator[NodeState]:
    """What each planner that answers says of each node."""
    for planner in cluster.topology.planners:
        try:
            lines = await cluster.ask_planner("nodes", planner=planner.name)
        except RemoteError:  # it begins, or is away
            continue
        for line in lines:
            yield json.loads(line)
