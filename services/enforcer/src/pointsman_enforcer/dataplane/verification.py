# SPDX-License-Identifier: Apache-2.0
"""Reads back what was programmed, service by service, in quiet moments: the proof behind an ack of level VERIFIED.

changed(service) ... synced -> quiet for a moment -> slices of elements, at a bounded pace -> verified
                                                     one is not as acknowledged -> nacked, mended as drift, read again

Only services that were programmed since they were last read are read, by their keys: the cost is that of what changed,
and a node where nothing changes reads nothing. Slices run between syncs and never during one, so what is compared is
what the kernel acknowledged last. A dataplane that cannot read back (`Dataplane.read_back` is None) verifies nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import ApplyError
from pointsman_enforcer.core.plan_session import Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Stage
from pointsman_enforcer.dataplane.base import Dataplane, ReadBack
from pointsman_enforcer.dataplane.failures import Fault
from pointsman_enforcer.dataplane.reconciler import Reconciler
from pointsman_model.digest import plan_digest
from pointsman_model.names import ServiceKey

_HASTE: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationPace:
    """How fast, and when."""

    elements_per_second: int = 2000
    elements_per_slice: int = 64
    """About a millisecond and a half, in which nothing else is programmed."""
    quiet_seconds: float = 0.5
    """Nothing was programmed for so long."""
    deferral_seconds_max: float = 5.0
    """On a node that is never quiet, begin after this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationEvents:
    """What the owner is asked and told. All are called on the loop."""

    is_syncing: Callable[[], bool]
    """Whether a sync is under way."""
    read: Callable[[int], None]
    """So many elements were read."""
    verified: Callable[[int, int], None]
    """Everything that was programmed was read back and found equal: digest of the plan, and of what the kernel has."""
    mismatch: Callable[[], None]
    """A service is not as the kernel acknowledged it; the dataplane knows of it and mends."""
    report: Callable[[Programmed], None]
    """Such a service failed, or is as planned again without our doing."""


class Verification:
    """Owns the list of services that were programmed and not read back since."""

    def __init__(
        self,
        *,
        dataplane: Dataplane[Any],
        reconciler: Reconciler[Any],
        store: PlanStore,
        events: VerificationEvents,
        clock: Clock,
        pace: VerificationPace | None = None,
    ) -> None:
        self._reconciler = reconciler
        self._store = store
        self._events = events
        self._clock = clock
        self._pace = pace or VerificationPace()
        self._read_back = dataplane.read_back if self._pace.elements_per_second > 0 else None
        """None: nothing is verified."""
        self._unverified: dict[ServiceKey, bytes | None] = {}
        """With the rendering that is half read, if one is."""
        self._offset = 0
        """Elements of the first one that were read."""
        self._haste = 1
        self._wake = asyncio.Event()
        self._synced_at = self._waiting_since = clock.monotonic()

    @property
    def waiting(self) -> int:
        """Services that were programmed and not read back since."""
        return len(self._unverified)

    def hurry(self) -> None:
        """Something waits until everything is verified: from now on, read ten times as fast as configured."""
        self._haste = _HASTE

    def changed(self, key: ServiceKey) -> None:
        """A service was programmed, or removed."""
        if self._read_back is not None:
            self._unverified[key] = None

    def synced(self) -> None:
        """A sync is over: what it did is to be verified."""
        self._synced_at = self._clock.monotonic()
        if not self._wake.is_set():
            self._waiting_since = self._synced_at
            self._wake.set()

    async def run(self) -> None:
        """Verify until cancelled."""
        if self._read_back is None:
            return
        slice_seconds = self._pace.elements_per_slice / self._pace.elements_per_second
        while True:
            await self._wake.wait()
            await self._quiet()
            if self._is_busy():
                await self._clock.sleep(self._pace.quiet_seconds)
            elif self._unverified:
                is_read = self._look(self._read_back)
                await self._clock.sleep(slice_seconds / self._haste if is_read else self._pace.quiet_seconds)
            else:
                self._wake.clear()
                digest = self._store.digest
                self._events.verified(digest, self._reconciler.failures.correct(digest))

    def _is_busy(self) -> bool:
        """Whether the kernel is being changed, or about to be: by us, or back after somebody else."""
        return self._events.is_syncing() or self._reconciler.dirty_count > 0 or self._reconciler.drift.may_look

    async def _quiet(self) -> None:
        """Wait for a quiet moment, but not for ever."""
        while True:
            now = self._clock.monotonic()
            quiet_at = self._synced_at + self._pace.quiet_seconds
            due = min(quiet_at, self._waiting_since + self._pace.deferral_seconds_max)
            if now >= due:
                return
            await self._clock.sleep(due - now)

    def _look(self, read_back: Callable[[bytes, int, int], ReadBack | None]) -> bool:
        """Read one slice; false when the kernel has to be read first."""
        left = self._pace.elements_per_slice
        while left > 0 and self._unverified:
            key, half_read = next(iter(self._unverified.items()))
            rendering = self._reconciler.rendering(key)
            if rendering is not half_read:
                self._offset = 0
            try:
                found = read_back(rendering, self._offset, left)
            except ApplyError as error:
                structlog.get_logger("verification").warning("elements could not be read back", error=str(error))
                self._synced_at = self._waiting_since = self._clock.monotonic() + self._pace.deferral_seconds_max
                return True
            if found is None:
                return False
            self._events.read(found.reads)
            if found.differing:
                self._differs(key, found.words)
            elif found.reads == left:
                self._unverified[key] = rendering
                self._offset += found.reads
            else:
                self._equals(key)
            left -= max(found.reads, 1)
        return True

    def _equals(self, key: ServiceKey) -> None:
        del self._unverified[key]
        failed = self._reconciler.failures.get(key)
        if failed is not None and failed.stage is Stage.VERIFY:
            self._reconciler.failures.clear(key)
            self._report()

    def _differs(self, key: ServiceKey, words: str) -> None:
        """The service counts as failed until it was mended and programmed again, or is found equal after all."""
        del self._unverified[key]
        self._events.mismatch()
        message = f"the kernel holds something else than it acknowledged, which is being put right: {words}"
        plan = self._store.get(key)
        planned = 0 if plan is None else plan_digest(key, plan)
        fault = Fault(stage=Stage.VERIFY, message=message, planned_digest=planned, programmed_digest=0)
        self._clock.call_later(self._pace.deferral_seconds_max, lambda: self._look_again(key))
        if self._reconciler.failures.enter(key, fault, self._clock.monotonic()):
            log = structlog.get_logger("verification")
            log.error("kernel is not as acknowledged", service=str(key), differs=words)
            self._report()

    def _look_again(self, key: ServiceKey) -> None:
        """A service that was not put right since may be as planned all the same."""
        if key in self._reconciler.failures:
            self._unverified.setdefault(key, None)
            self.synced()

    def _report(self) -> None:
        digest = self._store.digest
        self._events.report(
            Programmed(
                nonce=0,
                position=self._store.position,
                digest=digest,
                programmed_digest=self._reconciler.failures.correct(digest),
                applied_at_ns=self._clock.wall_ns(),
                failures=self._reconciler.failures.present,
                drift=self._reconciler.drift.report,
            )
        )
