# SPDX-License-Identifier: Apache-2.0
"""A reflector over real HTTP against a scripted API server."""

from functools import partial
from typing import Final

import msgspec
import pytest

from pointsman_chassis.settings import Duration
from pointsman_model.cluster import ObjectKey, ObjectKind, ResourceVersions
from pointsman_watcher.core.resources import NODES, SERVICE_CIDRS
from pointsman_watcher.kube.machine import Phase, ReflectorMachine
from support.cluster_objects import Json, bookmark, event, list_json, node_json, service_json
from support.scripted_api_server import QUICK, World, refusal, reply

MORE: Final = "more"
WATCH_LIST: Final = msgspec.structs.replace(QUICK, initial_list="watchList")


def web(name: str, last: int = 1, version: int = 1) -> Json:
    return service_json(f"shop/{name}", f"10.96.0.{last}", resource_version=version)


def listed(*names: str, version: int = 5, more: str = "") -> bytes:
    return list_json(
        [web(name, index) for index, name in enumerate(names, 1)], resource_version=version, continue_token=more
    )


async def test_a_chunked_list_is_put_together_and_then_watched(world: World) -> None:
    world.server.lists = [reply(listed("a", "b", more="next")), reply(listed("c"))]
    world.start()
    watch = await world.server.next_watch()
    assert world.names() == ["a", "b", "c"]
    assert world.feed.store.revision == 1
    assert [query.get("continue") for query in world.server.queries()] == [None, "next", None]
    assert watch.query["resourceVersion"] == "5"
    assert watch.query["fieldSelector"] == "spec.clusterIP!=None"
    assert watch.query["labelSelector"] == "!service.kubernetes.io/service-proxy-name"


async def test_only_get_is_ever_sent_and_json_is_asked_for(world: World) -> None:
    world.server.lists = [reply(listed("a"))]
    world.start()
    await world.server.next_watch()
    assert {request.method for request in world.server.requests} == {"GET"}
    assert {request.headers["Accept"] for request in world.server.requests} == {"application/json"}
    assert {request.headers["Authorization"] for request in world.server.requests} == {"Bearer secret"}


async def test_events_become_changes_and_bookmarks_move_the_place(world: World) -> None:
    world.server.lists = [reply(listed("a"))]
    world.start()
    watch = await world.server.next_watch()
    await watch.send(event("ADDED", web("b", 2, 6)), event("DELETED", web("a", 1, 7)))
    await world.until_names(["b"])
    assert world.feed.store.revision == 2
    await watch.send(bookmark(40))
    watch.end()
    assert (await world.server.next_watch()).query["resourceVersion"] == "40"


async def test_a_line_cut_into_single_bytes_is_one_event(world: World) -> None:
    world.server.lists = [reply(listed())]
    world.start()
    watch = await world.server.next_watch()
    line = event("ADDED", web("a", 1, 6))
    for index in range(0, len(line), 7):
        await watch.send(line[index : index + 7])
    await world.until_names(["a"])


async def test_a_dropped_connection_resumes_without_a_list(world: World) -> None:
    world.server.lists = [reply(listed("a"))]
    world.start()
    watch = await world.server.next_watch()
    await watch.send(event("ADDED", web("b", 2, 9)))
    await world.until_names(["a", "b"])
    watch.cut()
    again = await world.server.next_watch()
    assert again.query["resourceVersion"] == "9"
    assert sum("watch" not in query for query in world.server.queries()) == 1
    assert world.registry.value("pointsman_watcher_watch_ends_total", {"resource": "services", "reason": "lost"}) == 1


async def test_a_server_that_was_restored_from_a_backup_is_noticed_when_it_is_back(world: World) -> None:
    world.server.lists = [reply(listed("a", "b", version=50)), reply(listed("a", version=30))]
    world.start()
    watch = await world.server.next_watch()
    await world.until_names(["a", "b"])
    assert world.feed.store.resource_versions == ResourceVersions(services=50)
    world.server.version = "30"
    watch.cut()
    again = await world.server.next_watch()
    assert (again.query["resourceVersion"], world.server.version_questions) == ("30", 1)
    assert world.names() == ["a"]
    assert world.feed.store.resource_versions == ResourceVersions(services=30)
    regressions = "pointsman_watcher_resource_version_regressions_total"
    assert world.registry.value(regressions, {"resource": "services"}) == 1


async def test_events_lists_and_bookmarks_say_how_far_the_server_was_read(world: World) -> None:
    world.server.lists = [reply(listed("a", version=5))]
    world.start()
    watch = await world.server.next_watch()
    await world.until(lambda: world.feed.store.resource_versions == ResourceVersions(services=5))
    revision = world.feed.store.revision
    await watch.send(event("MODIFIED", web("a", 1, 7)))
    await world.until(lambda: world.feed.store.resource_versions == ResourceVersions(services=7))
    await watch.send(event("BOOKMARK", {"kind": "Service", "metadata": {"resourceVersion": "40"}}))
    await world.until(lambda: world.feed.store.resource_versions == ResourceVersions(services=40))
    assert world.feed.store.revision == revision, "nothing has changed"
    assert world.feed.last_contact_ns > 0


async def test_a_truncated_line_is_not_applied_and_comes_again(world: World) -> None:
    world.server.lists = [reply(listed())]
    world.start()
    watch = await world.server.next_watch()
    line = event("ADDED", web("b", 2, 9))
    await watch.send(event("ADDED", web("a", 1, 8)), line[: len(line) // 2])
    await world.until_names(["a"])
    watch.end()
    again = await world.server.next_watch()
    assert again.query["resourceVersion"] == "8"
    await again.send(line)
    await world.until_names(["a", "b"])


async def test_a_garbage_line_costs_a_reconnect_from_the_last_event(world: World) -> None:
    world.server.lists = [reply(listed())]
    world.start()
    watch = await world.server.next_watch()
    await watch.send(event("ADDED", web("a", 1, 8)), b"<html>\n", event("ADDED", web("b", 2, 9)))
    again = await world.server.next_watch()
    assert again.query["resourceVersion"] == "8"
    assert world.names() == ["a"]
    await again.send(event("ADDED", web("b", 2, 9)))
    await world.until_names(["a", "b"])


async def test_a_silent_watch_is_opened_again(world: World) -> None:
    world.server.lists = [reply(listed("a"))]
    world.start(settings=msgspec.structs.replace(QUICK, stall_timeout=Duration(0.2)))
    first = await world.server.next_watch()
    second = await world.server.next_watch()
    assert second.query["resourceVersion"] == first.query["resourceVersion"] == "5"
    assert world.registry.value("pointsman_watcher_watch_ends_total", {"resource": "services", "reason": "stalled"})
    assert world.names() == ["a"]


def _is_at(machine: ReflectorMachine, version: str) -> bool:
    return machine.resource_version == version


async def test_bookmarks_alone_keep_a_watch_alive(world: World) -> None:
    world.server.lists = [reply(listed("a"))]
    machine = world.start(settings=msgspec.structs.replace(QUICK, stall_timeout=Duration(2)))
    watch = await world.server.next_watch()
    for version in range(10, 20):
        await watch.send(bookmark(version))
        await world.until(partial(_is_at, machine, str(version)))
    assert (
        world.registry.value("pointsman_watcher_watch_ends_total", {"resource": "services", "reason": "stalled"})
        is None
    )


@pytest.mark.parametrize("as_event", [True, False])
async def test_lost_history_relists_and_changes_only_what_differs(world: World, as_event: bool) -> None:
    world.server.lists = [reply(listed("a", "b", "c"))]
    world.start()
    watch = await world.server.next_watch()
    kept = world.feed.store.entry(ObjectKey(ObjectKind.SERVICE, "shop", "a"))
    relist = list_json([web("a", 1), web("c", 30), web("d", 4)], resource_version=90)
    world.server.lists = [reply(relist)]
    if as_event:
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        await watch.send(event("ERROR", gone))
    else:
        world.server.watch_answers = [refusal(410, "too old resource version")]
        watch.cut()
    again = await world.server.next_watch()
    assert again.query["resourceVersion"] == "90"
    assert world.names() == ["a", "c", "d"]
    assert world.feed.store.revision == 2
    assert world.feed.store.entry(ObjectKey(ObjectKind.SERVICE, "shop", "a")) is kept
    assert world.feed.store.keys_since("e", 1) is not None
    assert {key.name for key in world.feed.store.keys_since("e", 1) or []} == {"b", "c", "d"}


async def test_a_list_compacted_between_its_pages_starts_again(world: World) -> None:
    expired = refusal(410, "The provided continue parameter is too old", continue_token=MORE)
    world.server.lists = [reply(listed("a", "gone", more="t1")), expired, reply(listed("a", "b", version=9))]
    world.start()
    watch = await world.server.next_watch()
    assert watch.query["resourceVersion"] == "9"
    assert world.names() == ["a", "b"]
    assert MORE not in {query.get("continue") for query in world.server.queries()}


async def test_a_watch_list_is_complete_at_its_bookmark(world: World) -> None:
    world.start(settings=WATCH_LIST)
    watch = await world.server.next_watch()
    assert watch.query["sendInitialEvents"] == "true"
    await watch.send(event("ADDED", web("a", 1, 3)), event("ADDED", web("b", 2, 4)))
    await watch.send(bookmark(7, initial_events_end=True), event("ADDED", web("c", 3, 8)))
    await world.until_names(["a", "b", "c"])
    assert world.feed.store.revision == 2
    watch.cut()
    assert (await world.server.next_watch()).query["resourceVersion"] == "8"
    assert world.server.requests[0].query["resourceVersionMatch"] == "NotOlderThan"
    assert len(world.server.requests) == 2


async def test_a_watch_list_that_breaks_off_shows_nothing_of_it(world: World) -> None:
    world.start(settings=WATCH_LIST)
    watch = await world.server.next_watch()
    await watch.send(event("ADDED", web("a", 1, 3)))
    watch.cut()
    again = await world.server.next_watch()
    assert world.names() == []
    await again.send(event("ADDED", web("b", 2, 4)), bookmark(7, initial_events_end=True))
    await world.until_names(["b"])


async def test_a_server_without_watch_list_is_listed_in_pages(world: World) -> None:
    world.server.watch_answers = [refusal(422, "sendInitialEvents is forbidden for watch")]
    world.server.lists = [reply(listed("a"))]
    world.start(settings=WATCH_LIST)
    await world.server.next_watch()
    assert world.names() == ["a"]


async def test_a_server_that_never_ends_the_initial_events_is_listed_in_pages(world: World) -> None:
    world.server.lists = [reply(listed("a", "b"))]
    machine = world.start(settings=msgspec.structs.replace(WATCH_LIST, stall_timeout=Duration(0.3)))
    watch = await world.server.next_watch()
    await watch.send(event("ADDED", web("a", 1, 3)))
    await world.until_names(["a", "b"])
    assert machine.way == "chunked_list"


async def test_a_refused_field_selector_is_filtered_here(world: World) -> None:
    world.server.lists = [
        refusal(400, 'field label not supported: "spec.clusterIP"'),
        reply(list_json([web("a"), service_json("shop/headless", "None")], resource_version=5)),
    ]
    world.start()
    watch = await world.server.next_watch()
    assert world.names() == ["a"]
    assert "fieldSelector" not in watch.query


async def test_retry_after_of_a_busy_server_is_waited_for(world: World) -> None:
    world.server.lists = [refusal(429, "slow down", {"Retry-After": "1"}), reply(listed("a"))]
    machine = world.start()
    await world.until(lambda: machine.delay_seconds >= 1)
    await world.until_names(["a"])


@pytest.mark.parametrize("status", [401, 403, 500, 503])
async def test_refusals_are_retried_and_counted_and_nothing_is_lost(world: World, status: int) -> None:
    world.server.lists = [reply(listed("a"))]
    world.start()
    watch = await world.server.next_watch()
    world.server.watch_answers = [refusal(status), refusal(status)]
    watch.cut()
    await world.server.next_watch()
    assert world.names() == ["a"]
    labels = {"resource": "services", "code": str(status)}
    assert world.registry.value("pointsman_watcher_request_failures_total", labels) == 2


async def test_an_answer_that_is_no_list_is_asked_again(world: World) -> None:
    world.server.lists = [reply(b"<html>proxy</html>"), reply(listed("a"))]
    world.start()
    await world.until_names(["a"])


async def test_an_absent_service_cidr_api_counts_as_synced_and_empty_until_it_appears(world: World) -> None:
    world.server.lists = [
        refusal(404, "404 page not found"),
        refusal(404, "404 page not found"),
        reply(b'{"metadata":{"resourceVersion":"3"},"items":[]}'),
    ]
    machine = world.start(SERVICE_CIDRS)
    await world.until(lambda: "service_cidr" not in world.feed.unsynced_kinds)
    await world.server.next_watch()
    assert machine.phase is Phase.WATCHING


async def test_a_missing_required_api_is_never_taken_as_empty(world: World) -> None:
    world.server.lists = [refusal(404, "404 page not found")]
    world.start(NODES)
    await world.until(lambda: len(world.server.requests) >= 3)
    assert "node" in world.feed.unsynced_kinds


async def test_a_huge_object_is_skipped_and_the_watch_goes_on(world: World) -> None:
    world.server.lists = [reply(listed("a"))]
    world.start(settings=msgspec.structs.replace(QUICK, watch_line_bytes_max=1 << 16))
    watch = await world.server.next_watch()
    huge = web("a", 1, 6)
    huge["metadata"]["annotations"] = {"x": "y" * (1 << 20)}
    await watch.send(event("MODIFIED", huge), event("ADDED", web("b", 2, 7)))
    await world.until_names(["a", "b"])
    assert world.registry.value("pointsman_watcher_rejected_objects_total", {"resource": "services"}) == 1
    assert len(world.server.requests) == 2


async def test_a_megabyte_of_annotations_is_no_problem(world: World) -> None:
    huge = web("a")
    huge["metadata"]["annotations"] = {"x": "y" * (3 << 20)}
    world.server.lists = [reply(list_json([huge, web("b", 2)], resource_version=5))]
    world.start()
    watch = await world.server.next_watch()
    assert world.names() == ["a", "b"]
    huge["spec"]["clusterIPs"] = ["10.96.0.77"]
    await watch.send(event("MODIFIED", huge))
    await world.until(lambda: world.feed.store.revision == 2)


async def test_a_page_above_the_limit_is_asked_for_in_smaller_ones(world: World) -> None:
    big = [web(f"n{number}") for number in range(3)]
    for value in big:
        value["metadata"]["annotations"] = {"x": "y" * 600_000}
    world.server.lists = [
        reply(list_json(big)),
        reply(list_json(big[:1], continue_token=MORE)),
        reply(list_json(big[1:2])),
    ]
    world.start(settings=msgspec.structs.replace(QUICK, page_bytes_max=1 << 20))
    await world.until_names(["n0", "n1"])
    assert [query.get("limit") for query in world.server.queries()][:3] == ["500", "62", "62"]


async def test_the_answer_of_a_node_watch_reaches_the_store(world: World) -> None:
    world.server.lists = [reply(list_json([node_json("n1", "192.168.7.2")], resource_version=5))]
    world.start(NODES)
    watch = await world.server.next_watch()
    assert "labelSelector" not in watch.query
    await watch.send(event("ADDED", node_json("n2", "192.168.7.3")))
    await world.until_names(["n1", "n2"])


async def test_an_api_server_that_is_away_is_waited_for(world: World, unused_tcp_port: int) -> None:
    world.server.lists = [reply(listed("a"))]
    good = world.kubeconfig.read_text()
    world.kubeconfig.write_text(good.replace(world.server.url, f"http://127.0.0.1:{unused_tcp_port}"))
    machine = world.start()
    failures = {"resource": "services", "code": "0"}
    await world.until(lambda: (world.registry.value("pointsman_watcher_request_failures_total", failures) or 0) >= 2)
    assert machine.phase is Phase.INITIAL
    world.kubeconfig.write_text(good)
    world.accesses[0].doubt()
    await world.until_names(["a"])
