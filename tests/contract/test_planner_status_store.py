# SPDX-License-Identifier: Apache-2.0
"""Node status that planners share: written behind, read by another planner, never in the way when Redis is gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.metrics import Registry
from pointsman_model.cluster import ClusterPosition, ResourceVersions
from pointsman_model.names import ServiceKey
from pointsman_planner.core.messages import Condition, Conditions, Drift, Failure, FailureStage
from pointsman_planner.core.status import NodeState, NodeStatus
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.store.connection import RedisSettings, parse_store_url
from pointsman_planner.store.memory_store import MemoryStore
from pointsman_planner.store.node_status_store import NODES, NodeStatusStore
from pointsman_planner.store.port import Store, Write
from pointsman_planner.store.redis_store import RedisStore
from support.plan_server import eventually
from support.redis_server import RedisServer, redis_server

STATUS = NodeStatus(
    name="node-a",
    state=NodeState.NACKED,
    planner_id="p1",
    mode=1,
    instance_id="i1",
    sent=ClusterPosition(epoch="e", revision=9, resource_versions=ResourceVersions(services=4)),
    programmed=ClusterPosition(epoch="e", revision=8),
    desired_digest=2**64 - 1,
    programmed_digest=3,
    pending_services=2,
    failures=(Failure(service=ServiceKey("shop", "web"), stage=FailureStage.APPLY, message="no"),),
    last_seen_ns=1_700_000_000_000_000_000,
    drift=Drift(repairs=2, repaired_at_ns=5, duration_ns=6, kinds=("table",), objects=7, process="nft", process_id=8),
    conditions=Conditions(conditions=(Condition(service=ServiceKey("shop", "web"), kind=1, message="no"),), total=1),
)


@asynccontextmanager
async def statuses_on(store: Store, registry: Registry | None = None) -> AsyncIterator[NodeStatusStore]:
    metrics = StoreMetrics(registry or Registry(process=False))
    statuses = NodeStatusStore(store=store, metrics=metrics, flush_seconds=0.01)
    tasks = [asyncio.create_task(statuses.run()), asyncio.create_task(store.run())]
    try:
        yield statuses
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await statuses.close()
        await store.close()


def redis_store(server: RedisServer, registry: Registry | None = None) -> RedisStore:
    return RedisStore(
        address=parse_store_url(server.url),
        settings=RedisSettings(),
        key_prefix="t:",
        metrics=StoreMetrics(registry or Registry(process=False)),
        probe_seconds=0.1,
    )


async def poll(statuses: NodeStatusStore, wanted: NodeStatus | None) -> None:
    async with asyncio.timeout(20):
        while (await statuses.read(["node-a", "nobody"])).get("node-a") != wanted:
            await asyncio.sleep(0.01)


async def test_what_one_planner_reports_another_reads(tmp_path: Path) -> None:
    async with (
        redis_server(tmp_path) as server,
        statuses_on(redis_store(server)) as writer,
        statuses_on(redis_store(server)) as reader,
    ):
        writer.report(STATUS)
        await poll(reader, STATUS)
        assert await reader.read([]) == {}


async def test_how_old_a_record_is_says_the_store_and_not_the_clock_of_who_wrote_it() -> None:
    clock = VirtualClock()
    store = MemoryStore(clock=clock)
    metrics = StoreMetrics(Registry(process=False))
    statuses = NodeStatusStore(store=store, metrics=metrics, flush_seconds=0.01, clock=clock)
    await store.commit(NODES, [Write(key="node-a", value=msgspec.json.encode(STATUS), lives_seconds=24 * 3600)])
    assert (await statuses.read(["node-a"]))["node-a"].age_ns == 0
    await clock.advance(90)
    found = (await statuses.read(["node-a"]))["node-a"]
    assert (found, found.age_ns) == (STATUS, 90 * 10**9)


async def test_redis_away_costs_nothing_and_the_newest_status_is_written_when_it_is_back(tmp_path: Path) -> None:
    server, registry = RedisServer(tmp_path), Registry(process=False)
    newest = NodeStatus(name="node-a", state=NodeState.SYNCED)
    store = redis_store(server, registry)
    async with statuses_on(store) as statuses:
        try:
            statuses.report(STATUS)
            await eventually(lambda: "connect" in store.last_error, "the store says why it is away")
            for _ in range(10_000):
                statuses.report(newest)
            assert statuses.waiting == 1
            assert await statuses.read(["node-a", "node-b"]) == {"node-a": newest}
            assert registry.value("pointsman_planner_store_available") == 0
            await server.start()
            await poll(statuses, newest)
            await eventually(lambda: registry.value("pointsman_planner_store_available") == 1, "the store is available")
        finally:
            server.stop()


async def test_more_nodes_than_fit_are_counted_and_left_out() -> None:
    registry = Registry(process=False)
    statuses = NodeStatusStore(store=MemoryStore(), metrics=StoreMetrics(registry))
    for number in range(NODES.records_max + 3):
        statuses.report(NodeStatus(name=f"n{number}", state=NodeState.SYNCED))
    assert statuses.waiting == NODES.records_max
    labels = {"area": "nodes", "outcome": "dropped"}
    assert registry.value("pointsman_planner_store_refused_writes_total", labels) == 3


@pytest.mark.parametrize(
    "value",
    [
        b"{}",
        b"\xff",
        b"[" * 100_000,
        msgspec.json.encode(replace(STATUS, name="node-b")),
        msgspec.json.encode(replace(STATUS, mode=-1)),
        msgspec.json.encode(replace(STATUS, last_seen_ns=2**63)),
        msgspec.json.encode(replace(STATUS, conditions=Conditions(total=2**32))),
        msgspec.json.encode(replace(STATUS, sent=ClusterPosition(revision=-1))),
        msgspec.json.encode(STATUS).replace(b'"state":3', b'"state":99'),
    ],
)
async def test_a_value_that_is_not_a_status_is_left_out(value: bytes) -> None:
    store, registry = MemoryStore(), Registry(process=False)
    await store.commit(NODES, [Write(key="node-a", value=value), Write(key="x", value=b"1")])
    async with statuses_on(store, registry) as statuses:
        assert await statuses.read(["node-a"]) == {}
        assert registry.value("pointsman_planner_store_hostile_values_total", {"area": "nodes"}) == 1
        statuses.report(STATUS)
        await poll(statuses, STATUS)


async def test_the_planner_that_lost_a_node_does_not_undo_what_the_new_one_says() -> None:
    store = MemoryStore()
    async with statuses_on(store) as old, statuses_on(store) as new:
        lost = replace(STATUS, state=NodeState.DISCONNECTED)
        here = replace(STATUS, planner_id="p2", last_seen_ns=STATUS.last_seen_ns + 1)
        old.report(STATUS)
        await poll(new, STATUS)
        new.report(here)
        await poll(old, here)
        old.report(lost)
        await eventually(lambda: old.waiting == 0, "the old planner's word was dealt with")
        await poll(old, here)
        new.report(replace(here, state=NodeState.DISCONNECTED))
        await poll(old, replace(here, state=NodeState.DISCONNECTED))


async def test_a_planner_that_ends_says_so_of_its_nodes() -> None:
    store = MemoryStore()
    statuses = NodeStatusStore(store=store, metrics=StoreMetrics(Registry(process=False)))
    statuses.report(replace(STATUS, state=NodeState.DISCONNECTED))
    await statuses.close()
    assert (await statuses.read(["node-a"]))["node-a"].state is NodeState.DISCONNECTED
