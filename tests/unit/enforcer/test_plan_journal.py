# SPDX-License-Identifier: Apache-2.0
"""The journal keeps the file equal to the plan held, at the cost of what changed, and outlives a bad disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from pointsman_chassis.clock import SystemClock
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Transaction
from pointsman_enforcer.disk import plan_journal
from pointsman_enforcer.disk.plan_journal import PlanJournal, load_plan, remove_plan
from pointsman_model.names import ServiceKey
from support.enforcer_plans import FACTS, digest_of, key
from support.scripted_planner import eventually


class Held:
    """A store, its journal, and changes that go to both."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        loaded = load_plan(directory)
        self.store = loaded.store
        self.failures = 0
        self.durable = 0
        self.journal = PlanJournal(
            directory, self.store, clock=SystemClock(), on_failure=self._count, on_durable=self._are_durable
        )
        if loaded.records:
            self.journal.resume(loaded)

    def change(self, updates: dict[ServiceKey, bytes], *, is_whole: bool = False) -> None:
        after = dict(self.store.snapshot().updates) | updates
        transaction = Transaction(
            nonce=1, updates=updates, facts=FACTS, digest=digest_of(after), in_sync=True, replaces_all=is_whole
        )
        self.store.apply(transaction)
        self.journal.record(transaction)

    def on_disk(self) -> dict[ServiceKey, bytes]:
        return dict(load_plan(self.directory).store.snapshot().updates)

    def held(self) -> dict[ServiceKey, bytes]:
        return dict(self.store.snapshot().updates)

    async def is_written(self) -> None:
        await eventually(lambda: self.on_disk() == self.held(), "the file is equal to the plan held")

    def _count(self) -> None:
        self.failures += 1

    def _are_durable(self, number: int) -> None:
        self.durable = number


@asynccontextmanager
async def journal(directory: Path) -> AsyncIterator[Held]:
    made = Held(directory)
    task = asyncio.create_task(made.journal.run())
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await made.journal.close()


async def test_the_first_plan_makes_a_file_and_changes_are_appended(tmp_path: Path) -> None:
    async with journal(tmp_path) as held:
        held.change({key(each): b"x" * 100 for each in range(500)}, is_whole=True)
        await held.is_written()
        before = (tmp_path / "plan.log").stat()
    async with journal(tmp_path) as held:
        held.change({key(1): b"y" * 100})
        await held.is_written()
        after = (tmp_path / "plan.log").stat()
    assert after.st_ino == before.st_ino, "appended, not written anew"
    assert after.st_size - before.st_size < 400


async def test_a_change_is_in_the_file_at_once_however_close_to_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process must find on disk what it had put into the kernel, though nothing was flushed since."""
    monkeypatch.setattr(plan_journal, "_FLUSH_SECONDS", 600.0)
    async with journal(tmp_path) as held:
        held.change({key(1): b"x"}, is_whole=True)
        await eventually(lambda: held.durable == 1, "the first file is in its place, and the journal knows")
        for turn in range(20):
            held.change({key(2): bytes([turn])})
            for _ in range(3):
                await asyncio.sleep(0)
            assert held.on_disk() == held.held()


async def test_nothing_is_lost_when_the_process_is_asked_to_stop_at_once(tmp_path: Path) -> None:
    async with journal(tmp_path) as held:
        held.change({key(each): b"x" for each in range(2000)}, is_whole=True)
        await asyncio.sleep(0)
        held.change({key(1): b"y"})
    assert held.on_disk() == held.held()


async def test_changes_while_the_file_is_written_anew_are_in_it(tmp_path: Path) -> None:
    async with journal(tmp_path) as held:
        for turn in range(30):
            held.change({key(each): bytes([turn]) for each in range(1200)})
            held.change({key(turn): b"last"})
            await asyncio.sleep(0)
        await held.is_written()


async def test_a_log_that_has_grown_is_compacted(tmp_path: Path) -> None:
    async with journal(tmp_path) as held:
        held.change({key(1): b"x"}, is_whole=True)
        for turn in range(12):
            held.change({key(1): bytes([turn]) * 400_000})
            await held.is_written()
    assert (tmp_path / "plan.log").stat().st_size < 12 * 400_000
    assert held.on_disk() == held.held()


async def test_a_damaged_file_is_used_as_far_as_it_is_sound_and_then_made_anew(tmp_path: Path) -> None:
    async with journal(tmp_path) as held:
        held.change({key(1): b"one"}, is_whole=True)
        await held.is_written()
        held.change({key(2): b"two"})
        await held.is_written()
    path = tmp_path / "plan.log"
    path.write_bytes(path.read_bytes()[:-3])
    async with journal(tmp_path) as held:
        assert held.held() == {key(1): b"one"}
        assert not held.store.is_complete
        held.change({key(3): b"three"})
        await held.is_written()
    assert load_plan(tmp_path).problem == ""


async def test_a_disk_that_cannot_be_written_is_counted_and_survived(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    async with journal(tmp_path / "file") as held:
        held.change({key(1): b"x"}, is_whole=True)
        await eventually(lambda: held.failures > 0, "the failure is counted")


def test_a_plan_that_cannot_be_read_is_no_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.log").mkdir()
    assert len(load_plan(tmp_path).store) == 0
    assert load_plan(tmp_path / "nowhere").records == 0


def test_removing_the_plan_may_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "plan.log").write_bytes(b"x")
    assert remove_plan(tmp_path)
    assert not remove_plan(tmp_path)
    assert isinstance(load_plan(tmp_path).store, PlanStore)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_stub_of_a_file_is_no_plan(tmp_path: Path, size: int) -> None:
    (tmp_path / "plan.log").write_bytes(b"pmplan\x00\x01"[:size])
    assert len(load_plan(tmp_path).store) == 0


async def test_a_transaction_that_did_not_come_out_as_its_planner_meant_is_no_damage(tmp_path: Path) -> None:
    async with journal(tmp_path) as held:
        held.change({key(1): b"one"}, is_whole=True)
        await held.is_written()
        wrong = Transaction(nonce=2, updates={key(2): b"two"}, digest=12345, in_sync=True)
        held.store.apply(wrong)
        held.journal.record(wrong)
        held.change({key(3): b"three"})
        await held.is_written()
    assert load_plan(tmp_path).problem == ""
