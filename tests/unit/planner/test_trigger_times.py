# SPDX-License-Identifier: Apache-2.0
"""When changes were called for, on their way to a node. Packet-flow rows 137 and 139: what a planner sends of them."""

from __future__ import annotations

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.cluster import Change, ClusterObject, ClusterPosition, ObjectKey, ObjectKind, key_of
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.planner import Batch, Planner
from support.cluster_objects import endpoint_slice, service
from support.model_enforcer import ModelEnforcer

SERVICE = service("s1", "172.30.0.41", ports=["80"])
OTHER = service("s2", "172.30.0.42", ports=["80"])
SLICE = ObjectKey(ObjectKind.ENDPOINT_SLICE, "default", "s1-a")
TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


def slice_at(trigger: int, address: str = "10.0.0.1", name: str = "s1-a", of: str = "s1") -> Change:
    value = endpoint_slice(name, of, [address], ["80"], trigger_time_ns=trigger)
    return Change(key=key_of(value), value=value, traceparent=TRACE)


def removal() -> Change:
    return Change(key=SLICE, value=None, traceparent=TRACE)


class World:
    """A planner with one node whose first transaction has gone out."""

    def __init__(self, *objects: ClusterObject) -> None:
        self.planner = Planner()
        self.revision = 0
        self.change(*(Change(key=key_of(value), value=value) for value in (SERVICE, OTHER, *objects)))
        hello = decode_message(ModelEnforcer("node-1").hello().SerializeToString())
        assert isinstance(hello, Hello)
        self.session = self.planner.open(hello, now_ns=0)
        self.sent()

    def change(self, *changes: Change) -> None:
        self.revision += 1
        self.planner.apply(Batch(changes=changes, position=ClusterPosition(epoch="e", revision=self.revision)))

    def families_sent(self) -> list[int]:
        """The family of each origin in the next transaction."""
        frame = self.session.next_transaction(now_ns=0)
        parts = frame.parts() if frame is not None else ()
        return [
            each.family for part in parts for each in pb.StreamNodePlanResponse.FromString(part).transaction.origins
        ]

    def sent(self) -> list[tuple[str, int]]:
        """Service and trigger time, 0 for none, of each origin in the next transaction."""
        frame = self.session.next_transaction(now_ns=0)
        if frame is None:
            return []
        found = []
        for part in frame.parts():
            message = pb.StreamNodePlanResponse.FromString(part)
            found += [(each.service.name, each.trigger_time.ToNanoseconds()) for each in message.transaction.origins]
        return found


def test_row_137_changes_before_a_transaction_keep_each_their_time_by_service() -> None:
    world = World()
    world.change(slice_at(5))
    world.change(slice_at(7, "10.0.0.2"), slice_at(6, name="s2-a", of="s2"))
    assert world.sent() == [("s1", 5), ("s1", 7), ("s2", 6)]


def test_row_139_a_slice_that_is_gone_takes_its_times_with_it() -> None:
    world = World()
    world.change(slice_at(5))
    world.change(removal())
    assert [trigger for _, trigger in world.sent()] == [0, 0]


def test_row_139_a_slice_that_comes_again_counts_from_then() -> None:
    world = World()
    world.change(slice_at(5))
    world.change(removal())
    world.change(slice_at(9))
    assert [trigger for _, trigger in world.sent() if trigger] == [9]


def test_row_139_within_one_batch_too() -> None:
    world = World()
    world.change(slice_at(5), slice_at(4, name="s2-a", of="s2"), removal(), slice_at(9))
    assert [each for each in world.sent() if each[1]] == [("s1", 9), ("s2", 4)]


def test_the_removal_of_a_slice_is_a_change_with_a_trace() -> None:
    held = endpoint_slice("s1-a", "s1", ["10.0.0.1"], ["80"])
    world = World(held)
    world.change(removal())
    assert world.sent() == [("s1", 0)]
    world.change(removal())
    assert world.sent() == [], "what is not there cannot go"


def test_a_change_says_the_family_of_its_slice_and_none_for_a_service() -> None:
    world = World()
    six = endpoint_slice("s1-six", "s1", ["fd00::1"], ["80"], trigger_time_ns=3)
    changed = service("s1", "172.30.0.41", ports=["80", "81"])
    world.change(slice_at(5), Change(key=key_of(six), value=six), Change(key=key_of(changed), value=changed))
    assert sorted(world.families_sent()) == [0, 4, 6]
