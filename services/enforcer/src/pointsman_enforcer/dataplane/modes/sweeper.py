# SPDX-License-Identifier: Apache-2.0
"""Make before break: leftovers go once this mode has everything, and not before.

    our other modes'   when every service of a whole plan, from a planner or from disk, is programmed and was read back
                       (where the dataplane can read back): the same plan made them, so nothing is lost
    kube-proxy's       when a planner has confirmed the plan, too: one from disk may be older than kube-proxy's rules
                       (`dataplane.kube_proxy.takeover` is told)

A service that this mode cannot express does not hold them back: rules that nobody updates any more would be before the
others' eyes for good. What only waits for its last connection is looked at again until it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from pointsman_chassis.clock import Clock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.dataplane.leftovers import Leftover, LeftoverError, Swept, sweep

WAITING: Final = "waiting until everything planned is programmed and verified"
REMOVING: Final = "removing"
GONE: Final = "gone"
_RETRY_SECONDS: Final = 1.0
_RETRY_SECONDS_MAX: Final = 60.0
_DRAIN_SECONDS: Final = 5.0


class LeftoverMetrics:
    """Made once by the composition root."""

    def __init__(self, registry: Registry) -> None:
        self._left = registry.gauge(
            "pointsman_enforcer_leftovers",
            "Kinds of kernel objects of our other modes that are still there after the first attempt to remove them: "
            "waiting for their last connection, or failed",
            ("state",),
        )
        self.show(())

    def show(self, swept: Collection[Swept]) -> None:
        """After each attempt: how all of them stand."""
        self._left.labels("waiting").set(sum(each.is_waiting for each in swept))
        self._left.labels("failed").set(sum(bool(each.error) for each in swept))


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What has to be so before anything is removed; all are called on the loop."""

    is_settled: Callable[[], bool]
    """Everything planned is programmed, and verified where that is possible."""
    is_confirmed: Callable[[], bool]
    """A planner said that the plan is whole."""


class Sweeper:
    """Owns what is known of our own leftovers since the start."""

    def __init__(
        self,
        leftovers: Sequence[Leftover],
        *,
        ready: Readiness,
        on_found: Callable[[], None] = lambda: None,
        on_confirmed: Callable[[], None] = lambda: None,
        metrics: LeftoverMetrics,
        clock: Clock,
    ) -> None:
        """`on_found` is called when there is something to remove, `on_confirmed` once kube-proxy's may go, too."""
        self._leftovers = leftovers
        self._ready = ready
        self._on_found, self._on_confirmed = on_found, on_confirmed
        self._metrics = metrics
        self._clock = clock
        self._looked = asyncio.Event()
        self._state: dict[str, Swept] = {}
        self._progress = WAITING

    def look(self) -> None:
        """What `Readiness` says may have changed."""
        self._looked.set()

    def describe(self) -> dict[str, Any]:
        """For /statusz: where it stands, and what was found, by name."""
        found = {
            name: {"found": each.found, "removed": each.removed, "waiting": each.is_waiting, "error": each.error}
            for name, each in self._state.items()
            if each.found or each.error
        }
        return {"state": self._progress, "found": found}

    async def run(self) -> None:
        """Remove each leftover as soon as it may go; ends when all are gone."""
        if await self._finds_any():
            self._on_found()
        await self._until(self._ready.is_settled)
        await asyncio.gather(self._clean(), self._confirm())

    async def _finds_any(self) -> bool:
        for leftover in self._leftovers:
            try:
                if await leftover.find():
                    return True
            except LeftoverError:
                continue  # said when it is to be removed
        return False

    async def _clean(self) -> None:
        self._progress = REMOVING
        left, delay = await self._sweep_all(self._leftovers), _RETRY_SECONDS
        while left:
            await self._clock.sleep(_DRAIN_SECONDS if any(each.is_waiting for each in left) else delay)
            delay = min(2 * delay, _RETRY_SECONDS_MAX)
            left = await self._sweep_all(left)
        self._progress = GONE

    async def _confirm(self) -> None:
        await self._until(lambda: self._ready.is_settled() and self._ready.is_confirmed())
        self._on_confirmed()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._looked.clear()
            await self._looked.wait()

    async def _sweep_all(self, leftovers: Sequence[Leftover]) -> list[Leftover]:
        """Those that are not gone yet."""
        return [each for each in leftovers if not await self._sweep(each)]

    async def _sweep(self, leftover: Leftover) -> bool:
        before = self._state.get(leftover.name)
        swept = await sweep(leftover)
        if before is not None and before.found:
            swept = swept._replace(found=before.found, removed=before.removed + swept.removed)
        self._state[leftover.name] = swept
        self._metrics.show(self._state.values())
        if swept != before:
            _say(swept)
        return swept.is_over


def _say(swept: Swept) -> None:
    log = structlog.get_logger("leftovers")
    if swept.error:
        log.error("a leftover is still there; trying again", leftover=swept.name, error=swept.error)
    elif swept.is_waiting:
        log.info("a leftover waits for its last connection", leftover=swept.name, found=swept.found)
    elif swept.found:
        log.info("removed a leftover", leftover=swept.name, found=swept.found, objects=swept.removed)
