# SPDX-License-Identifier: Apache-2.0
"""The virtual clock does what the real one does, only when told to."""

import asyncio

from pointsman_chassis.clock import Clock, SystemClock, VirtualClock


async def test_timers_run_in_order_at_their_own_moment() -> None:
    clock = VirtualClock()
    seen: list[tuple[str, float]] = []
    clock.call_later(2, lambda: seen.append(("b", clock.monotonic())))
    clock.call_later(1, lambda: seen.append(("a", clock.monotonic())))
    clock.call_later(2, lambda: seen.append(("c", clock.monotonic())))
    clock.call_later(1.5, lambda: seen.append(("never", clock.monotonic()))).cancel()
    await clock.advance(5)
    assert seen == [("a", 1), ("b", 2), ("c", 2)]
    assert clock.monotonic() == 5


async def test_the_wall_clock_moves_with_the_monotonic_one() -> None:
    clock = VirtualClock(wall_ns=1000)
    await clock.advance(0.5)
    assert clock.wall_ns() == 500_001_000


async def test_a_sleeper_wakes_at_its_time_and_not_before() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(3))
    await clock.advance(2.9)
    assert not task.done()
    await clock.advance(0.1)
    assert task.done()


async def test_a_cancelled_sleeper_leaves_nothing_behind() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(3))
    await clock.settle()
    task.cancel()
    await clock.advance(10)
    assert task.cancelled()


async def test_the_system_clock_runs_timers_and_moves_forward() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    fired = asyncio.Event()
    clock.call_later(0.001, fired.set)
    async with asyncio.timeout(10):
        await fired.wait()
        await clock.sleep(0)
    assert clock.monotonic() >= before + 0.001
    assert clock.wall_ns() > 1_600_000_000_000_000_000
