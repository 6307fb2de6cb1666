# SPDX-License-Identifier: Apache-2.0
"""What a fuzz target is, and how one is run: bounded and always alike in `make test`, for a time in `make fuzz`.

A target takes one drawn value and drives real code with it. It fails when code raises anything but the exceptions it
documents, when one value takes longer than EXAMPLE_SECONDS_MAX, or when an assertion of the target does not hold:
above all that what the value does not name is as it was before.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, reproduce_failure, seed, settings
from hypothesis import __version__ as hypothesis_version
from hypothesis import strategies as st
from structlog.testing import capture_logs

EXAMPLE_SECONDS_MAX = 10.0
"""Generous: ordinary values take under 50 ms, and the machine may be busy."""
_ROUND_EXAMPLES = 60
_PHASES = (Phase.explicit, Phase.generate, Phase.target, Phase.shrink)


class HangError(BaseException):
    """A value took too long. Not an Exception, so that no code under test takes it for one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One door through which strangers' bytes come in."""

    name: str
    values: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    examples: int = 150
    """In `make test`."""


@dataclass(slots=True)
class Executions:
    """How often a target ran."""

    count: int = 0


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """HangError when the body takes longer; main thread only."""

    def expire(_number: int, _frame: FrameType | None) -> None:
        raise HangError(f"one value took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_examples(target: Target, executions: Executions, *, examples: int, start: int | None = None) -> None:
    """Run a number of examples, the same ones for equal `start` (None: the ones of `make test`); what fails raises."""

    def body(value: Any) -> None:
        executions.count += 1
        _run_one(target, value)

    test = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=start is None,
        print_blob=True,
        phases=_PHASES,
        suppress_health_check=list(HealthCheck),
    )(given(target.values)(body))
    if start is not None:
        test = seed(start)(test)
    test()


def run_for(target: Target, executions: Executions, *, seconds: float, start: int) -> int:
    """Rounds of examples, each with the next seed, until the time is over; the seed of the last round."""
    deadline = time.monotonic() + seconds
    number = start
    while True:
        run_examples(target, executions, examples=_ROUND_EXAMPLES, start=number)
        if time.monotonic() >= deadline:
            return number
        number += 1


def run_blob(target: Target, blob: bytes) -> None:
    """One example that failed before."""

    def body(value: Any) -> None:
        _run_one(target, value)

    test = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))(given(target.values)(body))
    reproduce_failure(hypothesis_version, blob)(test)()


def _run_one(target: Target, value: Any) -> None:
    with capture_logs(), time_limit(EXAMPLE_SECONDS_MAX):
        target.check(value)
