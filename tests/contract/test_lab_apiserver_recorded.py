# SPDX-License-Identifier: Apache-2.0
"""The lab's API server answers in the shape a real one does: held against answers recorded from kube-apiserver 1.36.

A world like the recorded one is written to the server, the recorded requests are asked again, and the structure is
compared: the fields of the envelope, the fields of objects, the words of errors. Values that differ by nature (uids,
times, addresses) are not.
"""

import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from pointsman_lab.apiserver import ApiServer, ClusterOptions, new_cluster
from pointsman_lab.apiserver.resources import ENDPOINTSLICES, NAMESPACES, NODES, SERVICECIDRS, SERVICES

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]


def recorded_folder() -> Path:
    folder = Path(os.environ.get("POINTSMAN_RECORDED") or ROOT.parent / "shared" / "recorded")
    if not (folder / "list-services.json").is_file():
        pytest.skip(f"no recorded answers of a real API server in {folder}; set POINTSMAN_RECORDED to their folder")
    return folder


def recorded(name: str) -> Json:
    exchange: Json = json.loads((recorded_folder() / name).read_text())
    return exchange


def recorded_lines(name: str) -> list[Json]:
    return [json.loads(line) for line in (recorded_folder() / name).read_text().splitlines() if line.strip()]


def without_owners(body: Json) -> Json:
    metadata = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
    return {**body, "metadata": metadata}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ApiServer]:
    """Serve the recorded world: its services, slices, nodes, re-created through admission where that is possible."""
    registry = new_cluster(ClusterOptions(api_addresses=("10.200.0.1",)))
    registry.create(NAMESPACES, {"metadata": {"name": "shop"}})
    for resource, name in (
        (SERVICES, "list-services.json"),
        (ENDPOINTSLICES, "list-endpointslices.json"),
        (NODES, "list-nodes.json"),
    ):
        for item in recorded(name)["body"]["items"]:
            if item["metadata"]["name"] == "kubernetes":
                continue
            metadata = {k: item["metadata"][k] for k in ("name", "labels", "annotations") if k in item["metadata"]}
            body = {**item, "metadata": metadata}
            registry.create(resource, body, item["metadata"].get("namespace", ""))
            if resource is SERVICES:
                registry.update(SERVICES, item | {"metadata": metadata}, "shop", metadata["name"], "status")
    api = ApiServer(registry)
    await api.start()
    yield api
    await api.stop()


async def ask(
    server: ApiServer, path: str, accept: str = "application/json", method: str = "GET", body: Any = None
) -> Any:
    headers = {"Accept": accept, "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, server.url + path, headers=headers, data=json.dumps(body) if body else None
        ) as response,
    ):
        return response.status, response.headers, await response.read()


def fields(value: Any) -> Any:
    """Give the structure of a JSON value: names for maps, each item's structure for lists, the type for the rest."""
    if isinstance(value, dict):
        return {name: fields(item) for name, item in value.items()}
    if isinstance(value, list):
        return [fields(item) for item in value]
    return type(value).__name__


@pytest.mark.parametrize("name", ["get-service.json", "list-services.json", "list-services-proxy-filter.json"])
@pytest.mark.parametrize("what", ["envelope", "objects"])
async def test_services_have_the_recorded_fields(server: ApiServer, name: str, what: str) -> None:
    await check_objects(server, name, what)


@pytest.mark.parametrize(
    "name", ["list-endpointslices.json", "list-endpointslices-proxy-filter.json", "list-nodes.json"]
)
@pytest.mark.parametrize("what", ["envelope", "objects"])
async def test_slices_and_nodes_have_the_recorded_fields(server: ApiServer, name: str, what: str) -> None:
    await check_objects(server, name, what)


async def check_objects(server: ApiServer, name: str, what: str) -> None:
    exchange = recorded(name)
    status, headers, raw = await ask(server, exchange["request"]["path"])
    answer, real = json.loads(raw), exchange["body"]
    if what == "envelope":
        assert (status, headers["Content-Type"]) == (exchange["status"], exchange["headers"]["Content-Type"])
        assert headers.get("Transfer-Encoding") == exchange["headers"].get("Transfer-Encoding")
        assert list(answer) == list(real)
        return
    ours, theirs = answer.get("items", [answer]), real.get("items", [real])
    assert [item["metadata"]["name"] for item in ours] == [item["metadata"]["name"] for item in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        assert fields(without_owners(mine)) == fields(without_owners(its)), its["metadata"]["name"]


async def test_service_cidr_has_the_recorded_fields(server: ApiServer) -> None:
    real = recorded("list-servicecidrs.json")["body"]
    answer = json.loads((await ask(server, SERVICECIDRS.path()))[2])
    assert answer["items"][0]["spec"] == real["items"][0]["spec"]
    assert fields(without_owners(answer["items"][0])) == fields(without_owners(real["items"][0]))


async def test_chunks_walk_through_the_list_as_recorded(server: ApiServer) -> None:
    token, names = "", []
    for number in (1, 2, 3):
        real = recorded(f"list-services-chunk-{number}.json")["body"]
        path = SERVICES.path() + "?limit=4" + (f"&continue={token}" if token else "")
        answer = json.loads((await ask(server, path))[2])
        assert list(answer["metadata"]) == list(real["metadata"])
        assert answer["metadata"].get("remainingItemCount") == real["metadata"].get("remainingItemCount")
        if "continue" in real["metadata"]:
            assert opened(answer["metadata"]["continue"])["start"] == opened(real["metadata"]["continue"])["start"]
        token = answer["metadata"].get("continue", "")
        names += [item["metadata"]["name"] for item in answer["items"]]
    assert names == [item["metadata"]["name"] for item in recorded("list-services.json")["body"]["items"]]


def opened(token: str) -> Json:
    opened_token: Json = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    return opened_token


async def test_table_has_the_recorded_columns_and_cells(server: ApiServer) -> None:
    exchange = recorded("list-services-table.json")
    answer = json.loads((await ask(server, exchange["request"]["path"], exchange["request"]["accept"]))[2])
    real = exchange["body"]
    assert list(answer) == list(real)
    columns = [(c["name"], c["type"], c["format"], c["priority"]) for c in real["columnDefinitions"]]
    assert [(c["name"], c["type"], c["format"], c["priority"]) for c in answer["columnDefinitions"]] == columns
    address, age = 2, 5
    for mine, its in zip(answer["rows"], real["rows"], strict=True):
        assert list(mine) == list(its)
        assert (mine["object"]["kind"], mine["object"]["apiVersion"]) == (
            its["object"]["kind"],
            its["object"]["apiVersion"],
        )
        assert len(mine["cells"]) == len(its["cells"])
        for index, (cell, real_cell) in enumerate(zip(mine["cells"], its["cells"], strict=True)):
            if index not in (address, age):
                assert cell == real_cell, its["cells"][0]


@pytest.mark.parametrize("name", ["error-404.json", "error-404-path.json"])
async def test_missing_things_are_answered_word_for_word(server: ApiServer, name: str) -> None:
    exchange = recorded(name)
    status, headers, raw = await ask(server, exchange["request"]["path"])
    assert (status, headers["Content-Type"]) == (exchange["status"], exchange["headers"]["Content-Type"])
    if "body" in exchange:
        assert json.loads(raw) == exchange["body"]
    else:
        assert raw == base64.b64decode(exchange["body_base64"])


async def test_name_that_is_taken_is_answered_word_for_word(server: ApiServer) -> None:
    real = recorded("error-409-exists.json")
    path = ENDPOINTSLICES.path("shop")
    again = {"metadata": {"name": "web-v4-a"}, "addressType": "IPv4", "endpoints": []}
    status, _, raw = await ask(server, path, method="POST", body=again)
    assert (status, json.loads(raw)) == (real["status"], real["body"])


async def test_stale_update_is_answered_word_for_word(server: ApiServer) -> None:
    real = recorded("error-409-conflict.json")
    path = ENDPOINTSLICES.path("shop", "web-v4-a")
    present = json.loads((await ask(server, path))[2])
    stale = {**present, "metadata": {**present["metadata"], "resourceVersion": "1"}, "endpoints": []}
    status, _, raw = await ask(server, path, method="PUT", body=stale)
    assert (status, json.loads(raw)) == (real["status"], real["body"])


async def test_invalid_service_is_answered_word_for_word(server: ApiServer) -> None:
    real = recorded("error-422-invalid.json")
    bad = {"metadata": {"name": "bad"}, "spec": {"ports": [{"port": 70000}]}}
    status, _, raw = await ask(server, SERVICES.path("shop"), method="POST", body=bad)
    assert (status, json.loads(raw)) == (real["status"], real["body"])


async def test_expired_continue_token_is_answered_as_recorded(server: ApiServer) -> None:
    real = recorded("error-410-continue-expired.json")
    first = json.loads((await ask(server, SERVICES.path() + "?limit=3"))[2])
    server.registry.create(SERVICES, {"metadata": {"name": "n"}, "spec": {"ports": [{"port": 1}]}}, "shop")
    server.registry.store.compact()
    token = first["metadata"]["continue"]
    status, _, raw = await ask(server, f"{SERVICES.path()}?limit=3&continue={token}")
    answer = json.loads(raw)
    fresh, real_fresh = answer["metadata"].pop("continue"), real["body"]["metadata"].pop("continue")
    assert (status, answer) == (real["status"], real["body"])
    assert list(opened(fresh).items())[:2] == list(opened(real_fresh).items())[:2]
    assert (await ask(server, f"{SERVICES.path()}?limit=3&continue={fresh}"))[0] == 200


async def test_continue_token_that_is_none_is_a_bad_request_as_recorded(server: ApiServer) -> None:
    real = recorded("error-continue-garbage.json")
    status, _, raw = await ask(server, real["request"]["path"])
    answer = json.loads(raw)
    assert (status, list(answer), answer["reason"]) == (real["status"], list(real["body"]), real["body"]["reason"])
    assert answer["message"].startswith("invalid continue token: continue key is not valid: ")


async def test_discovery_has_the_recorded_shape_and_describes_what_is_served(server: ApiServer) -> None:
    for name in ("api.json", "apis.json", "api-v1.json", "apis-discovery-v1.json", "version.json"):
        real = recorded(name)
        _, _, raw = await ask(server, real["request"]["path"])
        answer = json.loads(raw)
        assert list(answer) == list(real["body"]), name
    known = {entry["name"]: entry for entry in recorded("api-v1.json")["body"]["resources"]}
    served = json.loads((await ask(server, "/api/v1"))[2])["resources"]
    slices = json.loads((await ask(server, "/apis/discovery.k8s.io/v1"))[2])["resources"]
    known["endpointslices"] = recorded("apis-discovery-v1.json")["body"]["resources"][0]
    for entry in (*served, *slices):
        assert drop_hash(entry) == drop_hash(known[entry["name"]])


def drop_hash(entry: Json) -> Json:
    return {k: v for k, v in entry.items() if k != "storageVersionHash"}


async def watch_lines(server: ApiServer, path: str, count: int) -> list[Json]:
    lines: list[Json] = []
    async with aiohttp.ClientSession() as session, session.get(server.url + path) as response:
        assert response.status == 200
        async for raw in response.content:
            lines.append(json.loads(raw))
            if len(lines) == count:
                break
    return lines


async def test_expired_watch_is_one_error_event_as_recorded(server: ApiServer) -> None:
    _, real = recorded_lines("watch-expired.jsonl")
    server.registry.store.compact()
    (answer,) = await watch_lines(server, f"{ENDPOINTSLICES.path()}?watch=1&resourceVersion=5&timeoutSeconds=10", 10)
    assert fields(answer) == fields(real)
    assert (answer["type"], answer["object"]["reason"]) == (real["type"], real["object"]["reason"])
    assert answer["object"]["message"].startswith("too old resource version: 5 (")


async def test_watch_list_ends_its_initial_events_as_recorded(server: ApiServer) -> None:
    request, *real = recorded_lines("watch-list-endpointslices.jsonl")
    first = [line for line in real if line["type"] == "ADDED"]
    marks = [
        line for line in real if line["object"]["metadata"].get("annotations", {}).get("k8s.io/initial-events-end")
    ]
    listed = recorded("list-endpointslices.json")["body"]["items"]
    answer = await watch_lines(server, request["request"]["path"], len(listed) + 1)
    assert {line["type"] for line in answer[:-1]} == {"ADDED"}
    assert [line["object"]["metadata"]["name"] for line in answer[:-1]] == [o["metadata"]["name"] for o in listed]
    assert fields(answer[-1]) == fields(marks[0])
    assert list(answer[0]["object"])[:3] == list(first[0]["object"])[:3]


@pytest.mark.parametrize("name", ["watch-services.jsonl", "watch-endpointslices.jsonl", "watch-nodes.jsonl"])
async def test_bookmarks_carry_the_recorded_bare_object(server: ApiServer, name: str) -> None:
    request, *real = recorded_lines(name)
    marks = [line for line in real if line["type"] == "BOOKMARK"]
    path = request["request"]["path"].partition("?")[0]
    version = server.registry.store.revision
    query = f"?watch=1&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds=3"

    (answer,) = await watch_lines(server, path + query, 1)
    assert fields(answer) == fields(marks[-1])
    assert answer["object"]["metadata"]["resourceVersion"] == str(version)


async def test_watch_without_a_version_starts_with_what_is_there_as_recorded(server: ApiServer) -> None:
    _, *real = recorded_lines("watch-services-no-rv.jsonl")
    answer = await watch_lines(server, f"{SERVICES.path()}?watch=1&timeoutSeconds=5", 12)
    assert [line["type"] for line in answer] == [line["type"] for line in real[:12]] == ["ADDED"] * 12
    assert list(answer[0]["object"]) == list(real[0]["object"])
