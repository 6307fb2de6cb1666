# SPDX-License-Identifier: Apache-2.0
"""One counter, a bounded history, lists in the past and watches over it."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_lab.apiserver import ApiError, ListOptions, ObjectStore
from pointsman_lab.apiserver.listing import list_bytes, list_objects
from pointsman_lab.apiserver.resources import NODES, SERVICES
from pointsman_lab.apiserver.selectors import parse_selector
from pointsman_lab.apiserver.watching import WatchCursor, WatchOptions


def service(name: str, namespace: str = "shop", **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": {"clusterIP": "10.96.0.1"}}


def listing(store: ObjectStore, **options: Any) -> Any:
    return list_objects(store.collection(SERVICES), store.revision, ListOptions(**options))


def cursor(store: ObjectStore, version: int | str = "", **options: Any) -> WatchCursor:
    return WatchCursor(
        store.collection(SERVICES), store.revision, WatchOptions(resource_version=str(version), **options)
    )


def seen(watch: WatchCursor) -> list[tuple[str, str]]:
    return [(kind, event.key) for kind, event in watch.take(100)]


def test_every_write_of_any_resource_takes_the_next_version() -> None:
    store = ObjectStore()
    first = store.create(SERVICES, service("a"))
    second = store.create(NODES, {"metadata": {"name": "n"}})
    third = store.replace(SERVICES, first, service("a", x="1"))
    store.remove(SERVICES, third)
    assert (second.resource_version, third.resource_version, store.revision) == (
        first.resource_version + 1,
        first.resource_version + 2,
        first.resource_version + 3,
    )


def test_write_on_an_old_version_conflicts_and_changes_nothing() -> None:
    store = ObjectStore()
    old = store.create(SERVICES, service("a"))
    store.replace(SERVICES, old, service("a", x="1"))
    before = store.revision
    with pytest.raises(ApiError) as refused:
        store.replace(SERVICES, old, service("a", x="2"))
    assert (refused.value.code, refused.value.reason, store.revision) == (409, "Conflict", before)


def test_chunks_stay_at_the_version_of_the_first_one() -> None:
    store = ObjectStore()
    store.load(SERVICES, [service(name) for name in "abcde"])
    first = listing(store, limit=2)
    store.create(SERVICES, service("bb"))
    gone = store.get(SERVICES, "shop/d")
    assert gone is not None
    store.remove(SERVICES, gone)
    rest = listing(store, limit=10, continue_token=first.continue_token)
    assert [o.name for o in (*first.objects, *rest.objects)] == list("abcde")
    assert (first.remaining, rest.resource_version, rest.continue_token) == (3, first.resource_version, "")


def test_compacted_continue_token_answers_410_with_a_token_that_goes_on_in_the_present() -> None:
    store = ObjectStore()
    store.load(SERVICES, [service(name) for name in "abcd"])
    first = listing(store, limit=2)
    store.create(SERVICES, service("cc"))
    store.compact()
    with pytest.raises(ApiError) as refused:
        listing(store, limit=2, continue_token=first.continue_token)
    assert (refused.value.code, refused.value.reason) == (410, "Expired")
    fresh = refused.value.status["metadata"]["continue"]
    assert json.loads(base64.urlsafe_b64decode(fresh + "=="))["rv"] == -1
    rest = listing(store, continue_token=fresh)
    assert [o.name for o in rest.objects] == ["c", "cc", "d"]
    assert rest.resource_version == store.revision


def test_version_match_rules() -> None:
    store = ObjectStore()
    old = store.create(SERVICES, service("a")).resource_version
    store.create(SERVICES, service("b"))
    assert len(listing(store, resource_version=str(old), match="Exact").objects) == 1
    assert len(listing(store, resource_version=str(old), match="NotOlderThan").objects) == 2
    assert len(listing(store, resource_version=str(old), limit=10).objects) == 1
    for options, code in (
        ({"match": "Exact"}, 422),
        ({"resource_version": "0", "match": "Exact"}, 422),
        ({"resource_version": "99"}, 504),
        ({"resource_version": "x"}, 400),
        ({"continue_token": "garbage"}, 400),
    ):
        with pytest.raises(ApiError) as refused:
            listing(store, **options)
        assert refused.value.code == code, options
    store.compact()
    with pytest.raises(ApiError) as refused:
        listing(store, resource_version=str(old), match="Exact")
    assert refused.value.code == 410


def test_namespace_range_takes_no_neighbour() -> None:
    store = ObjectStore()
    store.load(SERVICES, [service("x", ns) for ns in ("shop", "shop-2", "sho", "shop0", "shopp")])
    assert [o.namespace for o in listing(store, namespace="shop").objects] == ["shop"]


def test_list_bytes_are_the_objects_without_kind_and_version() -> None:
    store = ObjectStore()
    assert json.loads(list_bytes(SERVICES, listing(store)))["items"] == []
    store.load(SERVICES, [service("a"), service("b")])
    body = json.loads(list_bytes(SERVICES, listing(store)))
    assert body["kind"] == "ServiceList"
    assert [item["metadata"]["name"] for item in body["items"]] == ["a", "b"]
    assert all("kind" not in item for item in body["items"])


def test_watch_shows_changes_after_its_version_in_order() -> None:
    store = ObjectStore()
    a = store.create(SERVICES, service("a"))
    watch = cursor(store, store.revision)
    a = store.replace(SERVICES, a, service("a", x="1"))
    store.create(SERVICES, service("b"))
    store.remove(SERVICES, a)
    assert seen(watch) == [("MODIFIED", "shop/a"), ("ADDED", "shop/b"), ("DELETED", "shop/a")]
    assert seen(watch) == []


def test_label_change_looks_like_removal_and_creation_to_a_selector() -> None:
    store = ObjectStore()
    a = store.create(SERVICES, service("a"))
    selector = parse_selector(SERVICES, "!proxy", "spec.clusterIP!=None")
    watch = cursor(store, store.revision, selector=selector)
    a = store.replace(SERVICES, a, service("a", proxy="other"))
    a = store.replace(SERVICES, a, service("a", proxy="third"))
    a = store.replace(SERVICES, a, service("a"))
    (first, gone), (second, _back) = watch.take(100)
    assert (first, second) == ("DELETED", "ADDED")
    shown = json.loads(gone.encoded("DELETED"))
    assert shown["metadata"].get("labels") in (None, {})
    assert shown["metadata"]["resourceVersion"] == str(gone.resource_version)


def test_deleted_event_shows_the_last_state_with_the_new_version() -> None:
    store = ObjectStore()
    a = store.create(SERVICES, service("a", x="last"))
    watch = cursor(store, store.revision)
    store.remove(SERVICES, a)
    ((_kind, event),) = watch.take(10)
    shown = json.loads(event.encoded("DELETED"))
    assert (shown["metadata"]["labels"], shown["metadata"]["resourceVersion"]) == ({"x": "last"}, str(store.revision))


def test_watch_from_the_future_waits_for_it() -> None:
    store = ObjectStore()
    watch = cursor(store, store.revision + 2)
    store.load(SERVICES, [service("a"), service("b")])
    assert seen(watch) == []
    store.create(SERVICES, service("c"))
    assert seen(watch) == [("ADDED", "shop/c")]


def test_compaction_ends_a_watch_that_is_behind_and_only_that() -> None:
    store = ObjectStore()
    store.create(SERVICES, service("a"))
    behind, ahead = cursor(store, store.revision), None
    store.create(SERVICES, service("b"))
    ahead = cursor(store, store.revision)
    store.compact()
    with pytest.raises(ApiError) as refused:
        behind.take(10)
    assert (refused.value.code, refused.value.reason) == (410, "Expired")
    assert seen(ahead) == []


def test_full_log_forgets_its_oldest_part() -> None:
    store = ObjectStore(log_capacity=8)
    store.load(SERVICES, [service(f"s{n}") for n in range(40)])
    log = store.collection(SERVICES).log
    assert len(log) <= 10
    with pytest.raises(ApiError):
        cursor(store, 3)
    assert len(cursor(store, log.compacted).take(100)) == len(log)


def test_delayed_events_wait_for_their_time() -> None:
    now = [10.0]
    store = ObjectStore(clock=lambda: now[0])
    watch = cursor(store, store.revision)
    store.create(SERVICES, service("a"))
    assert watch.take(10, committed_before=9.5) == []
    assert watch.next_commit_time() == 10.0
    assert len(watch.take(10, committed_before=10.0)) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "remove"])), max_size=30), st.integers(0, 30))
def test_past_is_the_present_with_the_log_undone(steps: list[tuple[str, str]], stop: int) -> None:
    store = ObjectStore()
    snapshots: dict[int, dict[str, bytes]] = {}
    collection = store.collection(SERVICES)
    for name, action in steps:
        snapshots[store.revision] = {key: stored.encoded for key, stored in collection.objects.items()}
        present = store.get(SERVICES, f"shop/{name}")
        if action == "remove":
            if present:
                store.remove(SERVICES, present)
        elif present:
            store.replace(SERVICES, present, service(name, at=str(store.revision)))
        else:
            store.create(SERVICES, service(name))
    for version, expected in snapshots.items():
        assert {key: stored.encoded for key, stored in collection.at(version).items()} == expected


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["in", "out", "remove"])), max_size=20))
def test_selected_watch_replays_to_the_selected_list(steps: list[tuple[str, str]]) -> None:
    store = ObjectStore()
    selector = parse_selector(SERVICES, "side=in", "")
    watch = cursor(store, store.revision, selector=selector)
    for name, action in steps:
        present = store.get(SERVICES, f"shop/{name}")
        if action == "remove":
            if present:
                store.remove(SERVICES, present)
        elif present:
            store.replace(SERVICES, present, service(name, side=action))
        else:
            store.create(SERVICES, service(name, side=action))
    held: dict[str, bytes] = {}
    for kind, event in watch.take(1000):
        assert (kind == "ADDED") == (event.key not in held)
        if kind == "DELETED":
            del held[event.key]
        else:
            held[event.key] = event.encoded(kind)
    listed = {o.key: o.encoded for o in listing(store, selector=selector).objects}
    assert held == listed
