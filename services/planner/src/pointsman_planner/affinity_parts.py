# SPDX-License-Identifier: Apache-2.0
"""Session affinity between nodes as the composition root sees it: one object that is given the store, and run."""

from __future__ import annotations

import asyncio

from pointsman_chassis.clock import Clock
from pointsman_chassis.metrics import Registry
from pointsman_planner.affinity_metrics import AffinityMetrics
from pointsman_planner.api.affinity_desk import AffinityDesk
from pointsman_planner.api.plan_service import PlanService
from pointsman_planner.core.planner import Planner
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.store.affinity_store import AffinityStore
from pointsman_planner.store.port import Store
from pointsman_planner.store.replicas import Replicas


class AffinityParts:
    """Repository and desk, tied to the streams of a PlanService."""

    def __init__(
        self,
        *,
        planner: Planner,
        plans: PlanService,
        store: Store,
        replicas: Replicas,
        registry: Registry,
        store_metrics: StoreMetrics,
        clock: Clock,
    ) -> None:
        metrics = AffinityMetrics(registry)
        self._desk = AffinityDesk(planner=planner, streams=plans, metrics=metrics, clock=clock)
        self.records = self._desk.records = AffinityStore(
            store=store,
            replicas=replicas,
            metrics=metrics,
            store_metrics=store_metrics,
            clock=clock,
            is_usable=self._desk.is_usable,
            on_change=self._desk.changed,
        )
        plans.on_affinity = self._desk.reported
        plans.on_services = self._desk.services_changed

    async def run(self) -> None:
        """Share, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.records.run())
            tasks.create_task(self._desk.run())
