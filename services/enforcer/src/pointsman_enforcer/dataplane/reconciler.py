# SPDX-License-Identifier: Apache-2.0
"""Makes the kernel what the held plan says: the only caller of a dataplane, the same for every mode.

A committed transaction only marks services dirty (`commit`). A sync (`run`, called by a BoundedRunner) takes the dirty
services in order, a bounded number to a kernel transaction, and reports once at the end. Per sync:

    mend       when the dataplane noticed that somebody else changed our objects: compare, and repair what differs
    observe    only at the start, when tables are gone, and once more when the kernel refused something: drift is
               likelier than a bad service
    program    decode -> render -> diff -> one transaction; a refused one is bisected until the service is found
    node       node port addresses; service CIDRs when everything else is programmed and the plan is whole
    leftovers  what was found in the kernel and no plan asks for, once a planner's stream is in sync
    report     failures and the ack, with the digest of what the kernel has
    flows      those that go where no rule sends them any more are somebody else's work, which begins after the report

A service that fails keeps its last good state and is tried again with backoff if that can help. Nothing is removed
before a whole plan is known, nor while a service is failed: what it had last may not be findable by its new plan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import structlog

from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import ApplyError
from pointsman_enforcer.core.plan_session import Commit, Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.dataplane.base import (
    C,
    Dataplane,
    Found,
    KernelError,
)
from pointsman_enforcer.dataplane.drift import DriftKeeper
from pointsman_enforcer.dataplane.failures import NEVER, FailureBook
from pointsman_enforcer.dataplane.flows import Flows, NoFlows
from pointsman_enforcer.dataplane.programmer import Programmer
from pointsman_enforcer.dataplane.work import ORIGINS_MAX, Pending, Step, Tally, chunks
from pointsman_model.digest import plan_digest
from pointsman_model.names import ServiceKey
from pointsman_model.plan import NodeFacts, ServicePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilerLimits:
    """Bounds and intervals."""

    services_per_change: int = 100
    """Services in one kernel transaction: large ones are slow in the kernel and keep others out of it."""
    retry_seconds_initial: float = 1.0
    retry_seconds_max: float = 60.0
    observe_interval_seconds: float = 10.0
    """After a refusal the kernel is not read back more often than this, however many services fail."""


class ServicesFailedError(ApplyError):
    """A sync is over, and some services wait for another attempt."""


class LeftoversError(KernelError):
    """What no plan asks for could not be removed; the sync was not finished."""


class _ReadAgain(Exception):  # noqa: N818 - a turn of control flow inside one sync, not an error
    """The kernel is not what was remembered: observe, and start the sync over."""


class Reconciler(Generic[C]):
    """Owns what the kernel is believed to hold. Not thread-safe; `run` never runs twice at a time."""

    def __init__(
        self,
        *,
        dataplane: Dataplane[C],
        store: PlanStore,
        clock: Clock,
        on_synced: Callable[[Pending, Programmed, Tally], None],
        on_programmed: Callable[[ServiceKey, ServicePlan], None] = lambda _key, _plan: None,
        flows: Flows | None = None,
        limits: ReconcilerLimits | None = None,
    ) -> None:
        """Takes all services of `store` for dirty.

        `on_programmed` hears of each service once the kernel has it as planned; of a removed one, with an empty plan.
        `on_synced` hears of each sync that changed something.
        """
        self._dataplane = dataplane
        self._store = store
        self._clock = clock
        self._on_synced = on_synced
        self._flows: Flows = flows or NoFlows()
        self._limits = limits or ReconcilerLimits()
        self._dirty: dict[ServiceKey, int] = dict.fromkeys(store, 0)
        """Services to program, with the digest of the plan that the kernel has of each."""
        self._under_way: dict[ServiceKey, int] = {}
        """The same of those that a sync has taken and not finished."""
        self.failures = FailureBook(
            retry_seconds_initial=self._limits.retry_seconds_initial, retry_seconds_max=self._limits.retry_seconds_max
        )
        self._programmer = Programmer(
            dataplane=dataplane,
            store=store,
            failures=self.failures,
            clock=clock,
            on_refusal=self._look_for_drift,
            on_programmed=on_programmed,
            flows=self._flows,
        )
        self.drift = DriftKeeper(dataplane=dataplane, clock=clock)
        self._pending: Pending | None = None
        self._facts: NodeFacts | None = None
        self._must_observe = True
        self._may_read_again = False
        self._observed_at = -NEVER
        self._is_replacing = False
        self._may_clean_up = False
        self._has_leftovers = False

    @property
    def dirty_count(self) -> int:
        """Services that wait to be programmed."""
        return len(self._dirty)

    @property
    def is_programmed(self) -> bool:
        """Whether the kernel was read since the start, and everything planned is in it or failed."""
        return not any((self._must_observe, self._is_replacing, self._dirty, self._under_way))

    def is_dirty(self, key: ServiceKey) -> bool:
        """Whether this service waits to be programmed."""
        return key in self._dirty

    def rendering(self, key: ServiceKey) -> bytes:
        """What the kernel has of a service, as the dataplane packs it; empty for nothing."""
        return self._programmer.rendering(key)

    def commit(self, commit: Commit, *, stream: object, received_at: float, received_ns: int) -> None:
        """Note what a transaction changed. Touches no kernel; follow with a request for a sync."""
        for change in commit.changes:
            if change.key not in self._dirty:
                self._dirty[change.key] = self._programmed(change.key, change.old_digest)
        self._may_clean_up = self._may_clean_up or commit.in_sync
        pending = self._pending
        if pending is None:
            pending = self._pending = Pending(stream=stream, received_at=received_at, received_ns=received_ns)
        pending.take_over(stream)
        transaction = commit.transaction
        pending.nonce, pending.position, pending.digest = transaction.nonce, transaction.position, self._store.digest
        pending.services += len(commit.changes)
        pending.origins += transaction.origins[: ORIGINS_MAX - len(pending.origins)]

    async def run(self) -> None:
        """One sync.

        Raises:
            ServicesFailedError: some services are to be tried again; everything else is in the kernel and reported.
            ApplyError: the sync was not finished; nothing was reported, and the next one reads the kernel back.
        """
        if self._store.facts is None:
            return
        asked, self._pending = self._pending, None
        pending = asked or Pending(position=self._store.position, digest=self._store.digest)
        tally, started = Tally(), self._clock.monotonic()
        try:
            await self._sync(pending, tally)
        except ApplyError:
            self._restore(asked)
            self._must_observe = True
            raise
        if self._is_replacing:
            self._restore(asked)
            return
        self.drift.finish(tally.services)
        if asked is not None or tally.is_news or tally.is_full:
            self._report(pending, tally, started)
        self._flows.synced(is_confirmed=self._may_clean_up and self._store.is_complete)
        if self.failures.next_retry() < NEVER:
            raise ServicesFailedError(f"{len(self.failures)} services are not as planned")

    async def _sync(self, pending: Pending, tally: Tally) -> None:
        self._may_read_again = True
        try:
            await self._sync_once(pending, tally)
        except _ReadAgain:
            self._may_read_again = False
            await self._sync_once(pending, tally)

    async def _sync_once(self, pending: Pending, tally: Tally) -> None:
        await self._catch_up(tally)
        if self._is_replacing:
            if not self._store.is_complete:
                return
            await self._replace_everything(tally)
        for key in self.failures.due(self._clock.monotonic()):
            self._dirty.setdefault(key, self.failures.programmed(key, 0))
        await self._program_dirty(pending, tally)
        await self._program_node(tally, drop_unallocated=self._store.is_complete)
        await self._remove_leftovers(tally)

    async def _catch_up(self, tally: Tally) -> None:
        """Read the kernel if that is due, and bring the static objects up to the node's facts."""
        facts = self._store.facts
        if facts is not None and facts != self._facts:
            if self._dataplane.configure(facts):
                self.mark_all()
            self._facts = facts
            self._flows.suspect_all()
            if not self._must_observe:
                await self._dataplane.prepare()
        if self.drift.is_due and not self._must_observe:
            await self._mend(tally)
        if not self._must_observe:
            return
        tally.is_full = True
        self.mark_all()
        self._programmer.forget()
        self._flows.suspect_all()
        found = await self._dataplane.observe()
        self._observed_at = self._clock.monotonic()
        self._must_observe = False
        self._has_leftovers = found is Found.OURS
        self._is_replacing = found is Found.FOREIGN_SCHEMA
        structlog.get_logger("reconciler").info("kernel observed", found=found.value, services=len(self._dirty))
        if self._is_replacing:
            return
        await self._dataplane.prepare()
        if found is Found.NOTHING:
            await self._program_node(tally, drop_unallocated=False)

    async def _mend(self, tally: Tally) -> None:
        """Put right what somebody else changed, and try again at once what failed because of it."""
        mended = await self.drift.mend(self._programmer.renderings(), may_remove=not self._has_leftovers)
        tally.count(mended.applied)
        self._must_observe = mended.must_observe
        if mended.objects:
            self._flows.suspect_all()
            for key, failed in self.failures.items():
                self._dirty.setdefault(key, failed.programmed_digest)

    async def _replace_everything(self, tally: Tally) -> None:
        """Put the whole plan in the place of a table of another schema, in one transaction."""
        await self._dataplane.prepare(whole_plan=True)
        self._is_replacing = False
        steps = self._steps(list(self._dirty), tally)
        steps.append(self._node_step(drop_unallocated=True))
        try:
            await self._programmer.apply_whole(steps, tally)
            self._finish(steps)
        except ApplyError as error:
            log = structlog.get_logger("reconciler")
            log.warning("replacing the table in one transaction failed; going on by service", error=str(error))
            for step in steps[:-1]:
                self._dirty[step.key] = step.programmed_digest
            self._under_way.clear()
            await self._dataplane.prepare()

    async def _program_dirty(self, pending: Pending, tally: Tally) -> None:
        """Program what is dirty now, in order; what becomes dirty meanwhile is left to the next sync."""
        groups = list(chunks(list(self._dirty), self._limits.services_per_change))
        traced = frozenset(origin.service for origin in pending.origins)
        if len(groups) > 1:
            await self._program_many(groups, tally, traced)
        elif groups:
            await self._program(groups[0], tally, traced)
        for key, programmed in tally.take_occupied():
            self._dirty[key] = programmed
            await self._program([key], tally, traced)
        for key, programmed in tally.take_occupied():
            step = self._programmer.step(key, programmed, tally)
            if step is not None:
                self._programmer.fail(step, "its address is still programmed for another service", tally)

    async def _program_many(
        self, groups: Sequence[Sequence[ServiceKey]], tally: Tally, traced: frozenset[ServiceKey]
    ) -> None:
        """Program group after group; while the kernel works on one, the next is rendered."""
        applying: asyncio.Task[None] | None = None
        try:
            for group in groups:
                started_ns = self._clock.wall_ns()
                steps = self._steps(group, tally)
                if applying is not None:
                    await applying
                times = (started_ns, self._clock.wall_ns())
                applying = asyncio.create_task(self._apply(steps, tally, traced, times))
                await asyncio.sleep(0)
        finally:
            if applying is not None:
                await applying

    async def _program(self, keys: Sequence[ServiceKey], tally: Tally, traced: frozenset[ServiceKey]) -> None:
        """Program some services in one transaction."""
        started_ns = self._clock.wall_ns()
        steps = self._steps(keys, tally)
        await self._apply(steps, tally, traced, (started_ns, self._clock.wall_ns()))

    async def _apply(
        self, steps: Sequence[Step[C]], tally: Tally, traced: frozenset[ServiceKey], times: tuple[int, int]
    ) -> None:
        await self._programmer.apply(steps, tally)
        self._finish(steps)
        if traced:
            done = (*times, self._clock.wall_ns())
            tally.timings.update({step.key: done for step in steps if step.key in traced})

    def _steps(self, keys: Sequence[ServiceKey], tally: Tally) -> list[Step[C]]:
        """What these services need, which from now on are dirty no more; those that failed are left out."""
        found = []
        for key in keys:
            programmed = self._under_way[key] = self._dirty.pop(key, 0)
            step = self._programmer.step(key, programmed, tally)
            if step is not None:
                found.append(step)
            else:
                del self._under_way[key]
        return found

    def _finish(self, steps: Sequence[Step[C]]) -> None:
        """These are programmed or failed; those that became dirty meanwhile are compared with that from now on."""
        for step in steps:
            self._under_way.pop(step.key, None)
            if step.key in self._dirty:
                planned = 0 if step.plan is None else plan_digest(step.key, step.plan)
                self._dirty[step.key] = self.failures.programmed(step.key, planned)

    def _programmed(self, key: ServiceKey, otherwise: int) -> int:
        """Digest of the plan that the kernel has of a service: known if it failed or is under way, else `otherwise`."""
        return self._under_way.get(key, self.failures.programmed(key, otherwise))

    def _look_for_drift(self, error: KernelError) -> None:
        """What the kernel refused may be due to drift: read back, but not again and again for a service that is bad."""
        if not error.outcome_known:
            raise error
        is_due = self._clock.monotonic() - self._observed_at >= self._limits.observe_interval_seconds
        if self._may_read_again and (is_due or self.drift.may_look):
            structlog.get_logger("reconciler").warning("kernel refused a transaction; reading back", error=str(error))
            self._must_observe = True
            raise _ReadAgain

    async def _program_node(self, tally: Tally, *, drop_unallocated: bool) -> None:
        await self._programmer.apply_whole([self._node_step(drop_unallocated=drop_unallocated)], tally)

    def _node_step(self, *, drop_unallocated: bool) -> Step[C]:
        if self._facts is None:
            raise ValueError("nothing is programmed before the node's facts are known")
        return self._programmer.node_step(self._facts, drop_unallocated=drop_unallocated)

    async def _remove_leftovers(self, tally: Tally) -> None:
        """Mark and sweep: whatever was found, and no service of a whole plan has claimed, goes."""
        is_safe = self._may_clean_up and self._store.is_complete and not self.failures and not self._dirty
        if not (self._has_leftovers and is_safe):
            return
        removed = 0
        try:
            for change in self._dataplane.leftover():
                tally.count(await self._dataplane.apply(change))
                removed += change.operations
        except KernelError as error:
            raise LeftoversError(f"removing what no plan asks for: {error}") from error
        self._has_leftovers = False
        structlog.get_logger("reconciler").info("removed what no plan asks for", elements=removed)

    def mark_all(self) -> None:
        """Everything has to be compared again: what is planned, and what is remembered of services since removed.

        What the kernel has of those that were as planned is not known any more: should one fail, nothing is claimed.
        """
        for key in (*self._store, *self._programmer.remembered(), *self._under_way):
            self._dirty.setdefault(key, self._programmed(key, 0))
        self._under_way.clear()

    def _restore(self, asked: Pending | None) -> None:
        """Nothing was reported: what was asked for is still owed, unless newer came meanwhile."""
        if self._pending is None:
            self._pending = asked
        elif asked is not None:
            self._pending.include(asked)

    def _report(self, pending: Pending, tally: Tally, started: float) -> None:
        now = self._clock.monotonic()
        programmed = Programmed(
            nonce=pending.nonce,
            position=pending.position,
            digest=pending.digest,
            programmed_digest=self.failures.correct(pending.digest),
            applied_at_ns=self._clock.wall_ns(),
            duration_ns=round((now - (pending.received_at or started)) * 1e9),
            kernel_messages=tally.messages,
            kernel_bytes=tally.bytes,
            services=tally.services,
            failures=self.failures.present,
            drift=self.drift.report,
        )
        tally.seconds = now - started
        self._on_synced(pending, programmed, tally)
