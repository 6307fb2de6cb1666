# SPDX-License-Identifier: Apache-2.0
"""When programmed services are read back, how fast, and what a difference becomes. Virtual time, a scripted kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_enforcer.core.plan_session import Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Stage, Transaction
from pointsman_enforcer.dataplane.base import KernelError, ReadBack
from pointsman_enforcer.dataplane.failures import FailureBook
from pointsman_enforcer.dataplane.verification import Verification, VerificationEvents, VerificationPace
from support.enforcer_plans import key

PACE = VerificationPace(elements_per_second=1000, elements_per_slice=10, quiet_seconds=0.5, deferral_seconds_max=5.0)


class World:
    """Services whose rendering is as long as they have elements."""

    def __init__(self, pace: VerificationPace = PACE, *, can_read_back: bool = True) -> None:
        self.clock = VirtualClock()
        self.store = PlanStore()
        self.renderings: dict[Any, bytes] = {}
        self.wrong: set[bytes] = set()
        self.reads: list[tuple[float, int]] = []
        self.verified: list[float] = []
        self.differences: list[float] = []
        self.reports: list[Programmed] = []
        self.is_syncing = False
        self.breaks = False
        self.is_unread = False
        self.questions = 0
        self.reconciler = SimpleNamespace(
            rendering=lambda name: self.renderings.get(name, b""),
            failures=FailureBook(retry_seconds_initial=1.0, retry_seconds_max=60.0),
            dirty_count=0,
            drift=SimpleNamespace(may_look=False, report=None),
        )
        dataplane = SimpleNamespace(read_back=self._read_back if can_read_back else None)
        self.verification = Verification(
            dataplane=dataplane,  # type: ignore[arg-type]  # all that it needs
            reconciler=self.reconciler,  # type: ignore[arg-type]  # all that it needs
            store=self.store,
            clock=self.clock,
            pace=pace,
            events=VerificationEvents(
                is_syncing=lambda: self.is_syncing,
                read=lambda count: self.reads.append((self.clock.monotonic(), count)),
                verified=lambda _digest, _programmed: self.verified.append(self.clock.monotonic()),
                mismatch=lambda: self.differences.append(self.clock.monotonic()),
                report=self.reports.append,
            ),
        )

    def program(self, index: int, elements: int) -> None:
        plan = bytes([index]) * elements
        self.store.apply(Transaction(nonce=1, updates={key(index): plan}))
        self.renderings[key(index)] = plan
        self.verification.changed(key(index))
        self.verification.synced()

    @property
    def elements(self) -> int:
        return sum(count for _, count in self.reads)

    def _read_back(self, rendering: bytes, start: int, most: int) -> ReadBack | None:
        self.questions += 1
        if self.is_unread:
            return None
        if self.breaks:
            raise KernelError("no answer")
        found = rendering[start : start + most]
        is_wrong = rendering[:1] in self.wrong
        return ReadBack(len(found), int(is_wrong), "endpoints 00 is missing" if is_wrong else "")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    task = asyncio.create_task(made.verification.run())
    yield made
    task.cancel()


async def test_only_what_changed_is_read_and_only_after_a_quiet_moment(world: World) -> None:
    world.program(1, 5)
    world.program(2, 5)
    await world.clock.advance(0.4)
    assert world.reads == []
    await world.clock.advance(0.2)
    assert world.elements == 10
    assert len(world.verified) == 1
    world.program(1, 6)
    await world.clock.advance(1.0)
    assert world.elements == 16
    assert len(world.verified) == 2


async def test_a_service_larger_than_a_slice_is_read_in_pieces_at_the_pace(world: World) -> None:
    world.program(1, 95)
    world.program(2, 3)
    await world.clock.advance(3.0)
    assert world.elements == 98
    assert max(count for _, count in world.reads) <= PACE.elements_per_slice
    first, last = world.reads[0][0], world.reads[-1][0]
    assert last - first >= 80 / PACE.elements_per_second
    assert world.verification.waiting == 0


async def test_a_service_that_changes_while_it_is_read_is_read_from_the_beginning(world: World) -> None:
    world.program(1, 30)
    await world.clock.advance(0.505)
    assert 0 < world.elements < 30
    already = world.elements
    world.program(1, 30)
    await world.clock.advance(2.0)
    assert world.elements == already + 30


async def test_a_node_that_is_never_quiet_is_verified_all_the_same(world: World) -> None:
    for _ in range(70):
        world.program(1, 1)
        await world.clock.advance(0.1)
    assert world.reads
    assert world.reads[0][0] <= PACE.deferral_seconds_max + 0.2


@pytest.mark.parametrize("why", ["syncing", "dirty", "drift"])
async def test_nothing_is_read_while_the_kernel_is_being_changed(world: World, why: str) -> None:
    world.is_syncing = why == "syncing"
    world.reconciler.dirty_count = int(why == "dirty")
    world.reconciler.drift.may_look = why == "drift"
    world.program(1, 5)
    await world.clock.advance(3.0)
    assert world.reads == []
    assert world.verified == []
    world.is_syncing, world.reconciler.dirty_count, world.reconciler.drift.may_look = False, 0, False
    await world.clock.advance(1.0)
    assert world.elements == 5
    assert len(world.verified) == 1


async def test_a_difference_is_a_failure_until_the_service_is_programmed_again(world: World) -> None:
    world.program(1, 5)
    world.program(2, 5)
    world.wrong.add(b"\1")
    await world.clock.advance(1.0)
    [report] = world.reports
    assert [(each.key, each.stage) for each in report.failures] == [(key(1), Stage.VERIFY)]
    assert report.programmed_digest != report.digest
    world.wrong.clear()
    world.reconciler.failures.clear(key(1))
    world.program(1, 5)
    await world.clock.advance(10.0)
    assert world.verification.waiting == 0
    assert (len(world.reports), len(world.differences)) == (1, 1)


async def test_a_difference_that_stays_is_told_once_and_looked_at_again(world: World) -> None:
    world.program(1, 5)
    world.wrong.add(b"\1")
    await world.clock.advance(30.0)
    assert len(world.reports) == 1
    assert 4 <= len(world.differences) <= 7
    assert key(1) in world.reconciler.failures


async def test_a_difference_that_went_away_by_itself_is_told_as_recovered(world: World) -> None:
    world.program(1, 5)
    world.wrong.add(b"\1")
    await world.clock.advance(1.0)
    world.wrong.clear()
    await world.clock.advance(10.0)
    assert [[each.key for each in report.failures] for report in world.reports] == [[key(1)], []]
    assert world.reports[-1].programmed_digest == world.reports[-1].digest
    assert world.verified[-1] > world.differences[-1]


async def test_a_kernel_that_does_not_answer_is_no_difference_and_no_proof(world: World) -> None:
    world.breaks = True
    world.program(1, 5)
    await world.clock.advance(1.0)
    assert (world.differences, world.verified) == ([], [])
    world.breaks = False
    await world.clock.advance(12.0)
    assert world.elements == 5
    assert len(world.verified) == 1


@pytest.mark.parametrize("why", ["no pace", "no read_back"])
async def test_nothing_is_remembered_or_told_when_nothing_is_verified(why: str) -> None:
    world = World(VerificationPace(elements_per_second=0)) if why == "no pace" else World(can_read_back=False)
    world.program(1, 5)
    await world.verification.run()
    assert world.verification.waiting == 0
    assert world.verified == []


async def test_a_kernel_that_has_to_be_read_first_is_asked_again_without_haste(world: World) -> None:
    world.is_unread = True
    world.program(1, 5)
    await world.clock.advance(10.0)
    assert world.verified == []
    assert 0 < world.questions <= 20
    world.is_unread = False
    await world.clock.advance(2.0)
    assert len(world.verified) == 1
