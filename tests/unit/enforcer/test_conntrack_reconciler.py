# SPDX-License-Identifier: Apache-2.0
"""When flows are looked into, at what pace, and what happens when the connection table cannot be had."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.stale_flows import ATTEMPTS, Flow, Place, Query, packed_endpoint
from pointsman_enforcer.dataplane.conntrack.metrics import ConntrackMetrics
from pointsman_enforcer.dataplane.conntrack.reconciler import ConntrackReconciler
from pointsman_enforcer.dataplane.conntrack.table import InterruptedDumpError
from pointsman_model.names import Protocol, parse_address, parse_prefix
from pointsman_model.plan import ServicePlan
from support.enforcer_plans import cluster_ip, endpoints, key

VIP, ALIVE, DEAD = "172.30.0.10", "10.0.1.2", "10.0.1.3"
SETTLE_SECONDS_MAX = 5.0


def service(*pods: str) -> ServicePlan:
    return ServicePlan(ports=(cluster_ip(VIP, 53, endpoints(*pods, port=53), Protocol.UDP),))


def flow(answering: str) -> Flow:
    return Flow(4, 17, parse_address(VIP), 53, packed_endpoint(parse_address(answering), 53))


class FakeTable:
    """A table in memory. Takes no part in filtering: it shows everything to every query."""

    def __init__(self, world: World) -> None:
        self._world = world

    def end_flows(self, query: Query, is_stale: Callable[[Flow], bool]) -> int:
        world = self._world
        world.queries.append(query)
        world.looks.append(world.clock.monotonic())
        if world.errors:
            raise world.errors.pop(0)
        world.during()
        stale = [each for each in world.flows if is_stale(each)]
        for each in stale:
            world.flows.remove(each)
        return len(stale)

    def local_addresses(self) -> frozenset[bytes]:
        return frozenset()

    def stop(self) -> None:
        self._world.stopped = True

    def close(self) -> None:
        self._world.closed += 1


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.registry = Registry(process=False)
        self.flows: list[Flow] = []
        self.queries: list[Query] = []
        self.looks: list[float] = []
        self.errors: list[OSError] = []
        self.opened = self.closed = 0
        self.stopped = False
        self.during: Callable[[], None] = lambda: None
        self.frontends: set[Place] = set()
        self.reconciler = ConntrackReconciler(
            node_port_blocks=lambda: [parse_prefix("0.0.0.0/0")],
            is_frontend=lambda place: place in self.frontends,
            metrics=ConntrackMetrics(self.registry),
            clock=self.clock,
            open_table=self._open,
        )

    def _open(self) -> FakeTable:
        self.opened += 1
        return FakeTable(self)

    def program(self, plan: ServicePlan, *, is_confirmed: bool = True) -> None:
        self.reconciler.expect(key(1), plan)
        self.reconciler.programmed(key(1))
        self.reconciler.synced(is_confirmed=is_confirmed)

    async def looks_become(self, number: int) -> None:
        async with asyncio.timeout(SETTLE_SECONDS_MAX):
            while len(self.looks) < number or not self.reconciler.is_idle:
                await asyncio.sleep(0.001)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.value(name, labels or None)


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    world = World()
    task = asyncio.create_task(world.reconciler.run())
    try:
        yield world
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_change_is_looked_into_and_the_rest_of_the_time_nothing_happens() -> None:
    async with running() as world:
        world.flows = [flow(ALIVE), flow(DEAD)]
        world.program(service(ALIVE, DEAD))
        await world.looks_become(1)
        assert world.flows == [flow(ALIVE), flow(DEAD)]
        await world.clock.advance(60)
        world.program(service(ALIVE))
        await world.looks_become(2)
        assert world.flows == [flow(ALIVE)]
        world.program(service(ALIVE))
        await world.clock.advance(60)
        assert len(world.looks) == 2
        assert world.value("kubeproxy_conntrack_reconciler_deleted_entries_total", ip_family="IPv4") == 1


async def test_nothing_is_ended_before_a_planner_confirmed_the_plan() -> None:
    async with running() as world:
        world.flows = [flow(DEAD)]
        world.program(service(ALIVE), is_confirmed=False)
        await world.clock.advance(60)
        assert (world.opened, world.looks) == (0, [])
        world.reconciler.synced(is_confirmed=True)
        await world.looks_become(1)
        assert world.flows == []


async def test_a_node_without_udp_services_never_opens_the_table() -> None:
    async with running() as world:
        world.program(ServicePlan(ports=(cluster_ip(VIP, 80, endpoints(ALIVE)),)))
        world.reconciler.synced(is_confirmed=True)
        await world.clock.advance(60)
        assert world.opened == 0


async def test_attempts_let_through_are_ended_without_a_planner_and_flows_are_not() -> None:
    async with running() as world:
        attempt, stale = flow(VIP), flow(DEAD)
        world.frontends = {Place(4, 17, parse_address(VIP), 53)}
        world.flows = [attempt, stale]
        world.program(service(ALIVE), is_confirmed=False)
        world.reconciler.suspect_all()
        world.reconciler.synced(is_confirmed=False)
        await world.looks_become(1)
        assert (world.flows, world.queries) == ([stale], [ATTEMPTS])
        assert world.value("pointsman_enforcer_conntrack_attempts_ended_total") == 1
        world.reconciler.synced(is_confirmed=True)
        await world.clock.advance(60)
        await world.looks_become(2)
        assert world.flows == []


async def test_attempts_do_not_wait_for_the_end_of_a_rest_and_are_looked_at_once() -> None:
    async with running() as world:
        loop = asyncio.get_running_loop()

        def takes_a_second() -> None:
            asyncio.run_coroutine_threadsafe(world.clock.advance(1), loop).result(SETTLE_SECONDS_MAX)

        world.during = takes_a_second
        world.program(service(ALIVE))
        await world.looks_become(1)
        world.during = lambda: None
        world.frontends = {Place(4, 17, parse_address(VIP), 53)}
        world.flows = [flow(VIP)]
        world.reconciler.suspect_all()
        world.reconciler.synced(is_confirmed=True)
        await world.looks_become(2)
        assert (world.looks[1], world.flows) == (1.0, [])
        await world.clock.advance(60)
        assert world.queries.count(ATTEMPTS) == 1


async def test_attempts_that_could_not_be_looked_at_are_looked_at_later() -> None:
    async with running() as world:
        world.frontends = {Place(4, 17, parse_address(VIP), 53)}
        world.flows = [flow(VIP)]
        world.errors = [OSError(errno.EPERM, "Operation not permitted")]
        world.reconciler.suspect_all()
        world.reconciler.synced(is_confirmed=False)
        async with asyncio.timeout(SETTLE_SECONDS_MAX):
            while world.flows:
                await world.clock.advance(1)
                await asyncio.sleep(0.001)


async def test_after_a_read_back_everything_is_suspect() -> None:
    async with running() as world:
        world.program(service(ALIVE))
        await world.looks_become(1)
        await world.clock.advance(60)
        world.flows = [flow(VIP)]
        world.reconciler.suspect_all()
        world.reconciler.synced(is_confirmed=True)
        await world.looks_become(2)
        assert world.flows == [], "it passed while the rules were gone"


async def test_the_longer_a_look_takes_the_longer_the_rest_and_changes_meanwhile_share_one() -> None:
    async with running() as world:
        loop = asyncio.get_running_loop()

        def takes_half_a_second() -> None:
            asyncio.run_coroutine_threadsafe(world.clock.advance(0.5), loop).result(SETTLE_SECONDS_MAX)

        world.during = takes_half_a_second
        world.program(service(ALIVE, DEAD))
        await world.looks_become(1)
        world.program(service(ALIVE))
        world.program(service())
        world.program(service(DEAD))
        await world.clock.advance(4.4)
        assert len(world.looks) == 1
        world.during = lambda: None
        await world.clock.advance(0.2)
        await world.looks_become(2)
        first, *others = world.looks
        assert first == 0.0
        assert len(others) == 2, "one query for each endpoint that was lost on the way"
        assert all(5.0 <= at < 5.2 for at in others)


async def test_a_change_during_a_look_is_looked_into_afterwards_and_its_endpoints_are_safe() -> None:
    async with running() as world:
        entered, leave = threading.Event(), threading.Event()

        def wait() -> None:
            entered.set()
            assert leave.wait(SETTLE_SECONDS_MAX)

        world.during = wait
        world.flows = [flow(DEAD)]
        world.program(service(ALIVE))
        await asyncio.to_thread(entered.wait, SETTLE_SECONDS_MAX)
        world.reconciler.expect(key(1), service(DEAD))
        leave.set()
        await world.looks_become(1)
        assert world.flows == [flow(DEAD)], "the kernel may have given it this endpoint just now"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.EPERM, "Operation not permitted"), "CAP_NET_ADMIN"),
        (OSError(errno.EINVAL, "Invalid argument"), "nf_conntrack_netlink"),
    ],
)
async def test_a_table_that_cannot_be_had_is_said_once_and_tried_again(error: OSError, advice: str) -> None:
    async with running() as world:
        world.flows = [flow(DEAD)]
        world.errors = [error, error, error]
        with capture_logs() as logs:
            world.program(service(ALIVE))
            for attempt in range(1, 5):
                async with asyncio.timeout(SETTLE_SECONDS_MAX):
                    while len(world.looks) < attempt:
                        await world.clock.advance(1)
                        await asyncio.sleep(0.001)
            await world.looks_become(4)
        assert world.flows == []
        said: list[Any] = [entry for entry in logs if entry["log_level"] == "warning"]
        assert len(said) == 1
        assert advice in said[0]["advice"]
        assert [entry["event"] for entry in logs][-1] == "stale UDP and SCTP flows are ended again"
        assert (world.closed, world.opened) == (3, 4), "sockets are opened anew"
        assert world.value("pointsman_enforcer_conntrack_failures_total") == 3
        assert world.value("pointsman_enforcer_conntrack_degraded") == 0


async def test_a_table_rearranged_all_the_time_is_read_again_later() -> None:
    async with running() as world:
        world.errors = [InterruptedDumpError(errno.EINTR, "rearranged")]
        world.program(service(ALIVE))
        async with asyncio.timeout(SETTLE_SECONDS_MAX):
            while len(world.looks) < 2:
                await world.clock.advance(1)
                await asyncio.sleep(0.001)
        assert (world.opened, world.closed) == (1, 0)


async def test_the_end_of_the_process_stops_a_look() -> None:
    async with running() as world:
        world.program(service(ALIVE))
        await world.looks_become(1)
    assert world.stopped
