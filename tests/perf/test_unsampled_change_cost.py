# SPDX-License-Identifier: Apache-2.0
"""Guard: a change that nobody sampled costs tracing a counted number of calls, and keeps no memory. Never time."""

import gc
import sys
from collections.abc import Callable
from types import FrameType

import pytest

from support.unsampled_change import steps

CALLS_MAX = {
    "watcher: each change": 36,
    "planner: each change": 14,
    "planner: each node": 20,
    "enforcer: each sync": 12,
}
"""Calls of functions, C's included; a call costs some 0.05 to 0.2 us, and all of it may cost 10."""
STEPS = steps()


def calls_of(work: Callable[[], object]) -> int:
    """How many functions a piece of work calls, its own call left out."""
    count = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    work()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count - 2


@pytest.mark.parametrize("name", STEPS)
def test_an_unsampled_change_costs_a_bounded_number_of_calls(name: str) -> None:
    assert 0 < calls_of(STEPS[name]) <= CALLS_MAX[name]


@pytest.mark.parametrize("name", STEPS)
def test_an_unsampled_change_leaves_nothing_in_memory(name: str) -> None:
    work = STEPS[name]
    for _ in range(100):
        work()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(5_000):
        work()
    gc.collect()
    assert sys.getallocatedblocks() - before < 500


def test_the_counter_sees_what_is_called() -> None:
    assert calls_of(lambda: [str(number) for number in range(7)]) >= 1
    assert calls_of(lambda: sorted([len("a"), len("b")])) == 3
