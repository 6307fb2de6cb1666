# SPDX-License-Identifier: Apache-2.0
"""The session of one subscriber, without a stream: what is sent, in which order, in which sizes."""

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman_model.cluster import ClusterPosition, ObjectKey, ObjectKind, ResourceVersions, key_of
from pointsman_model.wire.cluster import change_from_pb, object_to_pb, serialize
from pointsman_model.wire.positions import resource_versions_from_pb
from pointsman_watcher.core.frames import heartbeat_response, varint
from pointsman_watcher.core.object_store import ObjectStore, Update
from pointsman_watcher.core.subscription import Subscription
from support.cluster_objects import node

TRACE: Final = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def update(name: str, version: int | None, *, traceparent: str = TRACE) -> Update:
    value = node(name, zone=f"zone-{version}")
    key = key_of(value)
    body = serialize(object_to_pb(key, value)) if version is not None else None
    return Update(key=key, body=body, resource_version=str(version), observed_at_ns=5, traceparent=traceparent)


class World:
    """A store with one subscriber that reads when told to."""

    def __init__(self, *, message_bytes_max: int = 1 << 20, pending_keys_max: int = 100) -> None:
        self.store = ObjectStore(epoch="e", log_entries_max=1000)
        self.message_bytes_max = message_bytes_max
        self.pending_keys_max = pending_keys_max
        self.subscription: Subscription | None = None

    def change(self, *updates: Update) -> None:
        changes = self.store.real_changes(updates)
        self.store.commit(changes)
        if self.subscription is not None:
            self.subscription.mark([change.key for change in changes])

    def subscribe(self, resume: ClusterPosition | None = None) -> Subscription:
        self.subscription = Subscription(
            self.store,
            resume=resume,
            heartbeat_interval_ms=5000,
            pending_keys_max=self.pending_keys_max,
            message_bytes_max=self.message_bytes_max,
        )
        return self.subscription

    def state(self) -> dict[ObjectKey, bytes]:
        return {key: self.store.entry(key).body for key in self.store.present_keys()}


class Reader:
    """Applies messages as the protocol tells a client to."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, bytes] = {}
        self.named: set[ObjectKey] = set()
        self.is_snapshot = False
        self.position = ClusterPosition()
        self.messages: list[pb.WatchClusterResponse] = []

    def read_all(self, subscription: Subscription) -> None:
        while (message := subscription.next_message()) is not None:
            self.read(message)

    def read(self, encoded: bytes) -> pb.WatchClusterResponse:
        message = pb.WatchClusterResponse.FromString(encoded)
        self.messages.append(message)
        kind = message.WhichOneof("message")
        if kind == "opened":
            self.is_snapshot = message.opened.start == pb.Opened.START_SNAPSHOT
            self.position = ClusterPosition(epoch=message.opened.epoch, revision=self.position.revision)
        elif kind == "delta":
            self._apply(message.delta)
        elif kind == "in_sync":
            if self.is_snapshot:
                self.objects = {key: body for key, body in self.objects.items() if key in self.named}
            self.position = ClusterPosition(epoch=self.position.epoch, revision=message.in_sync.revision)
        return message

    def _apply(self, delta: pb.Delta) -> None:
        for message in delta.changes:
            change = change_from_pb(message)
            self.named.add(change.key)
            if change.value is None:
                self.objects.pop(change.key, None)
            else:
                self.objects[change.key] = serialize(object_to_pb(change.key, change.value))

    def kinds(self) -> list[str | None]:
        return [message.WhichOneof("message") for message in self.messages]


def test_a_first_connection_is_opened_snapshot_in_sync() -> None:
    world, reader = World(), Reader()
    world.change(update("a", 1), update("b", 1))
    reader.read_all(world.subscribe())
    assert reader.kinds() == ["opened", "delta", "in_sync"]
    opened = reader.messages[0].opened
    assert (opened.epoch, opened.revision, opened.heartbeat_interval_ms) == ("e", 1, 5000)
    assert opened.start == pb.Opened.START_SNAPSHOT
    assert (reader.messages[1].delta.revision, reader.messages[1].delta.complete) == (1, True)
    assert reader.objects == world.state()


def test_an_empty_cluster_is_opened_and_in_sync() -> None:
    reader = Reader()
    reader.read_all(World().subscribe())
    assert reader.kinds() == ["opened", "in_sync"]


def test_a_change_is_sent_with_its_trace_and_a_snapshot_without() -> None:
    world, reader = World(), Reader()
    world.change(update("a", 1))
    subscription = world.subscribe()
    reader.read_all(subscription)
    assert not reader.messages[1].delta.changes[0].HasField("trace")
    world.change(update("a", 2))
    reader.read_all(subscription)
    (change,) = reader.messages[-1].delta.changes
    assert (change.trace.traceparent, change.resource_version, change.observed_at.nanos) == (TRACE, "2", 5)


def test_a_resume_sends_what_was_missed_with_its_traces() -> None:
    world, reader = World(), Reader()
    world.change(update("a", 1), update("b", 1), update("c", 1))
    reader.read_all(world.subscribe())
    world.subscription = None
    world.change(update("a", 2))
    world.change(update("b", None))
    reader.messages.clear()
    reader.read_all(world.subscribe(reader.position))
    assert reader.kinds() == ["opened", "delta", "in_sync"]
    assert reader.messages[0].opened.start == pb.Opened.START_RESUME
    assert [change.trace.traceparent for change in reader.messages[1].delta.changes] == [TRACE, TRACE]
    assert [change.WhichOneof("object") for change in reader.messages[1].delta.changes] == ["node", "removal"]
    assert reader.objects == world.state()
    assert reader.position.revision == 3


def test_a_resume_without_changes_is_opened_and_in_sync() -> None:
    world, reader = World(), Reader()
    world.change(update("a", 1))
    reader.read_all(world.subscribe(ClusterPosition(epoch="e", revision=1)))
    assert reader.kinds() == ["opened", "in_sync"]


@pytest.mark.parametrize("position", [("other", 1), ("e", 2), ("", 0)])
def test_an_unknown_position_gets_a_snapshot(position: tuple[str, int]) -> None:
    world, reader = World(), Reader()
    world.change(update("a", 1))
    reader.read_all(world.subscribe(ClusterPosition(epoch=position[0], revision=position[1])))
    assert reader.messages[0].opened.start == pb.Opened.START_SNAPSHOT
    assert reader.objects == world.state()


def test_a_reader_that_was_away_gets_the_newest_state_once() -> None:
    world, reader = World(), Reader()
    subscription = world.subscribe()
    reader.read_all(subscription)
    for version in range(50):
        world.change(update("a", version))
    world.change(update("b", 1))
    reader.messages.clear()
    reader.read_all(subscription)
    assert reader.kinds() == ["delta"]
    assert len(reader.messages[0].delta.changes) == 2
    assert reader.messages[0].delta.revision == 51
    assert subscription.conflated_count == 49
    assert reader.objects == world.state()


def test_large_deltas_come_in_parts_of_which_the_last_is_complete() -> None:
    world, reader = World(message_bytes_max=300), Reader()
    world.change(*(update(f"node-{number}", 1) for number in range(40)))
    subscription = world.subscribe()
    encoded = []
    while (message := subscription.next_message()) is not None:
        encoded.append(message)
        reader.read(message)
    assert len(encoded) > 5
    assert max(map(len, encoded)) <= 300
    deltas = [message.delta for message in reader.messages if message.WhichOneof("message") == "delta"]
    assert [delta.complete for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    assert {delta.revision for delta in deltas} == {1}
    assert reader.objects == world.state()


def test_an_object_that_vanishes_under_a_snapshot_is_not_left_behind() -> None:
    world, reader = World(message_bytes_max=100), Reader()
    world.change(*(update(name, 1) for name in "abc"))
    subscription = world.subscribe()
    for _ in range(2):
        message = subscription.next_message()
        assert message is not None
        reader.read(message)
    assert [key.name for key in reader.objects] == ["a"]
    world.change(update("a", None))
    world.change(update("c", None))
    reader.read_all(subscription)
    assert [key.name for key in reader.objects] == ["b"]


def test_an_endless_stream_of_new_names_overruns_a_reader_that_stands_still() -> None:
    world = World(pending_keys_max=10)
    subscription = world.subscribe()
    subscription.next_message()
    for number in range(11):
        assert not subscription.is_overrun
        world.change(update(f"n{number}", 1))
        world.change(update(f"n{number}", None))
    assert subscription.is_overrun


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from("abcdef"), st.none() | st.integers(0, 3)),
        st.tuples(st.just("read"), st.just(""), st.integers(1, 4)),
        st.tuples(st.just("reconnect"), st.just(""), st.none()),
        st.tuples(st.just("restart"), st.just(""), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(ACTIONS)
def test_however_slow_and_often_reconnecting_a_reader_ends_with_the_servers_state(
    actions: list[tuple[str, str, int | None]],
) -> None:
    world, reader = World(message_bytes_max=120), Reader()
    subscription = world.subscribe()
    for action, name, number in actions:
        if action == "change":
            world.change(update(name, number))
        elif action == "read":
            for _ in range(number or 0):
                message = subscription.next_message()
                if message is not None:
                    reader.read(message)
        else:
            if action == "restart":
                restarted = World(message_bytes_max=120)
                restarted.store.epoch = f"{world.store.epoch}+"
                restarted.change(*(Update(key=key, body=body) for key, body in world.state().items()))
                world = restarted
            reader.named = set()
            reader.is_snapshot = False
            subscription = world.subscribe(_applied(reader))
    reader.read_all(subscription)
    assert reader.objects == world.state()


def _applied(reader: Reader) -> ClusterPosition | None:
    """The last position that the reader reached completely, as it must track it."""
    complete = ClusterPosition()
    epoch = ""
    in_sync = False
    for message in reader.messages:
        kind = message.WhichOneof("message")
        if kind == "opened":
            in_sync = False
            epoch = message.opened.epoch
        elif kind == "in_sync":
            in_sync = True
            complete = ClusterPosition(epoch=epoch, revision=message.in_sync.revision)
        elif kind == "delta" and in_sync and message.delta.complete:
            complete = ClusterPosition(epoch=epoch, revision=message.delta.revision)
    return complete if complete.epoch else None


def test_unknown_keys_are_removals() -> None:
    store = ObjectStore(epoch="e", log_entries_max=1)
    entry = store.entry(ObjectKey(ObjectKind.NODE, "", "ghost"))
    assert change_from_pb(pb.Change.FromString(entry.body + entry.meta)).value is None


@given(st.integers(0, 2**64 - 1))
def test_varints_are_those_of_protobuf(number: int) -> None:
    assert pb.InSync(revision=number).SerializeToString() == (b"\x08" + varint(number) if number else b"")


def test_a_heartbeat_says_revision_and_times_and_how_far_the_api_server_was_read() -> None:
    versions = ResourceVersions(services=3, nodes=9)
    message = pb.WatchClusterResponse.FromString(heartbeat_response(7, 1_500_000_001, versions, 2_000_000_000))
    assert resource_versions_from_pb(message.heartbeat.resource_versions) == versions
    assert message.heartbeat.last_contact.seconds == 2
    silent = pb.WatchClusterResponse.FromString(heartbeat_response(7, 1, versions, 0))
    assert not silent.heartbeat.HasField("last_contact")
    assert (message.heartbeat.revision, message.heartbeat.sent_at.seconds) == (7, 1)
    assert message.heartbeat.sent_at.nanos == 500_000_001
