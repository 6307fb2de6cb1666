# SPDX-License-Identifier: Apache-2.0
"""The figures of session affinity between nodes, made once at the composition root."""

from __future__ import annotations

from pointsman_chassis.metrics import Registry


class AffinityMetrics:
    """Figures of remembered clients; names begin with `pointsman_planner_affinity_`."""

    def __init__(self, registry: Registry) -> None:
        prefix = "pointsman_planner_affinity"
        self.exceptions = registry.gauge(
            f"{prefix}_exceptions", "Clients that nodes share, as this planner knows them."
        )
        self.reported = registry.counter(
            f"{prefix}_reported_total",
            "Clients that nodes here reported, by what was made of it: taken, known, other (another node's word was "
            "first), unusable (the endpoint is none of the service), full.",
            ["outcome"],
        )
        self.seeded = registry.counter(f"{prefix}_seeded_total", "Clients that nodes here were told of.")
        self.removed = registry.counter(
            f"{prefix}_removed_total", "Clients that were forgotten because their endpoint left the service."
        )
        self.evicted = registry.counter(
            f"{prefix}_evicted_total", "Clients that made room for others, by what was full: service, store.", ["bound"]
        )
        self.shared_after = registry.histogram(
            f"{prefix}_store_duration_seconds", "From a node's report until the store has it."
        )
