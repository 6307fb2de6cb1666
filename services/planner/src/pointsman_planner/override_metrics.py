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
