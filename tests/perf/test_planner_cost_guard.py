# SPDX-License-Identifier: Apache-2.0
"""Guard: what a change costs the planner depends on what changed and on whom it concerns. Counted, never timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest

from pointsman_model.cluster import (
    Change,
    ClusterObject,
    ClusterPosition,
    EndpointSlice,
    ObjectKey,
    ObjectKind,
    Service,
    key_of,
)
from pointsman_model.digest import BUCKET_COUNT
from pointsman_planner.core.messages import Ack, AckLevel, Hello
from pointsman_planner.core.planner import Batch, Planner
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.work_counter import Work, kept_blocks_of, peak_bytes_of, work_of

FEW, MANY = 20, 3_000
FEW_NODES, MANY_NODES = 4, 200
ZONES = 2
MARGIN = 1.02
"""Numbers and names differ by a digit or two."""


def service_of(number: int) -> Service:
    """Service `number`."""
    return service(f"shop/svc-{number:05d}", f"10.96.{number // 250}.{number % 250 + 1}", ports=["http:80"])


def slice_of(number: int, version: int) -> EndpointSlice:
    """Its slice as written for the `version`-th time: the first endpoint is another each time, none is on our nodes."""
    first = f"10.{128 + number // 256}.{number % 256}.{100 + version % 100}"
    rest = [f"10.{128 + number // 256}.{number % 256}.{each}" for each in range(2, 11)]
    chosen = [endpoint(address, node="elsewhere", zone="zone-0") for address in (first, *rest)]
    return endpoint_slice(f"shop/svc-{number:05d}-a", f"svc-{number:05d}", chosen, ["http:8080"])


class World:
    """A planner with so many services, and nodes that have everything."""

    def __init__(self, services: int, nodes: int = FEW_NODES) -> None:
        self.planner = Planner()
        self._versions = itertools.count(1)
        names = [f"node-{number:04d}" for number in range(nodes)]
        members = [
            node(name, f"192.168.{number // 250}.{number % 250 + 1}", zone=f"zone-{number % ZONES}")
            for number, name in enumerate(names)
        ]
        slices = [slice_of(number, 0) for number in range(services)]
        self.apply([*members, *(service_of(number) for number in range(services)), *slices])
        for name in names:
            self.planner.open(Hello(node_name=name, bucket_digests=(0,) * BUCKET_COUNT), now_ns=0)
        self.messages = self.bytes = 0
        self.drain()
        self.replace()
        self.messages = self.bytes = 0

    def apply(self, values: Iterable[ClusterObject], gone: Iterable[ObjectKey] = ()) -> None:
        """One batch of what is new and what is gone, computed for everyone."""
        changes = (
            *(Change(key=key_of(value), value=value) for value in values),
            *(Change(key=key, value=None) for key in gone),
        )
        position = ClusterPosition(epoch="e", revision=next(self._versions) + 1_000_000)
        self.planner.apply(Batch(changes=changes, position=position))

    def drain(self) -> None:
        """Send what waits, and have it acknowledged."""
        for session in self.planner.sessions.values():
            while (frame := session.next_transaction(now_ns=0)) is not None:
                for part in frame.parts():
                    self.messages += 1
                    self.bytes += len(part)
                digest = frame.digest
                ack = Ack(nonce=frame.nonce, level=AckLevel.PROGRAMMED, digest=digest, programmed_digest=digest)
                session.receive(ack, now_ns=0)

    def replace(self) -> None:
        """One endpoint of one service is replaced."""
        self.apply([slice_of(7, next(self._versions))])
        self.drain()

    def heartbeat(self) -> None:
        """A node that says what it said before."""
        self.apply([node("node-0001", "192.168.0.2", zone="zone-1")])
        self.drain()

    def scale_to_zero(self) -> None:
        """A service loses its only slice."""
        self.apply([], [ObjectKey(ObjectKind.ENDPOINT_SLICE, "shop", "svc-00007-a")])
        self.drain()

    def remove(self) -> None:
        """A service goes, with its slice."""
        gone = ObjectKey(ObjectKind.SERVICE, "shop", "svc-00007")
        self.apply([], [gone, ObjectKey(ObjectKind.ENDPOINT_SLICE, "shop", "svc-00007-a")])
        self.drain()

    def restore(self) -> None:
        """It comes, or comes back."""
        self.apply([service_of(7), slice_of(7, next(self._versions))])
        self.drain()


CHANGES: dict[str, Callable[[World], None]] = {
    "an endpoint replaced": World.replace,
    "a service scaled to zero": World.scale_to_zero,
    "a service removed": World.remove,
    "a service added": World.restore,
    "a heartbeat of a node": World.heartbeat,
}


@pytest.fixture(scope="module")
def worlds() -> tuple[World, World]:
    return World(FEW), World(MANY)


def played(world: World, name: str) -> tuple[Work, int, int, int]:
    """The work of a change, what was sent and how many plans were encoded; the world is whole again afterwards."""
    prepare(world, name)
    world.messages = world.bytes = 0
    encoded = world.planner.cache.statistics.encoded
    work = work_of(lambda: CHANGES[name](world))
    found = work, world.messages, world.bytes, world.planner.cache.statistics.encoded - encoded
    world.restore()
    return found


def prepare(world: World, name: str) -> None:
    """What must be so before a change."""
    if name == "a service added":
        world.remove()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_costs_the_same_beside_few_services_and_beside_many(worlds: tuple[World, World], name: str) -> None:
    (few, *sent_few), (many, *sent_many) = (played(world, name) for world in worlds)
    assert few.calls == many.calls
    assert many.bytecodes <= few.bytecodes * MARGIN
    assert sent_few == sent_many, "messages, bytes, plans encoded"


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_takes_no_more_memory_beside_many_services(worlds: tuple[World, World], name: str) -> None:
    peaks = []
    for world in worlds:
        prepare(world, name)
        peaks.append(peak_bytes_of(lambda world=world: CHANGES[name](world)))  # type: ignore[misc] # a bound default
        world.restore()
    few, many = peaks
    assert many <= few + 4096


def test_one_service_is_recomputed_and_each_node_gets_one_message(worlds: tuple[World, World]) -> None:
    for world in worlds:
        work, messages, size, encoded = played(world, "an endpoint replaced")
        assert work.calls["refresh_service"] == 1
        assert messages == FEW_NODES
        assert size < FEW_NODES * 512
        assert encoded <= ZONES, "at most once for each zone, never for each node"


def test_nodes_that_are_many_are_sent_a_plan_that_was_encoded_once() -> None:
    few, many = World(FEW, FEW_NODES), World(FEW, MANY_NODES)
    first, last = (played(world, "an endpoint replaced") for world in (few, many))
    assert first[3] == last[3], "plans encoded"
    assert last[1] * FEW_NODES == first[1] * MANY_NODES, "messages"
    assert last[2] * FEW_NODES == first[2] * MANY_NODES, "bytes"
    assert last[0].bytecodes * FEW_NODES <= first[0].bytecodes * MANY_NODES, "in step with the nodes concerned"


def test_a_heartbeat_concerns_no_node(worlds: tuple[World, World]) -> None:
    for world in worlds:
        assert played(world, "a heartbeat of a node")[1:] == (0, 0, 0)


def test_changes_leave_nothing_in_memory(worlds: tuple[World, World]) -> None:
    for world in worlds:
        assert kept_blocks_of(world.replace, times=200) < 100
