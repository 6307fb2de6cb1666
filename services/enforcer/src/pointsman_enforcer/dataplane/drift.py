# SPDX-License-Identifier: Apache-2.0
"""When drift is looked at, and what is told of it; finding and mending it is the dataplane's.

dataplane notices -> a repair is due, at a bounded pace -> the reconciler's next sync mends -> report
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import structlog

from pointsman_chassis.clock import Clock, Timer
from pointsman_enforcer.core.drift import DriftReport, RepairPace
from pointsman_enforcer.dataplane.base import Dataplane, Mended


class DriftOutcome(Enum):
    """What came of looking at drift."""

    UNCHANGED = "unchanged"
    """Nothing of ours differed."""
    REPAIRED = "repaired"
    """What differed was put right, in place."""
    REBUILT = "rebuilt"
    """Tables were gone or replaced: everything was programmed anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftLook:
    """One look at drift, over and done."""

    outcome: DriftOutcome
    kinds: tuple[str, ...]
    seconds: float
    """From the first notice to the kernel's answer."""


def _ignore(_: DriftLook) -> None:
    """Nobody counts."""


class DriftKeeper:
    """Owns the pace of repairs and the newest report."""

    def __init__(self, *, dataplane: Dataplane[Any], clock: Clock) -> None:
        self._dataplane = dataplane
        self._clock = clock
        self._pace = RepairPace()
        self._request: Callable[[], None] | None = None
        self._on_look: Callable[[DriftLook], None] = _ignore
        self._timer: Timer | None = None
        self._due_at = 0.0
        self._noticed_at: float | None = None
        self._is_ripe = False
        """Whether the timer has run: a loop may run it a moment before its time."""
        self._began_at = 0.0
        self._mended: Mended | None = None
        self.report: DriftReport | None = None
        """Of the newest repair."""

    def watch(self, *, request: Callable[[], None], on_look: Callable[[DriftLook], None]) -> None:
        """Begin: `request` asks for a sync, `on_look` hears of each look. Call it on the running loop."""
        self._request, self._on_look = request, on_look
        self._dataplane.watch(self.notice)

    def notice(self) -> None:
        """Somebody else may have changed what is ours."""
        if self._noticed_at is None:
            self._noticed_at = self._clock.monotonic()
            self._schedule()

    def _schedule(self) -> None:
        now = self._clock.monotonic()
        self._is_ripe, self._due_at = False, self._pace.due(now)
        if self._request is not None:
            self._timer = self._clock.call_later(self._due_at - now, self._ripen)

    @property
    def is_due(self) -> bool:
        """Whether the next sync has to look."""
        return self._noticed_at is not None and (self._is_ripe or self._clock.monotonic() >= self._due_at)

    @property
    def is_slowed(self) -> bool:
        """Whether repairs are held back because they do not last."""
        return self._pace.is_slowed

    @property
    def may_look(self) -> bool:
        """Whether something was noticed, and the pace of repairs allows for looking now."""
        return self._noticed_at is not None and self._pace.due(-math.inf) <= self._clock.monotonic()

    async def mend(self, renderings: Sequence[bytes], *, may_remove: bool) -> Mended:
        """Look, and put right what can be put right in place; see `Dataplane.mend`. To be followed by `finish`."""
        noticed_at, self._noticed_at, self._is_ripe = self._noticed_at, None, False
        if self._timer is not None:
            self._timer.cancel()
        self._began_at = now = self._clock.monotonic()
        if noticed_at is not None:
            self._began_at = noticed_at
        was_slowed = self._pace.is_slowed
        self._pace.looked(now)
        mended = await self._dataplane.mend(renderings, may_remove=may_remove)
        self._mended = mended if mended.kinds else self._mended
        if self._pace.is_slowed and not was_slowed:
            self._complain(mended)
        return mended

    def finish(self, services: int) -> None:
        """A sync is over, and `services` were programmed in it: if it had to do with drift, tell.

        A sync that reads everything back does not look at rules: what was noticed meanwhile is due after it.
        """
        if self.is_due:
            self._schedule()
        mended, self._mended = self._mended, None
        if mended is None:
            return
        objects = mended.objects + (services if mended.must_observe else 0)
        outcome = DriftOutcome.REPAIRED if objects else DriftOutcome.UNCHANGED
        outcome = DriftOutcome.REBUILT if mended.is_rebuilt or mended.must_observe else outcome
        look = DriftLook(outcome=outcome, kinds=mended.kinds, seconds=self._clock.monotonic() - self._began_at)
        if outcome is not DriftOutcome.UNCHANGED:
            self._enter(mended, look, objects)
        self._on_look(look)

    def _complain(self, mended: Mended) -> None:
        structlog.get_logger("drift").error(
            "somebody keeps changing our kernel objects; repairing ever more seldom, down to every 30 s",
            process=mended.process or "unknown",
            process_id=mended.process_id,
        )

    def _ripen(self) -> None:
        self._is_ripe = True
        if self._request is not None:
            self._request()

    def _enter(self, mended: Mended, look: DriftLook, objects: int) -> None:
        self.report = DriftReport(
            repairs=1 if self.report is None else self.report.repairs + 1,
            repaired_at_ns=self._clock.wall_ns(),
            duration_ns=round(look.seconds * 1e9),
            kinds=mended.kinds,
            objects=objects,
            process=mended.process,
            process_id=mended.process_id,
        )
        structlog.get_logger("drift").warning(
            "somebody else changed our kernel objects; put right",
            touched=list(mended.kinds),
            process=mended.process or "unknown",
            process_id=mended.process_id,
            objects=objects,
            outcome=look.outcome.value,
            seconds=round(look.seconds, 4),
        )
