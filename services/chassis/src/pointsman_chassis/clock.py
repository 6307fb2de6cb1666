# SPDX-License-Identifier: Apache-2.0
"""Time as a dependency: whatever waits or measures takes a `Clock`, so that tests decide what time it is.

`SystemClock` is the real one. `VirtualClock` stands still until `advance` is called; it is part of the library
because every service's tests need it.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A callback that has not run yet."""

    def cancel(self) -> None:
        """Do not run it; no effect when it ran already."""


class Clock(Protocol):
    """What code that waits may ask."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back. For intervals and deadlines."""

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC. For traces and for people."""

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` have passed; at the next turn of the loop for 0 or less."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` on the running loop after `seconds`."""


class SystemClock:
    """The clock of the machine and the timers of the running event loop."""

    def monotonic(self) -> float:
        """Seconds on CLOCK_MONOTONIC."""
        return time.monotonic()

    def wall_ns(self) -> int:
        """Nanoseconds on CLOCK_REALTIME."""
        return time.time_ns()

    async def sleep(self, seconds: float) -> None:
        """Wait in the running loop."""
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` on the running loop after `seconds`."""
        return asyncio.get_running_loop().call_later(seconds, callback)


class _VirtualTimer:
    """One entry of a VirtualClock's queue."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the callback."""
        self._callback = None

    def fire(self) -> None:
        """Run the callback unless cancelled; at most once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class VirtualClock:
    """A clock that moves only by `advance`; starts at monotonic 0 and at a wall time that is easy to recognise."""

    def __init__(self, *, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now = 0.0
        self._wall_start_ns = wall_ns
        self._queue: list[tuple[float, int, _VirtualTimer]] = []
        self._sequence = itertools.count()

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._now

    def wall_ns(self) -> int:
        """The start time plus what was advanced."""
        return self._wall_start_ns + round(self._now * 1e9)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has been advanced by `seconds`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: None if done.done() else done.set_result(None))
        try:
            await done
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Queue `callback`; equal deadlines run in the order they were queued."""
        timer = _VirtualTimer(callback)
        heapq.heappush(self._queue, (self._now + max(seconds, 0.0), next(self._sequence), timer))
        return timer

    async def advance(self, seconds: float) -> None:
        """Move time forward, running each timer at its own moment and letting the loop settle in between."""
        deadline = self._now + seconds
        await self.settle()
        while self._queue and self._queue[0][0] <= deadline:
            self._now, _, timer = heapq.heappop(self._queue)
            timer.fire()
            await self.settle()
        self._now = deadline
        await self.settle()

    async def settle(self, turns: int = 20) -> None:
        """Give the loop enough turns for everything that is ready to run; passes no time."""
        for _ in range(turns):
            await asyncio.sleep(0)
