# SPDX-License-Identifier: Apache-2.0
"""Time that moves only by `pass_time`, without an event loop; nothing here waits by itself."""

from __future__ import annotations

from collections.abc import Callable

from pointsman_chassis.clock import Timer

_WALL_START_NS = 1_700_000_000_000_000_000


class SimClock:
    """A Clock for cores that only ask what time it is."""

    def __init__(self) -> None:
        self._now = 0.0

    def pass_time(self, seconds: float) -> None:
        """Move on."""
        self._now += seconds

    def monotonic(self) -> float:
        """Seconds that have passed."""
        return self._now

    def wall_ns(self) -> int:
        """A start time plus what has passed."""
        return _WALL_START_NS + round(self._now * 1e9)

    async def sleep(self, seconds: float) -> None:
        """Nobody sleeps here."""
        raise NotImplementedError(f"somebody wants to sleep for {seconds} s")

    def call_later(self, seconds: float, _callback: Callable[[], None]) -> Timer:
        """Nobody sets timers here."""
        raise NotImplementedError(f"somebody sets a timer of {seconds} s")
