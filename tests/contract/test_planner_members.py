# SPDX-License-Identifier: Apache-2.0
"""Members under a lease: who is seen when, who is missed when, and two processes of one id."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_planner.core.ownership import Member
from pointsman_planner.metrics import ShardingMetrics, StoreMetrics
from pointsman_planner.store.member_store import PLANNERS, MemberStore
from pointsman_planner.store.memory_store import MemoryStore
from pointsman_planner.store.port import Store
from pointsman_planner.store.replicas import Replicas
from support.plan_server import eventually
from support.planner_stores import redis_store, running
from support.redis_server import redis_server


@pytest.fixture(params=["memory", "redis"])
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], Store]]:
    if request.param == "memory":
        store = MemoryStore()
        yield lambda: store
        return
    async with redis_server(tmp_path) as server:
        yield lambda: redis_store(server.url)


@asynccontextmanager
async def planner(
    name: str, store: Store, *, lease_seconds: float = 0.6, renews: bool = True
) -> AsyncIterator[MemberStore]:
    """One that looks on; `join` makes it a member. One that does not renew does what the test calls, and no more."""
    registry = Registry(process=False)
    metrics = StoreMetrics(registry)
    replicas = Replicas(store=store, metrics=metrics, check_seconds=0.1)
    members = MemberStore(
        planner_id=name,
        store=store,
        replicas=replicas,
        lease_seconds=lease_seconds,
        clock=SystemClock(),
        metrics=ShardingMetrics(registry),
        store_metrics=metrics,
        on_change=lambda _: None,
    )
    async with running(store, replicas, *([members] if renews else [])):
        yield members
    await store.close()


def member(name: str, instance: str = "1") -> Member:
    return Member(planner_id=name, address="10.0.0.1:7402", instance_id=instance)


def ids(members: MemberStore) -> list[str]:
    return [each.planner_id for each in members.members]


async def test_who_joins_drains_and_leaves_is_seen_by_all(make_store: Callable[[], Store]) -> None:
    # A lease so long that nothing is seen by waiting for the next renewal.
    async with (
        planner("a", make_store(), lease_seconds=60) as one,
        planner("b", make_store(), lease_seconds=60) as two,
        planner("c", make_store(), lease_seconds=60) as looker,
    ):
        one.join(member("a"))
        two.join(member("b"))
        await eventually(lambda: ids(one) == ids(two) == ids(looker) == ["a", "b"], "both are seen")
        await two.drain()
        await eventually(lambda: [each.is_draining for each in looker.members] == [False, True], "one drains")
        assert [each.is_draining for each in two.members] == [False, True]


async def test_a_member_that_says_nothing_any_more_is_missed_and_one_that_renews_is_not(
    make_store: Callable[[], Store],
) -> None:
    async with planner("a", make_store()) as one, planner("b", make_store()) as two:
        async with planner("c", make_store()) as silent:
            for name, each in zip("abc", (one, two, silent), strict=True):
                each.join(member(name))
            await eventually(lambda: ids(one) == ids(two) == ["a", "b", "c"], "all are seen")
        # Without renewals the leases of the two would have ended no later than the one of the third.
        await eventually(lambda: ids(one) == ids(two) == ["a", "b"], "the lease of the silent one has ended")


async def test_one_that_leaves_is_gone_at_once(make_store: Callable[[], Store]) -> None:
    # Its lease is so long that it does not end by itself here, and no renewal is under way while it is given back.
    async with (
        planner("a", make_store()) as one,
        planner("b", make_store(), lease_seconds=60, renews=False) as two,
    ):
        one.join(member("a"))
        two.join(member("b"))
        await two.refresh()
        await eventually(lambda: ids(one) == ["a", "b"], "both are seen")
        await two.leave()
        assert "b" not in (await one._store.page(PLANNERS)).records
        await eventually(lambda: ids(one) == ["a"], "it is gone")


async def test_two_processes_of_one_id_are_told_of(make_store: Callable[[], Store]) -> None:
    with capture_logs() as logs:
        async with planner("a", make_store()) as one, planner("a", make_store()) as two:
            one.join(member("a", "first"))
            await eventually(lambda: ids(one) == ["a"], "it has joined")
            two.join(member("a", "second"))
            await eventually(
                lambda: any("same plannerID" in entry["event"] for entry in logs),
                "the first one says so",
            )
