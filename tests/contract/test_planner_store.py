# SPDX-License-Identifier: Apache-2.0
"""The store port: what holds for the implementation in memory and for the one on a real Redis alike."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pointsman_planner.store.memory_store import MemoryStore
from pointsman_planner.store.port import (
    KEY_CHARACTERS_MAX,
    VALUE_BYTES_MAX,
    WRITES_MAX,
    Area,
    Outcome,
    OutcomeKind,
    Store,
    StoreUnavailableError,
    Write,
    list_area,
)
from support.planner_stores import store_on
from support.redis_server import redis_server

AREA = Area(name="things", records_max=10_000)
SMALL = Area(name="small", records_max=3)
EVICTING = Area(name="evicting", records_max=3, evicts=True)
QUIET = Area(name="quiet", records_max=10, is_followed=False)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    async with redis_server(tmp_path) as server, store_on(server) as store:
        yield store


async def put(store: Store, key: str, value: bytes | None, area: Area = AREA, **options: float) -> Outcome:
    condition = int(options["if_version"]) if "if_version" in options else None
    write = Write(key=key, value=value, lives_seconds=options.get("lives_seconds"), if_version=condition)
    return (await store.commit(area, [write])).outcomes[0]


async def value(store: Store, key: str, area: Area = AREA) -> bytes | None:
    found = (await store.read(area, [key])).records.get(key)
    return found.value if found is not None else None


async def test_what_is_written_is_read(store: Store) -> None:
    first = await put(store, "a/ü", b'{"x":"\x00\n\xff"}')
    assert first.kind is OutcomeKind.WRITTEN
    assert first.record is not None
    found = await store.read(AREA, ["a/ü", "b"])
    assert found.records == {"a/ü": first.record}
    assert found.head.version == first.record.version
    assert first.record.expires_at is None


async def test_nothing_was_ever_written(store: Store) -> None:
    assert not (await store.read(AREA, ["a"])).records
    assert (await store.page(AREA)).head.version == 0
    assert (await store.read(AREA, [])).head.epoch == ""
    assert await store.log_end() in ("0", "0-0")


async def test_each_commit_raises_the_version_by_one(store: Store) -> None:
    (head,) = await store.heads([AREA])
    assert head.version > 0
    two = await store.commit(AREA, [Write(key="a", value=b"1"), Write(key="b", value=b"1")])
    assert two.head.version == head.version + 1
    assert two.head.epoch == head.epoch
    assert {outcome.record.version for outcome in two.outcomes if outcome.record} == {two.head.version}
    same = await store.commit(AREA, [Write(key="a", value=b"1")])
    assert [outcome.kind for outcome in same.outcomes] == [OutcomeKind.UNCHANGED]
    assert same.head == two.head
    assert (await store.heads([AREA, SMALL]))[0] == two.head


async def test_a_floor_raises_the_version_that_came_back_too_low(store: Store) -> None:
    (head,) = await store.heads([AREA])
    raised = await store.commit(AREA, [Write(key="a", value=b"1")], version_floor=head.version + 50)
    assert raised.head.version == head.version + 51


async def test_conditions_are_on_the_version(store: Store) -> None:
    made = await put(store, "a", b"1", if_version=0)
    assert made.record is not None
    again = await put(store, "a", b"2", if_version=0)
    assert (again.kind, again.record) == (OutcomeKind.CONFLICT, made.record)
    changed = await put(store, "a", b"2", if_version=made.record.version)
    assert changed.kind is OutcomeKind.WRITTEN
    stale = await put(store, "a", None, if_version=made.record.version)
    assert (stale.kind, stale.record) == (OutcomeKind.CONFLICT, changed.record)
    assert changed.record is not None
    gone = await put(store, "a", None, if_version=changed.record.version)
    assert (gone.kind, gone.record) == (OutcomeKind.WRITTEN, None)
    absent = await put(store, "a", b"3", if_version=changed.record.version)
    assert (absent.kind, absent.record) == (OutcomeKind.CONFLICT, None)
    assert (await put(store, "a", None)).kind is OutcomeKind.UNCHANGED


async def test_writes_of_one_commit_are_independent(store: Store) -> None:
    await put(store, "a", b"1")
    done = await store.commit(
        AREA, [Write(key="a", value=b"2", if_version=0), Write(key="b", value=b"2", if_version=0)]
    )
    assert [outcome.kind for outcome in done.outcomes] == [OutcomeKind.CONFLICT, OutcomeKind.WRITTEN]
    assert [await value(store, "a"), await value(store, "b")] == [b"1", b"2"]


async def test_records_end_by_the_clock_of_the_store(store: Store) -> None:
    written = await put(store, "a", b"1", lives_seconds=0.2)
    assert written.record is not None
    assert written.record.expires_at is not None
    async with asyncio.timeout(10):
        while await value(store, "a") is not None:
            await asyncio.sleep(0.01)
    assert "a" not in (await store.page(AREA)).records
    (head,) = await store.heads([AREA])
    assert head.version == written.record.version
    assert (await put(store, "a", b"2", if_version=0)).kind is OutcomeKind.WRITTEN


async def test_writing_the_same_again_only_moves_the_end(store: Store) -> None:
    # The witness ends when the record would have ended, so nothing depends on how long the calls take.
    await store.commit(AREA, [Write(key=key, value=b"1", lives_seconds=1) for key in ("a", "witness")])
    end = await store.log_end()
    longer = await put(store, "a", b"1", lives_seconds=300)
    assert longer.kind is OutcomeKind.UNCHANGED
    assert longer.record is not None
    assert longer.record.expires_at is not None
    assert await store.log_end() == end
    async with asyncio.timeout(10):
        while await value(store, "witness") is not None:
            await asyncio.sleep(0.01)
    assert await value(store, "a") == b"1"
    for_ever = await put(store, "a", b"1")
    assert for_ever.record is not None
    assert for_ever.record.expires_at is None


async def test_a_full_area_refuses(store: Store) -> None:
    for key in ("a", "b", "c"):
        assert (await put(store, key, b"1", SMALL)).kind is OutcomeKind.WRITTEN
    assert (await put(store, "d", b"1", SMALL)).kind is OutcomeKind.FULL
    assert (await put(store, "a", b"2", SMALL)).kind is OutcomeKind.WRITTEN
    await put(store, "b", None, SMALL)
    assert (await put(store, "d", b"1", SMALL)).kind is OutcomeKind.WRITTEN
    assert set((await list_area(store, SMALL)).records) == {"a", "c", "d"}


async def test_an_evicting_area_lets_go_of_what_would_end_first(store: Store) -> None:
    await put(store, "for ever", b"1", EVICTING)
    await put(store, "late", b"1", EVICTING, lives_seconds=300)
    await put(store, "soon", b"1", EVICTING, lives_seconds=200)
    end = await store.log_end()
    done = await store.commit(EVICTING, [Write(key="new", value=b"1", lives_seconds=250)])
    assert done.evicted == ("soon",)
    assert set((await list_area(store, EVICTING)).records) == {"for ever", "late", "new"}
    (entry,) = await store.follow(end)
    assert set(entry.keys) == {"soon", "new"}
    for key in ("x", "y"):
        await put(store, key, b"1", EVICTING)
    assert (await put(store, "z", b"1", EVICTING)).kind is OutcomeKind.FULL


async def test_the_log_tells_of_changes_and_only_of_them(store: Store) -> None:
    await put(store, "before", b"1")
    end = await store.log_end()
    waiting = asyncio.create_task(store.follow(end))
    await asyncio.sleep(0.05)
    done = await store.commit(
        AREA, [Write(key="a", value=b"1"), Write(key="b", value=b"1"), Write(key="c", value=None)]
    )
    await put(store, "hidden", b"1", QUIET)
    (entry,) = await waiting
    assert (entry.area, entry.epoch, entry.version) == ("things", done.head.epoch, done.head.version)
    assert sorted(entry.keys) == ["a", "b"]
    await put(store, "a", None)
    (removal,) = await store.follow(entry.id)
    assert (removal.keys, removal.version) == (("a",), done.head.version + 1)
    assert await store.log_end() == removal.id
    assert await store.follow(removal.id) == ()


async def test_all_records_are_listed(store: Store) -> None:
    for start in range(0, 1500, WRITES_MAX):
        writes = [Write(key=f"k{number}", value=b"v", lives_seconds=600) for number in range(start, start + WRITES_MAX)]
        await store.commit(AREA, writes)
    listed = await list_area(store, AREA)
    assert set(listed.records) == {f"k{number}" for number in range(1500)}


async def test_an_area_with_more_records_than_it_may_have_is_not_read_into_memory(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server, store_on(server) as store:
        await store.heads([SMALL])
        stranger = [part for number in range(3_000) for part in (f"/k{number}", "1 0 {}")]
        await server.ask("HSET", "{test}:area:small", *stranger)
        with pytest.raises(StoreUnavailableError, match="more than its 3 records"):
            await list_area(store, SMALL)
        assert (await put(store, "a", b"1", SMALL)).kind is OutcomeKind.FULL


async def test_what_no_store_takes_is_refused_here() -> None:
    for wrong in ({"key": ""}, {"key": "x" * (KEY_CHARACTERS_MAX + 1)}, {"value": b"x" * (VALUE_BYTES_MAX + 1)}):
        with pytest.raises(ValueError, match=r"characters|bytes"):
            Write(**{"key": "k", "value": b""} | wrong)
    with pytest.raises(ValueError, match="never be seen"):
        Write(key="k", value=b"", lives_seconds=0)
    with pytest.raises(ValueError, match="not usable"):
        Area(name="No", records_max=1)


async def test_too_much_at_once_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="at most"):
        await store.commit(AREA, [Write(key="k", value=b"")] * (WRITES_MAX + 1))
    with pytest.raises(ValueError, match="at most"):
        await store.read(AREA, ["k"] * (WRITES_MAX + 1))
