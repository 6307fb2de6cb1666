# SPDX-License-Identifier: Apache-2.0
"""The figures of overrides, made once at the composition root."""

from __future__ import annotations

from pointsman_chassis.metrics import Registry


class OverrideMetrics:
    """Figures of overrides; names begin with `pointsman_planner_overrides`."""

    def __init__(self, registry: Registry) -> None:
        prefix = "pointsman_planner_overrides"
        self.active = registry.gauge(prefix, "Overrides in force.", ["kind"])
        self.changes = registry.counter(
            f"{prefix}_changes_total", "Calls that changed an override here.", ["verb", "kind"]
        )
        self.refused = registry.counter(
            f"{prefix}_refused_total",
            "Calls that would have changed an override and were refused: invalid, conflict, absent, unavailable.",
            ["reason"],
        )
        self.ended = registry.counter(
            f"{prefix}_ended_total", "Overrides that are gone: deleted, expired, lost.", ["reason"]
        )


class ShardingMetrics:
    """Figures of who serves which node, and of nodes that come or go."""

    def __init__(self, registry: Registry) -> None:
        prefix = "pointsman_planner"
        self.members = registry.gauge(
            f"{prefix}_members", "Planners that serve, this one included, as this one sees it."
        )
        self.membership_frozen = registry.gauge(
            f"{prefix}_membership_frozen", "1 while nobody can know who joins or leaves, because the store is away."
        )
        self.redirects = registry.counter(
            f"{prefix}_redirects_total", "Enforcers sent elsewhere: not-owner, draining, overloaded.", ["reason"]
        )
        self.moves_pending = registry.gauge(
            f"{prefix}_moves_pending", "Connected nodes that belong to another planner and will be sent there."
        )
        self.syncing = registry.gauge(f"{prefix}_syncing_nodes", "Nodes that are brought up to date now.")
        self.sync_queue = registry.gauge(
            f"{prefix}_waiting_nodes", "Nodes that wait for that; they keep what they have."
        )
