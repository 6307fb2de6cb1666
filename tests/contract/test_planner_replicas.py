# SPDX-License-Identifier: Apache-2.0
"""Replicas of followed areas: equal to the store within a moment, whatever happens to the log or to the store."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pointsman_chassis.metrics import Registry
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.store.memory_store import MemoryStore
from pointsman_planner.store.port import Area, Committed, Store, Write
from pointsman_planner.store.replica import Replica
from pointsman_planner.store.replicas import Replicas
from support.plan_server import eventually
from support.planner_stores import redis_store, running
from support.redis_server import RedisServer, redis_server

AREA = Area(name="things", records_max=20_000)
OTHER = Area(name="other", records_max=10)


class Follower:
    """One planner's replica, and what it was told."""

    def __init__(self, store: Store) -> None:
        self.registry = Registry(process=False)
        self.replicas = Replicas(store=store, metrics=StoreMetrics(self.registry), check_seconds=0.1)
        self.told: list[Mapping[str, bytes | None]] = []
        self.replica: Replica = self.replicas.add(AREA, self._take)
        self.replicas.add(OTHER, lambda _: None)

    def _take(self, changes: Mapping[str, object]) -> None:
        self.told.append({key: getattr(record, "value", None) for key, record in changes.items()})

    @property
    def values(self) -> dict[str, bytes]:
        return {key: record.value for key, record in self.replica.records.items()}

    @property
    def rebuilds(self) -> float:
        return self.registry.value("pointsman_planner_store_rebuilds_total", {"area": "things"}) or 0.0


@pytest.fixture(params=["memory", "redis"])
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], Store]]:
    """Each call gives one planner's way to the one store."""
    if request.param == "memory":
        store = MemoryStore()
        yield lambda: store
        return
    async with redis_server(tmp_path) as server:
        stores: list[Store] = []

        def make() -> Store:
            stores.append(redis_store(server.url))
            return stores[-1]

        yield make
        for store in stores:
            await store.close()


@asynccontextmanager
async def following(store: Store) -> AsyncIterator[Follower]:
    follower = Follower(store)
    async with running(store, follower.replicas):
        assert await follower.replicas.loaded(10)
        yield follower


async def put(store: Store, key: str, value: bytes | None, lives_seconds: float | None = None) -> int:
    done = await store.commit(AREA, [Write(key=key, value=value, lives_seconds=lives_seconds)])
    return done.head.version


async def test_changes_of_one_planner_reach_the_others(make_store: Callable[[], Store]) -> None:
    writer = make_store()
    await put(writer, "before", b"0")
    async with following(make_store()) as one, following(make_store()) as two:
        assert one.values == {"before": b"0"}
        version = await put(writer, "a", b"1")
        for follower in (one, two):
            assert await follower.replicas.reached(follower.replica, version, 10)
            assert follower.values == {"before": b"0", "a": b"1"}
        version = await put(writer, "before", None)
        assert await one.replicas.reached(one.replica, version, 10)
        assert one.values == {"a": b"1"}
        assert one.told == [{"before": b"0"}, {"a": b"1"}, {"before": None}]
        assert not await one.replicas.reached(one.replica, version + 1, 0.05)


async def test_a_prolonged_record_stays_and_another_ends(make_store: Callable[[], Store]) -> None:
    writer = make_store()
    async with following(make_store()) as follower:
        await put(writer, "stays", b"1", lives_seconds=0.3)
        await put(writer, "ends", b"1", lives_seconds=0.3)
        await eventually(lambda: len(follower.values) == 2, "both are known")
        await put(writer, "stays", b"1", lives_seconds=300)
        await eventually(lambda: set(follower.values) == {"stays"}, "one has ended")
        assert {"ends": None} in follower.told
        assert not any("stays" in told and told["stays"] is None for told in follower.told)


async def test_a_log_that_somebody_removed_is_noticed(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server, following(redis_store(server.url)) as follower:
        writer = redis_store(server.url)
        for number in range(5):
            await put(writer, f"k{number}", b"v")
            await server.ask("DEL", "{test}:log")
        await eventually(lambda: len(follower.values) == 5, "all are known")
        await server.ask("SET", "{test}:log", "a string")
        await put(writer, "more", b"v")
        await eventually(lambda: "more" in follower.values, "the log was made anew")
        await server.ask("XADD", "{test}:log", "18446744073709551615-18446744073709551615", "area", "x")
        await put(writer, "last", b"v")
        await eventually(lambda: "last" in follower.values, "the log was made anew once more")
        assert follower.rebuilds == 0
        await writer.close()


async def test_an_emptied_store_is_given_back_what_the_planners_hold(tmp_path: Path) -> None:
    async with (
        redis_server(tmp_path) as server,
        following(redis_store(server.url)) as one,
        following(redis_store(server.url)) as two,
    ):
        writer = redis_store(server.url)
        for number in range(1200):
            await put(writer, f"k{number}", b"v", lives_seconds=600)
        version = await put(writer, "for ever", b"v")
        for follower in (one, two):
            assert await follower.replicas.reached(follower.replica, version, 20)
        held = dict(one.values)
        told = len(one.told)
        await server.ask("FLUSHALL")
        await eventually(lambda: min(one.rebuilds, two.rebuilds) > 0, "both noticed")
        version = await put(writer, "new", b"v")
        for follower in (one, two):
            assert await follower.replicas.reached(follower.replica, version, 20)
            assert follower.values == held | {"new": b"v"}
        assert not any(value is None for changes in one.told[told:] for value in changes.values())
        found = (await writer.read(AREA, ["k0", "for ever"])).records
        assert (found["k0"].value, found["for ever"].expires_at) == (b"v", None)
        assert found["k0"].expires_at is not None
        await writer.close()


class Forgetful(MemoryStore):
    """Loses everything once more, after so many further commits."""

    commits_left: int | None = None

    async def commit(self, area: Area, writes: Sequence[Write], *, version_floor: int = 0) -> Committed:
        done = await super().commit(area, writes, version_floor=version_floor)
        if self.commits_left is not None:
            self.commits_left -= 1
            if self.commits_left == 0:
                self.lose()
        return done


@pytest.mark.parametrize("commits", [1, 2, 3])
async def test_a_store_that_is_emptied_again_while_it_is_rebuilt_costs_nothing(commits: int) -> None:
    store = Forgetful()
    async with following(store) as follower:
        for number in range(1_200):
            version = await put(store, f"k{number}", b"v")
        assert await follower.replicas.reached(follower.replica, version, 20)
        told = len(follower.told)
        store.commits_left = commits
        store.lose()
        await eventually(lambda: (store.commits_left or 1) <= 0, "it was lost a second time")
        await eventually(lambda: follower.rebuilds > 1 and follower.replica.applied_version > version, "it is rebuilt")
        assert len((await store.page(AREA)).records) == len(follower.values) == 1_200
        assert not any(value is None for changes in follower.told[told:] for value in changes.values())


async def test_a_store_set_back_is_brought_forward(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--save", "3600 1000000")
    await server.start()
    try:
        async with following(redis_store(server.url)) as follower:
            writer = redis_store(server.url)
            await put(writer, "a", b"old")
            await put(writer, "b", b"same")
            await server.ask("SAVE")
            version = await put(writer, "a", b"new")
            version = await put(writer, "c", b"late")
            assert await follower.replicas.reached(follower.replica, version, 10)
            server.stop()
            await server.start()
            await eventually(lambda: follower.rebuilds > 0, "the store is seen to be older")
            await eventually(lambda: follower.replica.applied_version > version, "it goes on above what it had")
            assert follower.values == {"a": b"new", "b": b"same", "c": b"late"}
            found = (await writer.read(AREA, ["a", "b", "c"])).records
            assert {key: record.value for key, record in found.items()} == follower.values
            await writer.close()
    finally:
        server.stop()


async def test_records_end_in_their_time_while_the_store_is_away(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    await server.start()
    async with following(redis_store(server.url)) as follower:
        try:
            writer = redis_store(server.url)
            await put(writer, "ends", b"1", lives_seconds=1)
            version = await put(writer, "stays", b"1")
            assert await follower.replicas.reached(follower.replica, version, 10)
            server.stop()
            await eventually(lambda: set(follower.values) == {"stays"}, "what ended is gone, the rest is kept")
            await server.start()
            await eventually(lambda: follower.rebuilds > 0, "the empty store is noticed")
            async with asyncio.timeout(10):
                while (await writer.page(AREA)).records.keys() != {"stays"}:
                    await asyncio.sleep(0.02)
            await writer.close()
        finally:
            server.stop()


async def test_nobody_waits_for_a_store_that_is_known_to_be_away(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    store = redis_store(server.url)
    follower = Follower(store)
    async with running(store, follower.replicas):
        async with asyncio.timeout(30):
            assert not await follower.replicas.loaded(3600)
        assert "onnect" in store.last_error
        try:
            await server.start()
            await eventually(lambda: follower.replica.is_loaded, "it is listed when the store is there")
            assert await follower.replicas.loaded(10)
        finally:
            server.stop()
    await store.close()


async def test_an_area_has_one_replica_and_must_be_followed() -> None:
    replicas = Replicas(store=MemoryStore(), metrics=StoreMetrics(Registry(process=False)))
    replicas.add(AREA, lambda _: None)
    for area in (AREA, Area(name="quiet", records_max=1, is_followed=False)):
        with pytest.raises(ValueError, match=area.name):
            replicas.add(area, lambda _: None)
    assert not await replicas.loaded(0.01)
