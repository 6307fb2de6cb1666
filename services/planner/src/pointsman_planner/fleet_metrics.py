# SPDX-License-Identifier: Apache-2.0
"""How the fleet stands, read when Prometheus asks: nodes by state, and the few that are behind for longest.

One series for each node would be thousands, most of which say that nothing is wrong; `pointsmanctl status` lists them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman_chassis.clock import Clock
from pointsman_planner.core.standing import Standings
from pointsman_planner.core.status import NodeState

NODES_SHOWN_MAX: Final = 10
_STATES: Final = (NodeState.SYNCED, NodeState.STALE, NodeState.NACKED, NodeState.UNRESPONSIVE)
"""Of nodes that this planner serves; who is disconnected is nobody's."""


class FleetCollector(Collector):
    """Computes the figures of the nodes that this planner serves."""

    def __init__(self, standings: Standings, clock: Clock) -> None:
        self._standings = standings
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """The number of nodes in each state; for how long the worst few have not been synced."""
        counts = self._standings.counts()
        states = GaugeMetricFamily(
            "pointsman_planner_connected_nodes",
            "Nodes that this planner serves, by state: synced, stale, nacked, unresponsive.",
            labels=["state"],
        )
        for state in _STATES:
            states.add_metric([state.name.lower()], counts[state])
        yield states
        behind = GaugeMetricFamily(
            "pointsman_planner_node_behind_seconds",
            f"For how long a node has not been synced; the {NODES_SHOWN_MAX} longest only.",
            labels=["node", "state"],
        )
        now_ns = self._clock.wall_ns()
        for node, state, since_ns in self._standings.longest_behind(NODES_SHOWN_MAX):
            behind.add_metric([node, state.name.lower()], max(now_ns - since_ns, 0) / 1e9)
        yield behind
