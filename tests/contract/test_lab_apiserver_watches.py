# SPDX-License-Identifier: Apache-2.0
"""Watches over a real connection: order, latency path, faults on request, and what the server counts."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from pointsman_lab.apiserver import ApiClient, ApiError, ApiServer, ServerOptions, WatchEvent, new_cluster
from pointsman_lab.apiserver.resources import ENDPOINTSLICES, SERVICES, by_plural

CONFIGMAPS = by_plural("", "configmaps")
DEADLINE_SECONDS = 10.0


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ApiServer]:
    api = ApiServer(new_cluster(), ServerOptions(bookmark_seconds=0.05))
    await api.start()
    yield api
    await api.stop()


@pytest_asyncio.fixture
async def client(server: ApiServer) -> AsyncIterator[ApiClient]:
    async with ApiClient(server.url) as opened:
        yield opened


class Watch:
    """A watch read in the background, without its bookmarks; `next` waits for one event with a deadline."""

    def __init__(self, client: ApiClient, resource: Any = CONFIGMAPS, **query: str) -> None:
        self.events: asyncio.Queue[WatchEvent | None] = asyncio.Queue()
        self.bookmarks: list[WatchEvent] = []
        self.failure: Exception | None = None
        self._task = asyncio.create_task(self._read(client, resource, query))

    async def _read(self, client: ApiClient, resource: Any, query: dict[str, str]) -> None:
        try:
            async for event in client.watch(resource, **query):
                if event.type == "BOOKMARK":
                    self.bookmarks.append(event)
                else:
                    self.events.put_nowait(event)
        except aiohttp.ClientError as error:
            self.failure = error
        self.events.put_nowait(None)

    async def next(self) -> WatchEvent | None:
        return await asyncio.wait_for(self.events.get(), DEADLINE_SECONDS)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def eventually(condition: Any, what: str) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE_SECONDS
    while not condition():
        assert loop.time() < end, f"not within {DEADLINE_SECONDS} s: {what}"
        await asyncio.sleep(0.005)


async def opened(server: ApiServer, client: ApiClient, count: int = 1, **query: str) -> list[Watch]:
    version = str(server.registry.store.revision)
    watches = [Watch(client, resourceVersion=version, **query) for _ in range(count)]
    await eventually(lambda: server.stats.open_watches["configmaps"] == count, "the watches are open")
    return watches


def name_of(event: WatchEvent | None) -> tuple[str, str]:
    assert event is not None
    return event.type, event.object["metadata"]["name"]


async def make(client: ApiClient, name: str) -> Any:
    return await client.create(CONFIGMAPS, {"metadata": {"name": name}}, "default")


async def test_every_watcher_sees_every_change_in_order(server: ApiServer, client: ApiClient) -> None:
    watches = await opened(server, client, count=5)
    for n in range(20):
        await make(client, f"c{n}")
    await client.delete(CONFIGMAPS, "c0", "default")
    for watch in watches:
        seen = [name_of(await watch.next()) for _ in range(21)]
        assert seen == [*(("ADDED", f"c{n}") for n in range(20)), ("DELETED", "c0")]
        await watch.stop()


async def test_watch_ends_cleanly_at_its_timeout(client: ApiClient) -> None:
    watch = Watch(client, timeoutSeconds="1")
    assert await watch.next() is None
    assert watch.failure is None


async def test_bookmarks_tell_the_newest_version_of_any_resource(server: ApiServer, client: ApiClient) -> None:
    (watch,) = await opened(server, client, allowWatchBookmarks="true")
    await client.create(SERVICES, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}}, "default")
    newest = str(server.registry.store.revision)
    await eventually(
        lambda: watch.bookmarks and watch.bookmarks[-1].object["metadata"]["resourceVersion"] == newest, "a bookmark"
    )
    await watch.stop()


async def test_dropped_watches_end_and_broken_ones_fail(server: ApiServer, client: ApiClient) -> None:
    (clean,) = await opened(server, client)
    answer = await client.request("POST", "/lab/v1/faults/drop-watches", {"resource": "configmaps"})
    assert answer == {"dropped": 1}
    assert await clean.next() is None
    assert clean.failure is None
    (broken,) = await opened(server, client)
    await client.request("POST", "/lab/v1/faults/drop-watches", {"resource": "configmaps", "abrupt": True})
    assert await broken.next() is None
    assert broken.failure is not None


async def test_frozen_watch_is_silent_and_goes_on_where_it_was(server: ApiServer, client: ApiClient) -> None:
    (watch,) = await opened(server, client, allowWatchBookmarks="true")
    await client.request("POST", "/lab/v1/faults/freeze-watches", {"resource": "configmaps"})
    await make(client, "late")
    heard = len(watch.bookmarks)
    other = Watch(client, SERVICES, allowWatchBookmarks="true", resourceVersion=str(server.registry.store.revision))
    await eventually(lambda: len(other.bookmarks) > 3, "bookmarks on a watch that is not frozen")
    assert watch.events.empty()
    assert len(watch.bookmarks) <= heard + 1
    await client.request("POST", "/lab/v1/faults/thaw-watches", {"resource": "configmaps"})
    assert name_of(await watch.next()) == ("ADDED", "late")
    await watch.stop()
    await other.stop()


async def test_delayed_events_come_later_than_undelayed_ones(server: ApiServer, client: ApiClient) -> None:
    (watch,) = await opened(server, client)
    await client.request("POST", "/lab/v1/faults/delay-watches", {"resource": "configmaps", "seconds": 0.3})
    loop = asyncio.get_running_loop()
    started = loop.time()
    await make(client, "slow")
    assert name_of(await watch.next()) == ("ADDED", "slow")
    assert loop.time() - started >= 0.3
    await client.request("DELETE", "/lab/v1/faults")
    assert (await client.request("GET", "/lab/v1/faults"))["delayedWatches"] == {}
    await watch.stop()


async def test_compaction_expires_a_frozen_watch_and_old_versions(server: ApiServer, client: ApiClient) -> None:
    old = server.registry.store.revision
    (watch,) = await opened(server, client)
    server.faults.freeze_watches("configmaps")
    await make(client, "x")
    await client.request("POST", "/lab/v1/faults/compact", {"resource": "configmaps"})
    server.faults.thaw_watches()
    for expired in (watch, Watch(client, resourceVersion=str(old))):
        event = await expired.next()
        assert event is not None
        assert (event.type, event.object["code"], event.object["reason"]) == ("ERROR", 410, "Expired")
        assert await expired.next() is None


async def test_refused_requests_say_when_to_come_back(server: ApiServer, client: ApiClient) -> None:
    asked = {"count": 2, "code": 429, "retryAfterSeconds": 7, "resource": "services", "verb": "list"}
    await client.request("POST", "/lab/v1/faults/refuse", asked)
    for _ in range(2):
        with pytest.raises(ApiError) as refused:
            await client.list(SERVICES)
        assert (refused.value.code, refused.value.retry_after_seconds) == (429, 7)
    await client.list(SERVICES)
    async with aiohttp.ClientSession() as session:
        server.faults.refuse(count=1, code=500)
        async with session.get(server.url + SERVICES.path()) as response:
            assert (response.status, response.headers["Retry-After"]) == (500, "1")


async def test_stats_count_requests_and_open_watches(server: ApiServer, client: ApiClient) -> None:
    (watch,) = await opened(server, client)
    await make(client, "x")
    await watch.next()
    await client.list(CONFIGMAPS)
    stats = await client.request("GET", "/lab/v1/stats")
    assert stats["openWatches"] == {"configmaps": 1}
    assert stats["requests"]["list"] == {"configmaps": 1}
    assert stats["watchEvents"]["configmaps"] >= 1
    assert stats["listBytes"]["configmaps"] > 0
    await watch.stop()
    await eventually(lambda: server.stats.open_watches["configmaps"] == 0, "a closed connection closes its watch")
    await client.request("DELETE", "/lab/v1/stats")
    assert (await client.request("GET", "/lab/v1/stats"))["requests"] == {}


async def test_commits_tell_when_each_version_was_written(client: ApiClient) -> None:
    before = time.monotonic()
    first = await make(client, "x")
    between = time.monotonic()
    second = await make(client, "y")
    commits = await client.request("GET", "/lab/v1/commits/configmaps")
    at = [commits[made["metadata"]["resourceVersion"]] for made in (first, second)]
    assert before <= at[0] <= between <= at[1] <= time.monotonic()
    with pytest.raises(ApiError):
        await client.request("GET", "/lab/v1/commits/nonsense")


async def test_watch_list_of_a_large_world_is_complete_and_then_live(server: ApiServer, client: ApiClient) -> None:
    slices = [
        {
            "kind": "EndpointSlice",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": f"s{n}"},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"]}],
        }
        for n in range(3000)
    ]
    loaded = await client.request("POST", "/lab/v1/load", {"items": slices})
    assert loaded["loaded"] == 3000
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    names, ended = set(), False
    async with aclosing(client.watch(ENDPOINTSLICES, **query)) as events:
        async for event in events:
            if event.type == "BOOKMARK" and not ended:
                assert event.object["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
                ended = True
                patch = {"metadata": {"labels": {"a": "b"}}}
                await client.patch(ENDPOINTSLICES, "s7", patch, "default")
            elif event.type == "ADDED":
                assert not ended
                names.add(event.object["metadata"]["name"])
            elif event.type == "MODIFIED":
                assert event.object["metadata"]["name"] == "s7"
                break
    assert len(names) == 3000


@pytest.mark.parametrize(
    ("query", "status"),
    [("resourceVersion=x", 400), ("fieldSelector=spec.none%3D1", 400), ("sendInitialEvents=true", 422)],
)
async def test_watch_that_makes_no_sense_is_refused_before_it_starts(
    server: ApiServer, query: str, status: int
) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/api/v1/pods?watch=1&{query}") as response:
        assert response.status == status


async def test_fault_that_makes_no_sense_is_refused(client: ApiClient) -> None:
    for path, body, code in (
        ("/lab/v1/faults/drop-watches", {"resource": "endpointslice"}, 400),
        ("/lab/v1/faults/delay-watches", {"seconds": "soon"}, 400),
        ("/lab/v1/faults/refuse", {"code": 418}, 400),
        ("/lab/v1/faults/melt", {}, 404),
        ("/lab/v1/load", {"items": "none"}, 400),
    ):
        with pytest.raises(ApiError) as refused:
            await client.request("POST", path, body)
        assert refused.value.code == code, path
