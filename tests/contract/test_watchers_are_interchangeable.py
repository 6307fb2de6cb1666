# SPDX-License-Identifier: Apache-2.0
"""Two real watchers of one API server and a planner that changes between them, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pointsman_chassis.backoff import Backoff
from pointsman_chassis.clock import SystemClock
from pointsman_chassis.duration import Duration
from pointsman_chassis.metrics import Registry
from pointsman_chassis.server import GrpcServer
from pointsman_chassis.tls import TransportSecurity
from pointsman_chassis.tracing import Tracing
from pointsman_planner.core.feed_state import GuardSettings, MassDeleteGuard
from pointsman_planner.core.freshness import FreshnessSettings
from pointsman_planner.core.planner import Applied, Batch, Planner
from pointsman_planner.feed.cluster_feed import ClusterFeed as PlannerFeed
from pointsman_planner.metrics import PlannerMetrics
from pointsman_watcher.api.cluster_service import SERVICE_NAME, ClusterService
from pointsman_watcher.core.decode import Observed, Rejected, decode_event, decode_page
from pointsman_watcher.core.object_store import ObjectStore
from pointsman_watcher.core.resources import RESOURCES, SERVICES
from pointsman_watcher.feed import ClusterFeed
from pointsman_watcher.metrics import WatcherMetrics
from pointsman_watcher.settings import StreamSettings
from support.cluster_objects import Json, event, list_json, service_json
from support.plan_server import eventually

PLAIN = TransportSecurity(insecure=True)


class Watcher:
    """A watcher without its API server: the test says what comes from there, and how far that goes."""

    def __init__(self, epoch: str) -> None:
        metrics = WatcherMetrics(Registry(process=False))
        store = ObjectStore(epoch=epoch, log_entries_max=1000)
        self.feed = ClusterFeed(store=store, tracing=Tracing(), metrics=metrics, clock=SystemClock())
        self.server = GrpcServer(address="127.0.0.1:0", security=PLAIN)
        settings = StreamSettings(heartbeat_interval=Duration(0.1))
        service = ClusterService(self.feed, settings=settings, metrics=metrics, clock=SystemClock())
        self.server.add_raw_service(SERVICE_NAME, service.methods())
        self.port = 0

    def list(self, version: int, *services: Json) -> None:
        """Complete lists of everything; only Services are there."""
        for resource in RESOURCES:
            items = decode_page(resource, list_json(list(services) if resource is SERVICES else [])).items
            self.feed.replace(resource, items, 1, str(version))

    def watch(self, version: int, *lines: bytes) -> None:
        """Events of Services, or a bookmark when there are none."""
        items = [decode_event(SERVICES, line) for line in lines]
        self.feed.observe(SERVICES, [item for item in items if isinstance(item, Observed | Rejected)], 1, str(version))

    async def stop(self) -> None:
        self.feed.close()
        await self.server.stop(grace_seconds=0)


class Follower:
    """A planner that follows, and each change it took in."""

    def __init__(self, addresses: list[str]) -> None:
        self.planner = Planner()
        self.applied: list[Applied] = []
        self.registry = Registry(process=False)
        self.feed = PlannerFeed(
            addresses=addresses,
            client_id="p",
            security=PLAIN,
            planner=self.planner,
            guard=MassDeleteGuard(GuardSettings()),
            on_batch=self._take,
            metrics=PlannerMetrics(self.registry),
            freshness=FreshnessSettings(hold_seconds=60.0, patience_seconds=30.0),
            backoff=Backoff(initial_seconds=0.01, maximum_seconds=0.05),
        )

    def _take(self, batch: Batch) -> None:
        self.applied.append(self.planner.apply(batch))

    @property
    def changed(self) -> int:
        return sum(applied.services for applied in self.applied)

    def is_at(self, epoch: str) -> bool:
        return self.planner.position.epoch == epoch


@asynccontextmanager
async def world() -> AsyncIterator[tuple[Watcher, Watcher, Follower]]:
    first, second = Watcher("one"), Watcher("two")
    for watcher in (first, second):
        watcher.port = await watcher.server.start()
    follower = Follower([f"127.0.0.1:{watcher.port}" for watcher in (first, second)])
    task = asyncio.create_task(follower.feed.run())
    try:
        yield first, second, follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for watcher in (first, second):
            await watcher.stop()


def web(version: int, last: int = 1) -> Json:
    return service_json("shop/web", f"10.96.0.{last}", resource_version=version)


async def test_a_quiet_cluster_costs_nothing_though_bookmarks_differ() -> None:
    async with world() as (first, second, follower):
        for watcher in (first, second):
            watcher.list(10, web(7))
        await eventually(lambda: follower.is_at("one"), "the first")
        first.watch(500)
        await eventually(lambda: follower.planner.position.resource_versions.services == 500, "a bookmark of the first")
        await first.stop()
        await eventually(lambda: follower.is_at("two"), "the second")
        assert follower.changed == 1
        assert follower.planner.position.resource_versions.services == 10


async def test_a_change_that_the_second_has_not_read_yet_is_not_undone() -> None:
    async with world() as (first, second, follower):
        for watcher in (first, second):
            watcher.list(10, web(7))
        await eventually(lambda: follower.is_at("one"), "the first")
        first.watch(20, event("MODIFIED", web(20, 2)), event("ADDED", service_json("shop/new", resource_version=19)))
        await eventually(lambda: len(follower.planner.cluster.services) == 2, "the changes")
        await first.stop()
        holding: Any = "pointsman_planner_feed_older_holding"
        await eventually(lambda: follower.registry.value(holding) == 1, "the second is found to be older")
        assert follower.is_at("one")
        second.watch(19, event("ADDED", service_json("shop/new", resource_version=19)))
        second.watch(20, event("MODIFIED", web(20, 2)))
        await eventually(lambda: follower.is_at("two"), "it has caught up")
        assert follower.changed == 3, "1 at first, 2 that changed, none since"
        second.watch(21, event("DELETED", service_json("shop/new", resource_version=21)))
        await eventually(lambda: len(follower.planner.cluster.services) == 1, "and it is followed")
