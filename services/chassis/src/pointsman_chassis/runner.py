# SPDX-License-Identifier: Apache-2.0
"""Turns any number of "something changed" signals into runs of one work function at a bounded rate.

Receiving a message must be cheap and never touch the kernel: it marks dirty and calls `request`. The work happens
here, one run at a time. The shape and the three figures are those of kube-proxy's BoundedFrequencyRunner.
"""

import asyncio
from collections.abc import Awaitable, Callable

from pointsman_chassis.clock import Clock, SystemClock, Timer
from pointsman_chassis.errors import PointsmanError


class BoundedRunner:
    """Runs `work` when asked, never too often, never too seldom.

    Guarantees, all intervals measured from the completion of one run to the start of the next:

    1. At most one run is in progress at any time.
    2. A request made at any moment is followed by a run that starts after it. Requests made before that run starts
       share it; a request made during a run causes one more.
    3. At least `min_interval_seconds` lie between two runs, whatever their outcome.
    4. A request while idle, past the minimum interval, starts the run at the next turn of the event loop: no timer.
    5. A run that fails (raises PointsmanError) is repeated after `retry_interval_seconds` at the latest; a request
       brings the repetition forward, subject to 3. `on_failure` is called once for each failed run.
    6. Without a request, a run starts `max_interval_seconds` after the last one. Set it to infinity for never.
    7. Nothing runs before the first request.
    8. Any exception that is not a PointsmanError is a bug: it ends `run` and reaches the caller. Cancelling `run`
       cancels the work in progress.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[None]],
        *,
        on_failure: Callable[[PointsmanError], None],
        min_interval_seconds: float = 0.0,
        retry_interval_seconds: float = 1.0,
        max_interval_seconds: float = float("inf"),
        clock: Clock | None = None,
    ) -> None:
        if not 0 <= min_interval_seconds <= max_interval_seconds or retry_interval_seconds <= 0:
            message = (
                "intervals must satisfy 0 <= min <= max and retry > 0, got "
                f"min={min_interval_seconds} retry={retry_interval_seconds} max={max_interval_seconds}"
            )
            raise ValueError(message)
        self._work = work
        self._on_failure = on_failure
        self._min = min_interval_seconds
        self._retry = max(retry_interval_seconds, min_interval_seconds)
        self._max = max_interval_seconds
        self._clock: Clock = clock or SystemClock()
        self._requested = False
        self._wake: asyncio.Future[None] | None = None

    @property
    def is_requested(self) -> bool:
        """Whether a run is owed that has not started."""
        return self._requested

    def request(self) -> None:
        """Ask for a run. Cheap, never blocks; call it on the loop's thread."""
        self._requested = True
        self._wake_up()

    async def run(self) -> None:
        """Serve requests until cancelled."""
        not_before = not_later = float("inf")
        while True:
            if not_later == float("inf") and not_before == float("inf"):
                await self._until_requested(float("inf"))
            else:
                await self._until_due(not_before=not_before, not_later=not_later)
            self._requested = False
            deadline = self._retry if not await self._succeeds() else self._max
            completed = self._clock.monotonic()
            not_before, not_later = completed + self._min, completed + deadline

    async def _succeeds(self) -> bool:
        try:
            await self._work()
        except PointsmanError as error:
            self._on_failure(error)
            return False
        return True

    async def _until_due(self, *, not_before: float, not_later: float) -> None:
        """Return when a run may and must start."""
        await self._until_requested(not_later)
        while self._clock.monotonic() < not_before:
            await self._sleep_until(not_before)

    async def _until_requested(self, deadline: float) -> None:
        while not self._requested and self._clock.monotonic() < deadline:
            await self._sleep_until(deadline)

    async def _sleep_until(self, deadline: float) -> None:
        """Wait for the deadline or a wake-up, whichever comes first."""
        self._wake = asyncio.get_running_loop().create_future()
        timer: Timer | None = None
        if deadline != float("inf"):
            timer = self._clock.call_later(deadline - self._clock.monotonic(), self._wake_up)
        try:
            await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
