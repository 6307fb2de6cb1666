# SPDX-License-Identifier: Apache-2.0
"""The way from watch lines to the store: whatever the order and number of events, the same bytes in the end."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.metrics import Registry
from pointsman_chassis.tracing import Tracing
from pointsman_model.cluster import ObjectKey
from pointsman_watcher.core.decode import Observed, Rejected, decode_event, decode_page
from pointsman_watcher.core.object_store import ObjectStore
from pointsman_watcher.core.resources import ENDPOINT_SLICES, NODES, RESOURCES, SERVICES, Resource
from pointsman_watcher.feed import ClusterFeed
from pointsman_watcher.metrics import WatcherMetrics
from support.cluster_objects import Json, endpoint_slice_json, event, list_json, node_json, service_json


def make_feed() -> ClusterFeed:
    store = ObjectStore(epoch="e", log_entries_max=1000)
    metrics = WatcherMetrics(Registry(process=False))
    return ClusterFeed(store=store, tracing=Tracing(), metrics=metrics, clock=VirtualClock())


def observe(feed: ClusterFeed, resource: Resource, *lines: bytes) -> None:
    items = [decode_event(resource, line) for line in lines]
    feed.observe(resource, [item for item in items if isinstance(item, Observed | Rejected)], 1, "2")


def replace(feed: ClusterFeed, resource: Resource, values: list[Json]) -> None:
    feed.replace(resource, decode_page(resource, list_json(values)).items, 1, "1")


def state(feed: ClusterFeed) -> dict[ObjectKey, bytes]:
    return {key: feed.store.entry(key).body for key in feed.store.present_keys()}


NAMES = ["a", "b", "c"]


def version_of(name: str, version: int) -> Json:
    addresses = [f"10.0.{version}.{number + 1}" for number in range(version % 3)]
    return endpoint_slice_json(f"shop/{name}", "web", addresses, resource_version=version)


HISTORIES = st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=15)


@given(HISTORIES, st.randoms(use_true_random=False))
def test_objects_interleave_in_any_way_and_events_repeat_without_effect(
    history: list[tuple[str, bool]], shuffler: random.Random
) -> None:
    lines: dict[str, list[bytes]] = {name: [] for name in NAMES}
    for version, (name, exists) in enumerate(history, start=1):
        lines[name].append(event("MODIFIED" if exists else "DELETED", version_of(name, version)))
    straight, mixed = make_feed(), make_feed()
    for name in NAMES:
        observe(straight, ENDPOINT_SLICES, *lines[name])
    while any(lines.values()):
        name = shuffler.choice([name for name in NAMES if lines[name]])
        line = lines[name].pop(0)
        observe(mixed, ENDPOINT_SLICES, *[line] * shuffler.randint(1, 3))
    assert state(mixed) == state(straight)


@given(HISTORIES)
def test_a_relist_ends_where_the_watch_would_have(history: list[tuple[str, bool]]) -> None:
    watched, relisted = make_feed(), make_feed()
    alive: dict[str, Json] = {}
    for version, (name, exists) in enumerate(history, start=1):
        value = version_of(name, version)
        alive[name] = value
        if not exists:
            del alive[name]
        observe(watched, ENDPOINT_SLICES, event("MODIFIED" if exists else "DELETED", value))
    replace(relisted, ENDPOINT_SLICES, [version_of(name, 99) for name in NAMES])
    replace(relisted, ENDPOINT_SLICES, list(alive.values()))
    assert state(relisted) == state(watched)


def test_a_relist_of_what_is_known_is_no_revision() -> None:
    feed = make_feed()
    values = [service_json(f"shop/{name}", f"10.96.0.{number}") for number, name in enumerate(NAMES, start=1)]
    replace(feed, SERVICES, values)
    before = feed.store.revision
    replace(feed, SERVICES, list(reversed(values)))
    assert feed.store.revision == before


def test_the_heartbeat_of_a_node_is_no_revision() -> None:
    feed = make_feed()
    node = node_json("n1", "192.168.7.2")
    observe(feed, NODES, event("ADDED", node))
    node["metadata"]["resourceVersion"] = "2"
    node["status"]["conditions"] = [{"type": "Ready", "lastHeartbeatTime": "2026-11-23T01:02:03Z"}]
    observe(feed, NODES, event("MODIFIED", node))
    assert feed.store.revision == 1


def test_an_object_that_turns_hostile_keeps_its_last_good_state_through_watch_and_relist() -> None:
    feed = make_feed()
    good = service_json("shop/web", ports=["http:80"])
    replace(feed, SERVICES, [good, service_json("shop/api", "10.96.0.2")])
    known = state(feed)
    hostile = json.loads(json.dumps(good))
    hostile["spec"]["ports"] = "none"
    observe(feed, SERVICES, event("MODIFIED", hostile))
    replace(feed, SERVICES, [hostile, service_json("shop/api", "10.96.0.2")])
    assert state(feed) == known
    observe(feed, SERVICES, event("DELETED", hostile))
    assert [key.name for key in feed.store.present_keys()] == ["api"]


def test_a_service_that_becomes_foreign_is_removed() -> None:
    feed = make_feed()
    observe(feed, SERVICES, event("ADDED", service_json("shop/web")))
    foreign = service_json("shop/web", labels={"service.kubernetes.io/service-proxy-name": "x"})
    observe(feed, SERVICES, event("MODIFIED", foreign))
    assert len(feed.store) == 0


def test_in_sync_needs_all_four_resources() -> None:
    feed = make_feed()
    for resource in RESOURCES:
        assert not feed.is_in_sync
        replace(feed, resource, [])
    assert feed.is_in_sync
    assert feed.unsynced_kinds == []


def test_each_faulty_object_is_said_once_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(process=False)
    metrics = WatcherMetrics(registry)
    feed = ClusterFeed(
        store=ObjectStore(epoch="e", log_entries_max=10), tracing=Tracing(), metrics=metrics, clock=VirtualClock()
    )
    faulty = service_json("shop/web", spec={"externalIPs": ["bogus", "10.0.0.1"]})

    def count() -> float | None:
        return registry.value("pointsman_watcher_faulty_fields_total", {"resource": "services"})

    for _ in range(3):
        observe(feed, SERVICES, event("MODIFIED", faulty))
    assert count() == 1
    observe(feed, SERVICES, event("MODIFIED", service_json("shop/web")))
    observe(feed, SERVICES, event("MODIFIED", faulty))
    assert count() == 2
