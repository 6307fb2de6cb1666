# SPDX-License-Identifier: Apache-2.0
"""Affinity between nodes on the enforcer's side, without kernel and planner: bounds, order, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.dataplane import affinity_share
from pointsman_enforcer.dataplane.affinity import AffinityClient, Look
from pointsman_enforcer.dataplane.affinity_share import AffinityShare, AffinityShareMetrics
from pointsman_enforcer.dataplane.base import KernelError
from pointsman_model.names import Protocol, ServiceKey, ServicePortName
from pointsman_model.plan import Frontend, FrontendKind, ServicePlan
from pointsman_model.remembered import ClientKey, RememberedClient
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_plans import cluster_ip, endpoints, forward, key

ENDPOINTS = endpoints("10.1.0.1", "10.1.0.2")
HERE = ENDPOINTS[0][:2]
WEB = key(1)
LOOK = Look(clients=1, is_whole=True)
PREFIX = "pointsman_enforcer_affinity"


def service() -> ServicePlan:
    port = cluster_ip("172.30.0.1", 80, ENDPOINTS)
    node_port = Frontend(FrontendKind.NODE_PORT, b"", 30080, forward(), forward(), forward())
    return ServicePlan(ports=(replace(port, frontends=(*port.frontends, node_port)),), affinity_timeout_seconds=600)


def address(number: int) -> bytes:
    return bytes((203, 0, number >> 8, number & 255))


def remembered(number: int, service_key: ServiceKey = WEB) -> RememberedClient:
    port = ServicePortName(service_key, "", Protocol.TCP)
    return RememberedClient(ClientKey(port, address(number)), HERE, 600_000)


class World:
    """A memory of clients, a planner, and what they are told; all of it is the test."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.registry = Registry(process=False)
        self.plans = {WEB: encode_service_plan(service())}
        self.dirty: set[ServiceKey] = set()
        self.exceptions = 0
        self.others = 0
        """Clients that have their pick."""
        self.told: list[list[RememberedClient]] = []
        self.wants = True
        self.looks = 0
        self.seeded: list[AffinityClient] = []
        self.failure: KernelError | None = None
        self.share = AffinityShare(
            memory=self,
            plan_of=self.plans.get,
            rendering_of=lambda _: b"",
            is_dirty=self.dirty.__contains__,
            tell=self._tell,
            look_again=self._look_again,
            metrics=AffinityShareMetrics(self.registry),
            clock=self.clock,
        )

    @property
    def is_wanted(self) -> bool:
        return True

    def watch(self, changed: Callable[[], None]) -> None:
        raise NotImplementedError

    async def look(self) -> Look | None:
        raise NotImplementedError

    def clients(self, plan: ServicePlan, rendering: bytes) -> Iterator[AffinityClient]:
        assert rendering == b""
        for number in range(self.exceptions + self.others):
            name = plan.ports[0].name
            yield AffinityClient(name, Protocol.TCP, address(number), HERE, 600_000, number >= self.exceptions)

    async def seed(self, plan: ServicePlan, rendering: bytes, clients: Sequence[AffinityClient]) -> int:
        assert (plan, rendering) == (service(), b"")
        if self.failure is not None:
            raise self.failure
        self.seeded.extend(clients)
        return len(clients)

    def _tell(self, clients: Sequence[RememberedClient]) -> bool:
        if self.wants:
            self.told.append(list(clients))
        return self.wants

    def _look_again(self) -> None:
        self.looks += 1

    async def looked(self) -> None:
        """A look, and the time in which it is worked with."""
        self.share.looked(LOOK)
        await self.settle()

    async def settle(self, seconds: float = 0.0) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        await self.clock.advance(seconds)
        for _ in range(50):
            await asyncio.sleep(0)

    def value(self, name: str, **labels: str) -> float:
        return self.registry.value(f"{PREFIX}_{name}", labels or None) or 0.0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    made.share.programmed(WEB, service())
    running = asyncio.create_task(made.share.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_only_exceptions_are_told_and_each_once(world: World) -> None:
    world.exceptions, world.others = 3, 700
    await world.looked()
    await world.looked()
    assert world.told == [[remembered(number) for number in range(3)]]
    assert (world.value("exceptions"), world.value("exceptions_told_total")) == (3, 3)


async def test_what_nobody_wanted_is_told_to_the_next_planner(world: World) -> None:
    world.exceptions, world.wants = 2, False
    await world.looked()
    world.wants = True
    world.share.planner_changed()
    assert world.looks == 1
    await world.looked()
    world.share.planner_changed()
    await world.looked()
    assert [len(told) for told in world.told] == [2, 2]


async def test_no_more_than_a_bound_is_told_after_one_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity_share, "TELL_MAX", 10)
    world.exceptions = 25
    for _ in range(4):
        await world.looked()
    assert [len(told) for told in world.told] == [10, 10, 5]
    assert sorted(each.key.client for told in world.told for each in told) == [address(each) for each in range(25)]
    assert world.looks == 2


async def test_a_service_that_waits_to_be_programmed_is_left_for_the_next_look(world: World) -> None:
    world.exceptions = 1
    world.dirty.add(WEB)
    await world.looked()
    assert world.told == []
    world.dirty.clear()
    await world.looked()
    assert len(world.told) == 1


async def test_a_service_that_is_gone_is_told_of_no_more(world: World) -> None:
    world.exceptions = 1
    world.share.programmed(WEB, ServicePlan())
    await world.looked()
    assert world.told == []


async def test_seeds_wait_until_their_service_is_programmed(world: World) -> None:
    world.dirty.add(WEB)
    world.share.received([remembered(1)])
    await world.settle()
    assert world.seeded == []
    world.dirty.clear()
    world.share.programmed(WEB, service())
    await world.settle()
    assert [each.client for each in world.seeded] == [address(1)]
    assert world.value("seeded_total") == 1


async def test_seeds_of_a_service_that_never_comes_are_dropped_and_counted(world: World) -> None:
    world.share.received([remembered(1, key(2)), remembered(2)])
    await world.settle()
    for _ in range(12):
        await world.settle(1.0)
    assert [each.client for each in world.seeded] == [address(2)]
    assert world.value("seeds_left_out_total", reason="waited") == 1


async def test_a_kernel_that_refuses_is_asked_again_for_a_while(world: World) -> None:
    world.failure = KernelError("no")
    world.share.received([remembered(1)])
    await world.settle()
    world.failure = None
    await world.settle(1.0)
    assert [each.client for each in world.seeded] == [address(1)]


async def test_a_kernel_that_goes_on_refusing_is_let_alone(world: World) -> None:
    world.failure = KernelError("no")
    world.share.received([remembered(1)])
    for _ in range(12):
        await world.settle(1.0)
    assert world.value("seeds_left_out_total", reason="waited") == 1
    world.failure = None
    world.share.received([remembered(2)])
    await world.settle()
    assert [each.client for each in world.seeded] == [address(2)]
