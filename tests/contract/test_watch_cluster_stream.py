# SPDX-License-Identifier: Apache-2.0
"""WatchCluster on a real gRPC server, driven as the comments of the proto allow a client to drive it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc
import grpc.aio
import msgspec
import pytest

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman.cluster.v1 import cluster_service_pb2_grpc as pb_grpc
from pointsman_chassis.channel import open_channel
from pointsman_chassis.clock import SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_chassis.server import GrpcServer
from pointsman_chassis.settings import Duration
from pointsman_chassis.tls import TransportSecurity
from pointsman_chassis.tracing import Tracing
from pointsman_model.cluster import Change, ObjectKey, ObjectKind, Service
from pointsman_model.wire.cluster import change_from_pb
from pointsman_model.wire.positions import resource_versions_from_pb
from pointsman_watcher.api.cluster_service import SERVICE_NAME, ClusterService
from pointsman_watcher.core.decode import Observed, Rejected, decode_event, decode_page
from pointsman_watcher.core.object_store import ObjectStore
from pointsman_watcher.core.resources import NODES, RESOURCES, SERVICES, Resource
from pointsman_watcher.feed import ClusterFeed
from pointsman_watcher.metrics import WatcherMetrics
from pointsman_watcher.settings import StreamSettings
from support.cluster_objects import Json, event, list_json, node_json, service_json

DEADLINE_SECONDS = 20.0
INSECURE = TransportSecurity(insecure=True)


class Watcher:
    """A feed behind a real server."""

    def __init__(self, settings: StreamSettings, message_bytes_max: int = 1 << 20) -> None:
        self.registry = Registry(process=False)
        metrics = WatcherMetrics(self.registry)
        self.store = ObjectStore(epoch="epoch-1", log_entries_max=settings.change_log_entries_max)
        self.feed = ClusterFeed(store=self.store, tracing=Tracing(), metrics=metrics, clock=SystemClock())
        self.server = GrpcServer(address="127.0.0.1:0", security=INSECURE)
        service = ClusterService(
            self.feed, settings=settings, metrics=metrics, clock=SystemClock(), message_bytes_max=message_bytes_max
        )
        self.server.add_raw_service(SERVICE_NAME, service.methods())
        self.address = ""

    async def start(self) -> Self:
        self.address = f"127.0.0.1:{await self.server.start()}"
        return self

    def sync(self, services: list[Json], nodes: list[Json]) -> None:
        """Complete lists of all four resources."""
        listed = {SERVICES: services, NODES: nodes}
        for resource in RESOURCES:
            self.feed.replace(resource, decode_page(resource, list_json(listed.get(resource, []))).items, 1, "100")

    def observe(self, resource: Resource, *lines: bytes, version: str = "101") -> None:
        items = [decode_event(resource, line) for line in lines]
        self.feed.observe(resource, [item for item in items if isinstance(item, Observed | Rejected)], 1, version)

    def names(self) -> set[str]:
        return {key.name for key in self.store.present_keys()}


@dataclass
class Client:
    """A planner as the protocol describes it."""

    address: str
    resume: pb.ResumeToken | None = None

    async def __aenter__(self) -> Self:
        self.channel = open_channel(self.address, security=INSECURE)
        request = pb.WatchClusterRequest(client_id="test", resume=self.resume)
        self.call = pb_grpc.ClusterServiceStub(self.channel).WatchCluster(request)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call.cancel()
        await self.channel.close()

    async def read(self) -> pb.WatchClusterResponse:
        async with asyncio.timeout(DEADLINE_SECONDS):
            message = await self.call.read()
        if not isinstance(message, pb.WatchClusterResponse):
            raise grpc.aio.UsageError("the stream ended")
        return message

    async def read_until(self, kind: str) -> list[pb.WatchClusterResponse]:
        """Everything up to the first message of a kind, which is the last element. Heartbeats are left out."""
        found: list[pb.WatchClusterResponse] = []
        while not found or found[-1].WhichOneof("message") != kind:
            message = await self.read()
            if kind == "heartbeat" or message.WhichOneof("message") != "heartbeat":
                found.append(message)
        return found

    async def status(self) -> grpc.StatusCode:
        """How the call ended, after whatever is still to be read."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError:
                pass
            return await self.call.code()


def changes(messages: list[pb.WatchClusterResponse]) -> list[Change]:
    return [change_from_pb(change) for message in messages for change in message.delta.changes]


SETTINGS = StreamSettings(heartbeat_interval=Duration(60))


@pytest.fixture
async def watcher() -> AsyncIterator[Watcher]:
    built = await Watcher(SETTINGS).start()
    yield built
    built.feed.close()
    await built.server.stop(grace_seconds=0)


def synced(watcher: Watcher) -> Watcher:
    watcher.sync([service_json("shop/a"), service_json("shop/b", "10.96.0.11")], [node_json("n1", "192.168.7.2")])
    return watcher


async def test_nothing_is_served_before_all_four_resources_were_listed(watcher: Watcher) -> None:
    for resource in RESOURCES:
        async with Client(watcher.address) as client:
            assert await client.status() is grpc.StatusCode.UNAVAILABLE
            assert "still lists" in (await client.call.details() or "")
        watcher.feed.replace(resource, [], 1, "1")
    async with Client(watcher.address) as client:
        assert [m.WhichOneof("message") for m in await client.read_until("in_sync")] == ["opened", "in_sync"]


async def test_a_first_connection_gets_a_snapshot_then_live_changes(watcher: Watcher) -> None:
    synced(watcher)
    async with Client(watcher.address) as client:
        first = await client.read_until("in_sync")
        assert first[0].opened.start == pb.Opened.START_SNAPSHOT
        assert (first[0].opened.epoch, first[0].opened.heartbeat_interval_ms) == ("epoch-1", 60_000)
        assert {change.key.name for change in changes(first)} == {"a", "b", "n1"}
        assert first[-1].in_sync.revision == first[0].opened.revision == watcher.store.revision
        watcher.observe(SERVICES, event("DELETED", service_json("shop/a", resource_version=44)))
        (delta,) = await client.read_until("delta")
        (change,) = changes([delta])
        assert change.key == ObjectKey(ObjectKind.SERVICE, "shop", "a")
        assert (change.value, change.resource_version) == (None, "44")
        assert (delta.delta.revision, delta.delta.complete) == (watcher.store.revision, True)


async def test_every_complete_message_says_how_far_the_api_server_was_read() -> None:
    watcher = await Watcher(msgspec.structs.replace(SETTINGS, heartbeat_interval=Duration(0.1))).start()
    synced(watcher)
    watcher.feed.contact(3_000_000_000)
    async with Client(watcher.address) as client:
        first = (await client.read_until("in_sync"))[-1].in_sync
        assert _versions(first) == (100, 100, 100, 100)
        watcher.observe(SERVICES, event("DELETED", service_json("shop/a")), version="107")
        assert _versions((await client.read_until("delta"))[-1].delta) == (107, 100, 100, 100)
        watcher.observe(NODES, version="120")
        while _versions(heartbeat := (await client.read_until("heartbeat"))[-1].heartbeat) != (107, 100, 120, 100):
            pass
        assert heartbeat.revision == watcher.store.revision, "a bookmark is no change"
        assert heartbeat.last_contact.seconds == 3
    await watcher.server.stop(grace_seconds=0)


def _versions(message: pb.Delta | pb.InSync | pb.Heartbeat) -> tuple[int, ...]:
    return tuple(resource_versions_from_pb(message.resource_versions))


async def test_a_batch_of_events_is_one_delta(watcher: Watcher) -> None:
    synced(watcher)
    async with Client(watcher.address) as client:
        await client.read_until("in_sync")
        lines = [event("ADDED", service_json(f"shop/s{n}", f"10.96.1.{n}")) for n in range(20)]
        watcher.observe(SERVICES, *lines)
        (delta,) = await client.read_until("delta")
        assert len(delta.delta.changes) == 20


async def test_a_reader_resumes_where_it_left_off(watcher: Watcher) -> None:
    synced(watcher)
    async with Client(watcher.address) as client:
        position = (await client.read_until("in_sync"))[-1].in_sync.revision
    watcher.observe(SERVICES, event("ADDED", service_json("shop/c", "10.96.0.12")))
    watcher.observe(SERVICES, event("DELETED", service_json("shop/a")))
    async with Client(watcher.address, pb.ResumeToken(epoch="epoch-1", revision=position)) as client:
        messages = await client.read_until("in_sync")
    assert messages[0].opened.start == pb.Opened.START_RESUME
    assert [(change.key.name, change.value is None) for change in changes(messages)] == [("c", False), ("a", True)]
    assert messages[-1].in_sync.revision == watcher.store.revision == position + 2


@pytest.mark.parametrize(("epoch", "ahead"), [("epoch-0", 0), ("", 0), ("epoch-1", 1000)])
async def test_an_unknown_position_is_answered_with_a_snapshot(watcher: Watcher, epoch: str, ahead: int) -> None:
    synced(watcher)
    token = pb.ResumeToken(epoch=epoch, revision=watcher.store.revision + ahead)
    async with Client(watcher.address, token) as client:
        messages = await client.read_until("in_sync")
    assert messages[0].opened.start == pb.Opened.START_SNAPSHOT
    assert {change.key.name for change in changes(messages)} == watcher.names()


async def test_a_position_older_than_the_log_is_answered_with_a_snapshot() -> None:
    watcher = await Watcher(msgspec.structs.replace(SETTINGS, change_log_entries_max=2)).start()
    synced(watcher)
    position = watcher.store.revision
    for last in range(20, 25):
        watcher.observe(SERVICES, event("MODIFIED", service_json("shop/a", f"10.96.0.{last}")))
    async with Client(watcher.address, pb.ResumeToken(epoch="epoch-1", revision=position)) as client:
        messages = await client.read_until("in_sync")
    assert messages[0].opened.start == pb.Opened.START_SNAPSHOT
    await watcher.server.stop(grace_seconds=0)


async def test_a_silent_stream_carries_heartbeats() -> None:
    watcher = await Watcher(msgspec.structs.replace(SETTINGS, heartbeat_interval=Duration(0.05))).start()
    synced(watcher)
    async with Client(watcher.address) as client:
        assert (await client.read()).opened.heartbeat_interval_ms == 50
        await client.read_until("in_sync")
        beats = [(await client.read_until("heartbeat"))[-1].heartbeat for _ in range(3)]
    assert {beat.revision for beat in beats} == {watcher.store.revision}
    times = [beat.sent_at.ToNanoseconds() for beat in beats]
    assert times == sorted(times)
    await watcher.server.stop(grace_seconds=0)


async def test_a_slow_reader_gets_newest_states_and_holds_nobody_up(watcher: Watcher) -> None:
    """More is changed than all buffers on the way hold, while one reader reads nothing and another reads all."""
    synced(watcher)
    names = [f"big-{number}" for number in range(8)]
    padding = {f"label-{number}": "x" * 63 for number in range(800)}

    def change_all(round_number: int) -> None:
        for name in names:
            labels = {**padding, "round": str(round_number)}
            watcher.observe(SERVICES, event("MODIFIED", service_json(f"shop/{name}", labels=labels)))

    async with Client(watcher.address) as slow, Client(watcher.address) as quick:
        await slow.read_until("in_sync")
        await quick.read_until("in_sync")
        for round_number in range(100):
            change_all(round_number)
            seen: set[str] = set()
            while len(seen) < len(names):
                messages = await quick.read_until("delta")
                seen |= {change.key.name for change in changes(messages) if _round(change) == str(round_number)}
        received: list[Change] = []
        while {change.key.name for change in received if _round(change) == "99"} != set(names):
            received += changes(await slow.read_until("delta"))
    assert len(received) < 100 * len(names)
    newest = {change.key.name: _round(change) for change in received}
    assert newest == dict.fromkeys(names, "99")


def _round(change: Change) -> str:
    return dict(change.value.labels).get("round", "") if isinstance(change.value, Service) else ""


async def test_a_large_snapshot_comes_in_messages_within_the_bound() -> None:
    watcher = await Watcher(SETTINGS).start()
    padding = {f"label-{number}": "x" * 63 for number in range(500)}
    watcher.sync([service_json(f"shop/s{n}", labels=padding) for n in range(60)], [])
    async with Client(watcher.address) as client:
        messages = await client.read_until("in_sync")
    deltas = [message for message in messages if message.WhichOneof("message") == "delta"]
    assert len(deltas) >= 2
    assert all(message.ByteSize() <= 1 << 20 for message in deltas)
    assert [message.delta.complete for message in deltas] == [False] * (len(deltas) - 1) + [True]
    assert {change.key.name for change in changes(messages)} == watcher.names()
    await watcher.server.stop(grace_seconds=0)


async def test_the_number_of_streams_is_bounded_and_a_place_is_free_again_afterwards() -> None:
    watcher = await Watcher(msgspec.structs.replace(SETTINGS, subscribers_max=1)).start()
    synced(watcher)
    async with Client(watcher.address) as first:
        await first.read_until("in_sync")
        async with Client(watcher.address) as second:
            assert await second.status() is grpc.StatusCode.RESOURCE_EXHAUSTED
    async with asyncio.timeout(DEADLINE_SECONDS):
        while watcher.feed.subscriber_count:
            await asyncio.sleep(0.005)
    async with Client(watcher.address) as third:
        await third.read_until("in_sync")
    await watcher.server.stop(grace_seconds=0)


async def test_a_reader_behind_an_endless_stream_of_new_names_must_start_again() -> None:
    watcher = await Watcher(msgspec.structs.replace(SETTINGS, pending_keys_max=5)).start()
    synced(watcher)
    async with Client(watcher.address) as client:
        await client.read_until("in_sync")
        for number in range(20):
            passing = service_json(f"shop/passing-{number}", "10.96.2.1")
            watcher.observe(SERVICES, event("ADDED", passing))
            watcher.observe(SERVICES, event("DELETED", passing))
        assert await client.status() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert watcher.registry.value("pointsman_watcher_overruns_total") == 1
    await watcher.server.stop(grace_seconds=0)


async def test_a_stopping_watcher_sends_its_readers_away(watcher: Watcher) -> None:
    synced(watcher)
    async with Client(watcher.address) as client:
        await client.read_until("in_sync")
        watcher.feed.close()
        assert await client.status() is grpc.StatusCode.UNAVAILABLE
    async with Client(watcher.address) as client:
        assert await client.status() is grpc.StatusCode.UNAVAILABLE


async def test_two_watchers_of_one_cluster_send_the_same_objects(watcher: Watcher) -> None:
    """A planner that fails over gets bytes it already has, so nothing flaps."""
    other = await Watcher(SETTINGS).start()
    synced(watcher)
    synced(other)
    found = []
    for address in (watcher.address, other.address):
        async with Client(address) as client:
            found.append({change.key: change.value for change in changes(await client.read_until("in_sync"))})
    assert found[0] == found[1]
    await other.server.stop(grace_seconds=0)
