# SPDX-License-Identifier: Apache-2.0
"""Guard: what a watch event costs the watcher does not depend on how many objects there are. Counted, never timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.metrics import Registry
from pointsman_chassis.tracing import Tracing
from pointsman_watcher.core.decode import Observed, decode_event, decode_page
from pointsman_watcher.core.object_store import ObjectStore
from pointsman_watcher.core.resources import ENDPOINT_SLICES, RESOURCES
from pointsman_watcher.core.subscription import Subscription
from pointsman_watcher.feed import ClusterFeed, Subscriber
from pointsman_watcher.metrics import WatcherMetrics
from support.cluster_objects import Json, endpoint_slice_json, event, list_json
from support.work_counter import kept_blocks_of, peak_bytes_of, work_of

FEW, MANY = 20, 4_000
LOG_ENTRIES = 64
ENCODERS = ("object_to_pb", "serialize")
MARGIN = 1.02
"""Lengths of numbers and names differ by a digit or two."""


def slice_of(number: int, version: int) -> Json:
    """Slice `number`, as written for the `version`-th time; its first endpoint is another each time."""
    first = f"10.{128 + number // 256}.{number % 256}.{100 + version % 100}"
    rest = [f"10.{128 + number // 256}.{number % 256}.{each}" for each in range(2, 11)]
    name = f"shop/svc-{number:05d}"
    return endpoint_slice_json(f"{name}-a", f"svc-{number:05d}", [first, *rest], resource_version=1_000_000 + version)


@dataclass
class Sent:
    """What the subscribers were sent."""

    messages: int = 0
    bytes: int = 0


class World:
    """A watcher in sync that holds so many slices, and subscribers that have read everything."""

    def __init__(self, slices: int, *, subscribers: int = 1) -> None:
        store = ObjectStore(epoch="e", log_entries_max=LOG_ENTRIES)
        metrics = WatcherMetrics(Registry(process=False))
        self.feed = ClusterFeed(store=store, tracing=Tracing(), metrics=metrics, clock=VirtualClock())
        listed = [slice_of(number, 0) for number in range(slices)]
        for resource in RESOURCES:
            page = decode_page(resource, list_json(listed if resource is ENDPOINT_SLICES else []))
            self.feed.replace(resource, page.items, 1, "1000000")
        self.readers = [
            Subscription(store, resume=None, heartbeat_interval_ms=5000, pending_keys_max=100)
            for _ in range(subscribers)
        ]
        self._versions = itertools.count(1)
        self.sent = Sent()
        self._read()
        for reader in self.readers:
            self.feed.subscribe(Subscriber(reader))
        for _ in range(2 * LOG_ENTRIES):  # until the log is full, each change adds to it
            self.change()
        self.sent = Sent()

    def change(self) -> None:
        """One endpoint is replaced; everyone reads it."""
        self.take(self.line())

    def line(self, kind: str = "MODIFIED", number: int = 7) -> bytes:
        """The next event of a slice."""
        return event(kind, slice_of(number, next(self._versions)))

    def take(self, line: bytes) -> None:
        """From the bytes of the API server to the bytes for planners."""
        item = decode_event(ENDPOINT_SLICES, line)
        assert isinstance(item, Observed)
        self.feed.observe(ENDPOINT_SLICES, [item], 1, item.resource_version)
        self._read()

    def _read(self) -> None:
        for reader in self.readers:
            while (message := reader.next_message()) is not None:
                self.sent.messages += 1
                self.sent.bytes += len(message)


Step = Callable[[World], Callable[[], object]]


def step(kind: str) -> Step:
    """One event of a kind; its line is made beforehand."""

    def prepare(world: World) -> Callable[[], object]:
        if kind == "ADDED":
            world.take(world.line("DELETED"))
        line = world.line(kind)
        return lambda: world.take(line)

    return prepare


def seen_twice(world: World) -> Callable[[], object]:
    """An event that says nothing new."""
    line = world.line()
    world.take(line)
    world.sent = Sent()
    return lambda: world.take(line)


STEPS: dict[str, Step] = {
    "an endpoint replaced": step("MODIFIED"),
    "a slice removed": step("DELETED"),
    "a slice added": step("ADDED"),
    "nothing new": seen_twice,
}


@pytest.fixture(scope="module")
def worlds() -> tuple[World, World]:
    return World(FEW), World(MANY)


@pytest.mark.parametrize("name", STEPS)
def test_an_event_costs_the_same_beside_few_slices_and_beside_many(worlds: tuple[World, World], name: str) -> None:
    few, many = (work_of(STEPS[name](world)) for world in worlds)
    assert few.calls == many.calls
    assert many.bytecodes <= few.bytecodes * MARGIN
    assert sum(many.calls[encoder] for encoder in ENCODERS) <= len(ENCODERS), "no object but this one is encoded"


@pytest.mark.parametrize("name", STEPS)
def test_an_event_takes_no_more_memory_beside_many_slices(worlds: tuple[World, World], name: str) -> None:
    few, many = (peak_bytes_of(STEPS[name](world)) for world in worlds)
    assert many <= few + 4096


def test_a_planner_is_sent_one_message_of_the_same_size(worlds: tuple[World, World]) -> None:
    sent = []
    for world in worlds:
        world.sent = Sent()
        world.change()
        sent.append(world.sent)
    few, many = sent
    assert (few.messages, many.messages) == (1, 1)
    assert abs(many.bytes - few.bytes) <= 2, "revisions are numbers of one or more bytes"


def test_what_says_nothing_new_is_sent_to_nobody(worlds: tuple[World, World]) -> None:
    for world in worlds:
        seen_twice(world)()
        assert world.sent == Sent()


def test_another_subscriber_costs_a_frame_and_no_encoding() -> None:
    one, ten = World(FEW), World(FEW, subscribers=10)
    first, last = (work_of(step("MODIFIED")(world)) for world in (one, ten))
    assert {name: first.calls[name] for name in ENCODERS} == {name: last.calls[name] for name in ENCODERS}
    assert ten.sent.messages == 10 * one.sent.messages


def test_changes_leave_nothing_in_memory(worlds: tuple[World, World]) -> None:
    for world in worlds:
        assert kept_blocks_of(world.change, times=500) < 250


def test_the_counters_see_loops_and_copies() -> None:
    few, many = (dict.fromkeys(range(size)) for size in (FEW, MANY))
    assert (
        work_of(lambda: [key + 1 for key in many]).bytecodes > 10 * work_of(lambda: [key + 1 for key in few]).bytecodes
    )
    assert peak_bytes_of(lambda: sorted(many)) > 10 * peak_bytes_of(lambda: sorted(few))
