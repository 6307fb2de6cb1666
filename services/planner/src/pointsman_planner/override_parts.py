# SPDX-License-Identifier: Apache-2.0
"""Overrides as the composition root sees them: one object that is given the planner and the store, and run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pointsman.control.v1 import override_service_pb2_grpc
from pointsman_chassis.clock import Clock
from pointsman_chassis.metrics import Registry
from pointsman_chassis.server import GrpcServer
from pointsman_planner.api import override_service
from pointsman_planner.api.override_desk import OverrideDesk
from pointsman_planner.api.override_service import OverrideService
from pointsman_planner.core.override import OverrideChange
from pointsman_planner.core.planner import Planner
from pointsman_planner.feed.override_feed import OverrideFeed
from pointsman_planner.feed.override_file import OverrideFile
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.override_metrics import OverrideMetrics
from pointsman_planner.store.override_store import OverrideStore
from pointsman_planner.store.port import Store
from pointsman_planner.store.replicas import Replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideOptions:
    """How overrides outlive the store and this process."""

    is_restored: bool = True
    """A store that lost its state is given back what planners hold; otherwise they forget it too."""
    state_file: str = ""
    """Where this planner keeps them for its next start; empty = nowhere."""


class OverrideParts:
    """Repository, feed, file and API of overrides."""

    def __init__(
        self,
        *,
        planner: Planner,
        on_change: Callable[[Sequence[OverrideChange]], object],
        store: Store,
        replicas: Replicas,
        registry: Registry,
        store_metrics: StoreMetrics,
        clock: Clock,
        options: OverrideOptions,
    ) -> None:
        """`on_change` is `PlanService.override`."""
        metrics = OverrideMetrics(registry)
        self._file = OverrideFile(options.state_file) if options.state_file else None
        self.feed = OverrideFeed(
            clock=clock,
            on_change=on_change,
            metrics=metrics,
            epoch=lambda: self.records.head.epoch,
            on_taken=self._file.mark if self._file is not None else None,
        )
        self.records = OverrideStore(
            store=store,
            replicas=replicas,
            metrics=store_metrics,
            on_change=self.feed.take,
            is_restored=options.is_restored,
        )
        self.desk = OverrideDesk(planner=planner, feed=self.feed, records=self.records, metrics=metrics, clock=clock)
        if self._file is not None:
            self.records.seed(*self._file.read(clock))

    def serve(self, server: GrpcServer) -> None:
        """Add the API to a server that is not started yet."""
        override_service_pb2_grpc.add_OverrideServiceServicer_to_server(OverrideService(self.desk), server.server)
        server.declare(override_service.SERVICE)

    async def run(self) -> None:
        """Keep the file, if there is one, for ever."""
        if self._file is None:
            await asyncio.Event().wait()
        else:
            await self._file.keep(lambda: (self.records.head, tuple(self.records.held.values())))
