# SPDX-License-Identifier: Apache-2.0
"""The planner's WatchCluster client against scripted watchers on real loopback servers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman.cluster.v1 import cluster_service_pb2_grpc as pb_grpc
from pointsman_chassis.backoff import Backoff
from pointsman_chassis.metrics import Registry
from pointsman_chassis.tls import TransportSecurity
from pointsman_model.cluster import Change, ClusterObject, ClusterPosition, key_of
from pointsman_model.wire.cluster import change_to_pb
from pointsman_planner.core.feed_state import GuardSettings, MassDeleteGuard
from pointsman_planner.core.planner import Applied, Batch, Planner
from pointsman_planner.feed.cluster_feed import ClusterFeed
from pointsman_planner.metrics import PlannerMetrics
from support.cluster_objects import endpoint_slice, service
from support.plan_server import DEADLINE_SECONDS, eventually

WEB = service("shop/web", "10.96.0.1", ports=["p:80"])
WEB_SLICE = endpoint_slice("shop/web-x", "web", ["10.1.0.1"], ["p:80"])


def delta(revision: int, *objects: ClusterObject, complete: bool = True) -> pb.WatchClusterResponse:
    changes = [change_to_pb(Change(key=key_of(value), value=value)) for value in objects]
    return pb.WatchClusterResponse(delta=pb.Delta(revision=revision, changes=changes, complete=complete))


def opened(epoch: str, revision: int, *, resume: bool = False, heartbeat_ms: int = 5000) -> pb.WatchClusterResponse:
    start = pb.Opened.START_RESUME if resume else pb.Opened.START_SNAPSHOT
    return pb.WatchClusterResponse(
        opened=pb.Opened(epoch=epoch, revision=revision, start=start, heartbeat_interval_ms=heartbeat_ms)
    )


def in_sync(revision: int) -> pb.WatchClusterResponse:
    return pb.WatchClusterResponse(in_sync=pb.InSync(revision=revision))


def snapshot(epoch: str, revision: int, *objects: ClusterObject) -> list[pb.WatchClusterResponse]:
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
        self.requests.append(request)
        for message in self.scripts.pop(0) if self.scripts else []:
            yield message
        while (item := await self.queue.get()) is not None:
            yield item


def removals(revision: int, *objects: ClusterObject) -> pb.WatchClusterResponse:
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
            backoff=Backoff(initial_seconds=0.01, maximum_seconds=0.05),
        )

    def _take(self, batch: Batch) -> None:
        self.applied.append(self.planner.apply(batch))

    @property
    def services(self) -> set[str]:
        return {str(key) for key in self.planner.cluster.services}

    def disconnects(self, reason: str) -> float:
        return self.registry.value("pointsman_planner_feed_disconnects_total", {"reason": reason}) or 0.0


@asynccontextmanager
async def following(*watchers: Watcher) -> AsyncIterator[Follower]:
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
    wanted = ClusterPosition(epoch=epoch, revision=revision)
    return lambda: follower.planner.is_in_sync and follower.planner.position == wanted


async def test_snapshot_is_taken_in_at_in_sync_and_deltas_follow() -> None:
    watcher = Watcher([opened("e1", 5), delta(4, WEB, complete=False), delta(5, WEB_SLICE)])
    async with following(watcher) as follower:
        await eventually(lambda: len(watcher.requests) == 1, "the call")
        assert watcher.requests[0].client_id == "planner-1"
        assert not watcher.requests[0].HasField("resume")
        assert not follower.planner.is_in_sync
        assert not follower.services
        watcher.queue.put_nowait(in_sync(5))
        await eventually(at(follower, "e1", 5), "in sync")
        assert follower.services == {"shop/web"}
        watcher.queue.put_nowait(delta(6, service("shop/api", "10.96.0.2")))
        await eventually(at(follower, "e1", 6), "the delta")
        assert follower.services == {"shop/web", "shop/api"}


async def test_a_delta_in_parts_is_applied_when_complete() -> None:
    watcher = Watcher(snapshot("e1", 5))
    async with following(watcher) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        watcher.queue.put_nowait(delta(6, WEB, complete=False))
        watcher.queue.put_nowait(delta(6, service("shop/api", "10.96.0.2")))
        await eventually(at(follower, "e1", 6), "the delta")
        assert [applied.services for applied in follower.applied] == [0, 2]


async def test_reconnect_resumes_after_the_last_complete_revision() -> None:
    watcher = Watcher(snapshot("e1", 5, WEB), [opened("e1", 7, resume=True), delta(7, WEB_SLICE), in_sync(7)])
    async with following(watcher) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        watcher.queue.put_nowait(delta(6, service("half", "10.96.9.9"), complete=False))
        watcher.queue.put_nowait(None)
        await eventually(at(follower, "e1", 7), "resumed")
        assert (watcher.requests[1].resume.epoch, watcher.requests[1].resume.revision) == ("e1", 5)
        assert follower.services == {"shop/web"}


async def test_failover_to_another_watcher_applies_only_the_difference() -> None:
    api = service("shop/api", "10.96.0.2")
    first, second = Watcher(snapshot("e1", 5, WEB, WEB_SLICE, api)), Watcher(snapshot("e2", 90, WEB, WEB_SLICE))
    async with following(first, second) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        first.queue.put_nowait(None)
        await eventually(at(follower, "e2", 90), "failed over")
        assert follower.services == {"shop/web"}
        assert [applied.services for applied in follower.applied] == [2, 1]


async def test_a_watcher_that_is_down_is_skipped() -> None:
    watcher = Watcher(snapshot("e1", 5, WEB))
    async with following(watcher) as follower:
        follower.feed._addresses = ("127.0.0.1:1", *follower.feed._addresses)
        await eventually(at(follower, "e1", 5), "in sync through the second")
        assert follower.disconnects("unavailable") == 1


async def test_silence_ends_a_stream() -> None:
    watcher = Watcher([opened("e1", 5, heartbeat_ms=60), delta(5, WEB), in_sync(5)], snapshot("e2", 1, WEB))
    async with following(watcher) as follower:
        await eventually(at(follower, "e2", 1), "a new stream")
        assert follower.disconnects("silence") == 1


async def test_a_malformed_change_is_skipped_and_counted() -> None:
    message = delta(5, WEB, service("shop/api", "10.96.0.2"))
    message.delta.changes[0].service.cluster_ips[0] = b"\x01\x02\x03"
    watcher = Watcher([opened("e1", 5), message, in_sync(5)])
    async with following(watcher) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        assert follower.services == {"shop/api"}
        assert follower.registry.value("pointsman_planner_malformed_changes_total") == 1


async def test_a_snapshot_that_removes_much_is_held_and_forgotten_when_the_next_one_does_not() -> None:
    many = [service(f"shop/s{n}", f"10.96.1.{n}") for n in range(1, 11)]
    lost = Watcher(snapshot("e1", 5, *many), snapshot("e2", 1, WEB), snapshot("e3", 1, *many))
    async with following(lost) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        lost.queue.put_nowait(None)
        await eventually(at(follower, "e3", 1), "the third snapshot")
        assert len(follower.services) == 10
        assert follower.disconnects("held") == 1
        assert [applied.services for applied in follower.applied] == [10, 0]


async def test_a_mass_deletion_that_is_still_said_after_the_hold_time_is_believed() -> None:
    many = [service(f"shop/s{n}", f"10.96.1.{n}") for n in range(1, 11)]
    watcher = Watcher(snapshot("e1", 5, *many), *(snapshot(f"e{n}", 1, WEB) for n in range(2, 50)))
    async with following(watcher) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        watcher.queue.put_nowait(None)
        await eventually(lambda: follower.disconnects("held") >= 2, "held, and held again")
        assert len(follower.services) == 10
        assert follower.registry.value("pointsman_planner_mass_delete_holding") == 1
        follower.now = 10.0
        await eventually(lambda: follower.services == {"shop/web"}, "the end of the hold time")
        assert not watcher.requests[2].HasField("resume")
        assert follower.registry.value("pointsman_planner_mass_delete_holding") == 0


async def test_a_delta_that_removes_much_is_held_too() -> None:
    many = [service(f"shop/s{n}", f"10.96.1.{n}") for n in range(1, 11)]
    watcher = Watcher(snapshot("e1", 5, *many), snapshot("e1", 7, *many))
    async with following(watcher) as follower:
        await eventually(at(follower, "e1", 5), "in sync")
        watcher.queue.put_nowait(removals(6, *many[1:]))
        await eventually(at(follower, "e1", 7), "the snapshot asked for instead")
        assert len(follower.services) == 10
        assert follower.disconnects("held") == 1


async def test_protocol_violations_end_the_stream_and_nothing_is_applied() -> None:
    watcher = Watcher(
        [delta(5, WEB)],
        [opened("e1", 5, resume=True)],
        [opened("e1", 5), opened("e1", 5)],
        [opened("e1", 5), delta(5, WEB, complete=False), in_sync(5)],
        [pb.WatchClusterResponse()],
        snapshot("e9", 9),
    )
    async with following(watcher) as follower, asyncio.timeout(DEADLINE_SECONDS):
        await eventually(at(follower, "e9", 9), "a well-behaved stream")
        assert follower.disconnects("protocol") == 5
        assert not follower.services
