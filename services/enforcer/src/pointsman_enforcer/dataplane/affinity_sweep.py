# SPDX-License-Identifier: Apache-2.0
"""When the kernel's memory of clients is looked at: the affinity sweep.

Packets write that memory and nobody tells of it, so it is read from time to time: soon after first picks were
programmed anew, as that alone makes exceptions of clients, and every ten seconds besides. Between two looks lies at
least forty-nine times what the last one took: 2 % of a core at most, however many clients there are. A node without
session affinity looks at nothing and sets no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from pointsman_chassis.clock import Clock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.dataplane.affinity import AffinityMemory, Look
from pointsman_enforcer.dataplane.base import KernelError


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepLimits:
    """How often a look is taken, in seconds."""

    period_seconds: float = 10.0
    rest_seconds_min: float = 0.2
    rest_per_work: float = 49.0


class AffinityMetrics:
    """What the sweep counts. Made once by the composition root."""

    def __init__(self, registry: Registry) -> None:
        self.clients = registry.gauge(
            "pointsman_enforcer_affinity_clients", "Clients that session affinity remembers, as the last look saw them"
        )
        self.is_partial = registry.gauge(
            "pointsman_enforcer_affinity_look_partial", "1 while there are more clients than a look reads"
        )
        self.look_seconds = registry.histogram(
            "pointsman_enforcer_affinity_look_duration_seconds", "One look at the clients that are remembered"
        )
        self.failures = registry.counter(
            "pointsman_enforcer_affinity_look_failures_total", "Looks that the kernel refused"
        )


def _ignore(_: Look) -> None:
    """Nobody waits for looks."""


class AffinitySweep:
    """Owns the pace of looks. Whoever works with what they see is told of each, on the event loop."""

    def __init__(
        self,
        *,
        memory: AffinityMemory,
        metrics: AffinityMetrics,
        clock: Clock,
        on_look: Callable[[Look], None] = _ignore,
        limits: SweepLimits | None = None,
    ) -> None:
        """`on_look` hears of each look that counts; it then reads `memory.clients` of the services it cares for."""
        self._memory = memory
        self._metrics = metrics
        self._clock = clock
        self._on_look = on_look
        self._limits = limits or SweepLimits()
        self._wanted = asyncio.Event()
        self._is_failing = False

    def request(self) -> None:
        """Look soon."""
        self._wanted.set()

    async def run(self) -> None:
        """Look, until cancelled."""
        self._memory.watch(self.request)
        while True:
            if self._memory.is_wanted:
                await self._clock.sleep(await self._look())
                timer = self._clock.call_later(self._limits.period_seconds, self.request)
                await self._wanted.wait()
                timer.cancel()
            else:
                await self._wanted.wait()
            self._wanted.clear()

    async def _look(self) -> float:
        """One look; how long to rest after it."""
        started = self._clock.monotonic()
        try:
            look = await self._memory.look()
        except KernelError as error:
            self._failed(error)
            return self._limits.period_seconds
        seconds = self._clock.monotonic() - started
        if look is None:
            self.request()
        else:
            self._is_failing = False
            self._metrics.clients.set(look.clients)
            self._metrics.is_partial.set(not look.is_whole)
            self._metrics.look_seconds.observe(seconds)
            self._on_look(look)
        return max(self._limits.rest_seconds_min, self._limits.rest_per_work * seconds)

    def _failed(self, error: KernelError) -> None:
        """Say it once; the rest is in the metrics."""
        self._metrics.failures.inc()
        if not self._is_failing:
            structlog.get_logger("affinity").warning("the memory of clients cannot be read", error=str(error))
        self._is_failing = True
