# SPDX-License-Identifier: Apache-2.0
"""When the memory of clients is looked at: on request, from time to time, never without need and never all the time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.dataplane.affinity import AffinityClient, Look
from pointsman_enforcer.dataplane.affinity_sweep import AffinityMetrics, AffinitySweep
from pointsman_enforcer.dataplane.base import KernelError
from pointsman_model.plan import ServicePlan


class FakeMemory:
    """A memory of which each look takes `work_seconds`; `answers` are given in turn, the last one again and again."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.is_wanted = True
        self.work_seconds = 0.0
        self.answers: list[Look | KernelError | None] = [Look(clients=3, is_whole=True)]
        self.looked_at: list[float] = []
        self.changed: Callable[[], None] = lambda: None

    def watch(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    async def look(self) -> Look | None:
        self.looked_at.append(self.clock.monotonic())
        if self.work_seconds:
            await self.clock.sleep(self.work_seconds)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, KernelError):
            raise answer
        return answer

    def clients(self, plan: ServicePlan, rendering: bytes) -> Iterator[AffinityClient]:
        yield from ()

    async def seed(self, plan: ServicePlan, rendering: bytes, clients: Sequence[AffinityClient]) -> int:
        return 0


class World:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.memory = FakeMemory(self.clock)
        self.registry = Registry()
        self.metrics = AffinityMetrics(self.registry)
        self.looks: list[Look] = []
        self.sweep = AffinitySweep(
            memory=self.memory, metrics=self.metrics, clock=self.clock, on_look=self.looks.append
        )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    running = asyncio.create_task(made.sweep.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_it_looks_at_once_and_every_ten_seconds(world: World) -> None:
    await world.clock.advance(25)
    assert world.memory.looked_at == pytest.approx([0.0, 10.2, 20.4])
    assert world.looks == [Look(clients=3, is_whole=True)] * 3


async def test_a_node_without_session_affinity_never_looks_until_there_is_some() -> None:
    world = World()
    world.memory.is_wanted = False
    running = asyncio.create_task(world.sweep.run())
    await world.clock.advance(1000)
    assert world.memory.looked_at == []
    world.memory.is_wanted = True
    world.memory.changed()
    await world.clock.advance(1)
    assert world.memory.looked_at == [1000.0]
    running.cancel()


async def test_it_looks_soon_after_picks_changed_and_once_for_many_changes(world: World) -> None:
    await world.clock.advance(1)
    for _ in range(5):
        world.memory.changed()
    await world.clock.advance(0.1)
    world.memory.changed()
    world.memory.changed()
    await world.clock.advance(1)
    assert world.memory.looked_at == pytest.approx([0.0, 1.0, 1.2])


async def test_it_rests_forty_nine_times_as_long_as_a_look_takes_whatever_is_asked_for(world: World) -> None:
    world.memory.work_seconds = 1.0
    for _ in range(200):
        world.sweep.request()
        await world.clock.advance(1)
    looked_at = world.memory.looked_at[1:]
    assert [after - before for before, after in itertools.pairwise(looked_at)] == pytest.approx([50.0, 50.0, 50.0])


async def test_a_look_that_somebody_disturbed_is_taken_again(world: World) -> None:
    await world.clock.advance(0.1)
    world.memory.answers = [None, None, Look(clients=5, is_whole=False)]
    world.sweep.request()
    await world.clock.advance(1)
    assert world.looks == [Look(clients=3, is_whole=True), Look(clients=5, is_whole=False)]
    assert world.registry.value("pointsman_enforcer_affinity_look_partial") == 1


async def test_a_memory_that_cannot_be_read_is_tried_again_later(world: World) -> None:
    await world.clock.advance(0.1)
    world.memory.answers = [KernelError("no"), Look(clients=4, is_whole=True)]
    world.sweep.request()
    await world.clock.advance(5)
    assert len(world.looks) == 1
    await world.clock.advance(20)
    assert world.looks[1:2] == [Look(clients=4, is_whole=True)]
    assert world.registry.value("pointsman_enforcer_affinity_look_failures_total") == 1
