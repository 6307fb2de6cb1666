# SPDX-License-Identifier: Apache-2.0
"""The numbered guarantees of BoundedRunner, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.errors import ApplyError, PointsmanError
from pointsman_chassis.runner import BoundedRunner


@dataclass
class Harness:
    """A runner whose work takes `work_seconds` and fails while `failures` lasts."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    starts: list[float] = field(default_factory=list)
    reported: list[PointsmanError] = field(default_factory=list)
    work_seconds: float = 0.0
    failures: int = 0
    in_progress: int = 0
    runner: BoundedRunner = field(init=False)

    async def work(self) -> None:
        self.in_progress += 1
        assert self.in_progress == 1
        self.starts.append(self.clock.monotonic())
        try:
            if self.work_seconds:
                await self.clock.sleep(self.work_seconds)
            if self.failures:
                self.failures -= 1
                raise ApplyError("kernel said no")
        finally:
            self.in_progress -= 1


@asynccontextmanager
async def running(
    harness: Harness, *, minimum: float = 0.0, retry: float = 5.0, maximum: float = float("inf")
) -> AsyncIterator[Harness]:
    harness.runner = BoundedRunner(
        harness.work,
        on_failure=harness.reported.append,
        min_interval_seconds=minimum,
        retry_interval_seconds=retry,
        max_interval_seconds=maximum,
        clock=harness.clock,
    )
    task = asyncio.create_task(harness.runner.run())
    try:
        await harness.clock.settle()
        yield harness
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_nothing_runs_before_the_first_request() -> None:
    async with running(Harness(), maximum=10) as harness:
        await harness.clock.advance(100)
        assert harness.starts == []


async def test_a_request_while_idle_starts_without_any_timer() -> None:
    async with running(Harness(), minimum=1) as harness:
        harness.runner.request()
        await asyncio.sleep(0)
        assert harness.starts == [0]


async def test_a_request_before_the_runner_is_started_is_not_lost() -> None:
    harness = Harness()
    runner = BoundedRunner(harness.work, on_failure=harness.reported.append, clock=harness.clock)
    runner.request()
    task = asyncio.create_task(runner.run())
    await harness.clock.settle()
    assert harness.starts == [0]
    task.cancel()


async def test_requests_before_a_run_starts_share_it() -> None:
    async with running(Harness(), minimum=1) as harness:
        for _ in range(1000):
            harness.runner.request()
        await harness.clock.advance(10)
        assert harness.starts == [0]


async def test_a_request_during_a_run_causes_exactly_one_more() -> None:
    async with running(Harness(work_seconds=2)) as harness:
        harness.runner.request()
        await harness.clock.advance(1)
        harness.runner.request()
        harness.runner.request()
        assert harness.runner.is_requested
        await harness.clock.advance(10)
        assert harness.starts == [0, 2]


async def test_the_minimum_interval_counts_from_completion() -> None:
    async with running(Harness(work_seconds=2), minimum=3) as harness:
        harness.runner.request()
        await harness.clock.advance(2.5)
        harness.runner.request()
        await harness.clock.advance(10)
        assert harness.starts == [0, 5]


async def test_an_idle_runner_runs_again_after_the_maximum_interval() -> None:
    async with running(Harness(), maximum=10) as harness:
        harness.runner.request()
        await harness.clock.advance(25)
        assert harness.starts == [0, 10, 20]


async def test_a_failed_run_is_reported_and_repeated_after_the_retry_interval() -> None:
    async with running(Harness(failures=2), minimum=1, retry=5, maximum=100) as harness:
        harness.runner.request()
        await harness.clock.advance(50)
        assert harness.starts == [0, 5, 10]
        assert [str(error) for error in harness.reported] == ["kernel said no"] * 2


async def test_a_request_brings_a_retry_forward_but_not_within_the_minimum_interval() -> None:
    async with running(Harness(failures=1), minimum=2, retry=50) as harness:
        harness.runner.request()
        await harness.clock.advance(1)
        harness.runner.request()
        await harness.clock.advance(20)
        assert harness.starts == [0, 2]


async def test_the_minimum_interval_holds_after_failures_too() -> None:
    async with running(Harness(failures=3), minimum=4, retry=1) as harness:
        harness.runner.request()
        await harness.clock.advance(20)
        assert harness.starts == [0, 4, 8, 12]


async def test_a_bug_in_the_work_reaches_the_caller() -> None:
    async def broken() -> None:
        raise KeyError("bug")

    runner = BoundedRunner(broken, on_failure=lambda _error: None, clock=VirtualClock())
    runner.request()
    with pytest.raises(KeyError, match="bug"):
        await runner.run()


@pytest.mark.parametrize(
    ("minimum", "retry", "maximum"), [(-1, 1, 1), (2, 1, 1), (0, 0, 1)], ids=["negative", "min>max", "no retry"]
)
def test_intervals_that_make_no_sense_are_refused(minimum: float, retry: float, maximum: float) -> None:
    work: Callable[[], Awaitable[None]] = Harness().work
    with pytest.raises(ValueError, match="intervals must satisfy"):
        BoundedRunner(
            work,
            on_failure=lambda _error: None,
            min_interval_seconds=minimum,
            retry_interval_seconds=retry,
            max_interval_seconds=maximum,
        )
