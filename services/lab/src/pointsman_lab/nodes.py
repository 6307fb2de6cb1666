# SPDX-License-Identifier: Apache-2.0
"""How far each node has come, as the planners of a lab say."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from pointsman_lab.errors import RemoteError

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster

NodeState = dict[str, Any]
_CONVERGED_SECONDS = 15.0


async def node_states(cluster: Cluster) -> list[NodeState]:
    """Each node once, by name, from the planner that knows most of it; empty when no planner answers."""
    best: dict[str, NodeState] = {}
    for planner in cluster.topology.planners:
        try:
            lines = await cluster.ask_planner("nodes", planner=planner.name)
        except RemoteError:  # it begins, or is away
            continue
        for state in map(json.loads, lines):
            state["planner"] = state["planner"] or planner.name
            known = best.get(state["name"])
            if known is None or is_synced(state) or (known["state"] == "disconnected" and not is_synced(known)):
                best[state["name"]] = state
    return [best[name] for name in sorted(best)]


async def planner_of(cluster: Cluster, node: str) -> str:
    """The planner that has a node's stream, empty when none has."""
    return next((str(state["planner"]) for state in await node_states(cluster) if state["name"] == node), "")


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
