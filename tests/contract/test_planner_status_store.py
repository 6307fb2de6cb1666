# SPDX-License-Identifier: Apache-2.0
"""Node status in a real Redis: written behind, read back by another planner, never in the way when Redis is gone."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pointsman_chassis.metrics import Registry
from pointsman_model.cluster import ClusterPosition
from pointsman_model.names import ServiceKey
from pointsman_planner.core.messages import Condition, Conditions, Drift, Failure, FailureStage
from pointsman_planner.core.status import NodeState, NodeStatus
from pointsman_planner.metrics import PlannerMetrics
from pointsman_planner.store.redis_status_store import RedisStatusStore
from support.plan_server import eventually

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

STATUS = NodeStatus(
    name="node-a",
    state=NodeState.NACKED,
    planner_id="p1",
    mode=1,
    instance_id="i1",
    sent=ClusterPosition(epoch="e", revision=9),
    programmed=ClusterPosition(epoch="e", revision=8),
    desired_digest=2**64 - 1,
    programmed_digest=3,
    pending_services=2,
    failures=(Failure(service=ServiceKey("shop", "web"), stage=FailureStage.APPLY, message="no"),),
    last_seen_ns=1_700_000_000_000_000_000,
    drift=Drift(repairs=2, repaired_at_ns=5, duration_ns=6, kinds=("table",), objects=7, process="nft", process_id=8),
    conditions=Conditions(
        conditions=(Condition(service=ServiceKey("shop", "web"), kind=1, message="taken", since_ns=9),), total=501
    ),
)


class Redis:
    """A redis-server of the test's own, on a socket that it can leave and come back to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        self.process = subprocess.Popen(["redis-server", *arguments], stdout=subprocess.DEVNULL)  # noqa: ASYNC220 - a test
        await eventually(self._answers, "redis-server listens")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@asynccontextmanager
async def store_on(redis: Redis) -> AsyncIterator[tuple[RedisStatusStore, Registry]]:
    registry = Registry(process=False)
    store = RedisStatusStore(url=redis.url, key_prefix="t:", metrics=PlannerMetrics(registry), flush_seconds=0.01)
    task = asyncio.create_task(store.run())
    try:
        yield store, registry
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def read(store: RedisStatusStore, name: str = "node-a") -> NodeStatus | None:
    return (await store.read([name, "nobody"])).get(name)


async def poll(store: RedisStatusStore, wanted: NodeStatus) -> None:
    async with asyncio.timeout(20):
        while await read(store) != wanted:
            await asyncio.sleep(0.01)


async def test_what_one_planner_reports_another_reads(tmp_path: Path) -> None:
    redis = Redis(tmp_path)
    await redis.start()
    try:
        async with store_on(redis) as (writer, _), store_on(redis) as (reader, _):
            writer.report(STATUS)
            await poll(reader, STATUS)
            assert await reader.read([]) == {}
    finally:
        redis.stop()


async def test_redis_away_costs_nothing_and_the_newest_status_is_written_when_it_is_back(tmp_path: Path) -> None:
    redis = Redis(tmp_path)
    newest = NodeStatus(name="node-a", state=NodeState.SYNCED)
    async with store_on(redis) as (store, registry):
        try:
            store.report(STATUS)
            await eventually(
                lambda: registry.value("pointsman_planner_status_store_degraded") == 1, "the store says so"
            )
            for _ in range(10_000):
                store.report(newest)
            assert len(store._dirty) == 1
            assert await store.read(["node-a"]) == {}
            await redis.start()
            await poll(store, newest)
            assert registry.value("pointsman_planner_status_store_degraded") == 0
        finally:
            redis.stop()


async def test_a_value_that_does_not_parse_is_left_out(tmp_path: Path) -> None:
    redis = Redis(tmp_path)
    await redis.start()
    try:
        async with store_on(redis) as (store, _):
            store.report(STATUS)
            await poll(store, STATUS)
            for field, value in (("state", "99"), ("conditions", '{"total":-1}'), ("conditions", "[]")):
                store.report(STATUS)
                await poll(store, STATUS)
                await store._client.hset("t:node:node-a", field, value)
                assert await read(store) is None
    finally:
        redis.stop()
