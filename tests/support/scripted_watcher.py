# SPDX-License-Identifier: Apache-2.0
"""Watchers on loopback that play what a test lays down, and a planner that follows them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman.cluster.v1 import cluster_service_pb2_grpc as pb_grpc
from pointsman_chassis.backoff import Backoff
from pointsman_chassis.metrics import Registry
from pointsman_chassis.tls import TransportSecurity
from pointsman_model.cluster import Change, ClusterObject, ClusterPosition, ResourceVersions, key_of
from pointsman_model.wire.cluster import change_to_pb
from pointsman_model.wire.positions import resource_versions_to_pb
from pointsman_planner.core.feed_state import GuardSettings, MassDeleteGuard
from pointsman_planner.core.freshness import FreshnessSettings
from pointsman_planner.core.planner import Applied, Batch, Planner
from pointsman_planner.feed.cluster_feed import ClusterFeed
from pointsman_planner.metrics import PlannerMetrics

UNKNOWN = ResourceVersions()


def whole(
    epoch: str, revision: int, *objects: tuple[ClusterObject, int], versions: ResourceVersions
) -> list[pb.WatchClusterResponse]:
    """A whole snapshot of objects with their resource versions, read up to `versions`."""
    return [opened(epoch, revision), versioned(revision, *objects, versions=versions), in_sync(revision, versions)]


def versioned(
    revision: int, *objects: tuple[ClusterObject, int], versions: ResourceVersions
) -> pb.WatchClusterResponse:
    """A complete delta of objects with their resource versions, read up to `versions`."""
    changes = [change_to_pb(Change(key=key_of(value), value=value, resource_version=str(at))) for value, at in objects]
    read = resource_versions_to_pb(versions)
    return pb.WatchClusterResponse(
        delta=pb.Delta(revision=revision, changes=changes, complete=True, resource_versions=read)
    )


def delta(revision: int, *objects: ClusterObject, complete: bool = True) -> pb.WatchClusterResponse:
    """Objects that are new or changed."""
    changes = [change_to_pb(Change(key=key_of(value), value=value)) for value in objects]
    return pb.WatchClusterResponse(delta=pb.Delta(revision=revision, changes=changes, complete=complete))


def opened(epoch: str, revision: int, *, resume: bool = False, heartbeat_ms: int = 5000) -> pb.WatchClusterResponse:
    """The first message of a stream."""
    start = pb.Opened.START_RESUME if resume else pb.Opened.START_SNAPSHOT
    return pb.WatchClusterResponse(
        opened=pb.Opened(epoch=epoch, revision=revision, start=start, heartbeat_interval_ms=heartbeat_ms)
    )


def in_sync(revision: int, versions: ResourceVersions = UNKNOWN) -> pb.WatchClusterResponse:
    """The end of the snapshot."""
    read = resource_versions_to_pb(versions)
    return pb.WatchClusterResponse(in_sync=pb.InSync(revision=revision, resource_versions=read))


def heartbeat(revision: int, versions: ResourceVersions) -> pb.WatchClusterResponse:
    """Proof of life, with what was read."""
    read = resource_versions_to_pb(versions)
    return pb.WatchClusterResponse(heartbeat=pb.Heartbeat(revision=revision, resource_versions=read))


def snapshot(epoch: str, revision: int, *objects: ClusterObject) -> list[pb.WatchClusterResponse]:
    """A whole snapshot of objects without versions."""
    return [opened(epoch, revision), delta(revision, *objects), in_sync(revision)]


class Watcher(pb_grpc.ClusterServiceServicer):
    """Plays one script for each call, then stays silent until told to end the stream."""

    def __init__(self, *scripts: list[pb.WatchClusterResponse]) -> None:
        self.scripts = list(scripts)
        self.requests: list[pb.WatchClusterRequest] = []
        self.queue: asyncio.Queue[pb.WatchClusterResponse | None] = asyncio.Queue()
        self.port = 0

    async def WatchCluster(  # noqa: N802 - the name in the proto
        self, request: pb.WatchClusterRequest, context: object
    ) -> AsyncIterator[pb.WatchClusterResponse]:
        """Plays the next script, then what is queued; None ends the stream."""
        self.requests.append(request)
        for message in self.scripts.pop(0) if self.scripts else []:
            yield message
        while (item := await self.queue.get()) is not None:
            yield item


def removals(revision: int, *objects: ClusterObject) -> pb.WatchClusterResponse:
    """Objects that are gone."""
    changes = [change_to_pb(Change(key=key_of(value), value=None)) for value in objects]
    return pb.WatchClusterResponse(delta=pb.Delta(revision=revision, changes=changes, complete=True))


class Follower:
    """A planner that follows, and what it was told."""

    def __init__(self, *watchers: Watcher) -> None:
        self.registry = Registry(process=False)
        self.planner = Planner()
        self.applied: list[Applied] = []
        self.now = 0.0
        self.feed = ClusterFeed(
            addresses=[f"127.0.0.1:{watcher.port}" for watcher in watchers],
            client_id="planner-1",
            security=TransportSecurity(insecure=True),
            planner=self.planner,
            guard=MassDeleteGuard(GuardSettings(share=0.5, minimum=5, hold_seconds=10.0), now=lambda: self.now),
            on_batch=self._take,
            metrics=PlannerMetrics(self.registry),
            freshness=FreshnessSettings(hold_seconds=60.0, patience_seconds=0.0),
            now=lambda: self.now,
            backoff=Backoff(initial_seconds=0.01, maximum_seconds=0.05),
        )

    def _take(self, batch: Batch) -> None:
        self.applied.append(self.planner.apply(batch))

    @property
    def services(self) -> set[str]:
        """Services that the planner holds."""
        return {str(key) for key in self.planner.cluster.services}

    def disconnects(self, reason: str) -> float:
        """Streams that ended for a reason."""
        return self.registry.value("pointsman_planner_feed_disconnects_total", {"reason": reason}) or 0.0


@asynccontextmanager
async def following(*watchers: Watcher) -> AsyncIterator[Follower]:
    """Watchers that listen and a planner that follows them, in this order."""
    async with AsyncExitStack() as stack:
        for watcher in watchers:
            server = grpc.aio.server()
            pb_grpc.add_ClusterServiceServicer_to_server(watcher, server)
            watcher.port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, 0)
        follower = Follower(*watchers)
        task = asyncio.create_task(follower.feed.run())
        try:
            yield follower
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def at(follower: Follower, epoch: str, revision: int) -> Callable[[], bool]:
    """Whether the planner is at a position."""
    wanted = ClusterPosition(epoch=epoch, revision=revision)
    return lambda: follower.planner.is_in_sync and follower.planner.position == wanted
