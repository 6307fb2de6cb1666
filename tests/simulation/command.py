# SPDX-License-Identifier: Apache-2.0
"""`make simulate SEED=1 COUNT=1000`: so many schedules of planners, streams and nodes, each from a seed of its own.

A schedule that breaks an invariant is played again and printed, with its seed. The last lines count.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import dataclass

import structlog
from simulation.world import InvariantError, World

STEPS = 250
_SHOWN_LINES = 120


@dataclass(slots=True, kw_only=True)
class Played:
    """What came of one seed."""

    seed: int
    steps: int
    faults: int
    error: BaseException | None = None


def play(seed: int, *, steps: int = STEPS, lines: list[str] | None = None) -> Played:
    """One schedule; its steps in words are added to `lines`."""
    world = World(seed, say=(lambda _: None) if lines is None else lines.append)
    played = Played(seed=seed, steps=0, faults=0)
    try:
        world.play(steps)
        world.settle()
    except (InvariantError, AssertionError, ValueError, LookupError, RuntimeError) as error:
        played.error = error
    played.steps, played.faults = world.steps, world.faults
    return played


def explanation(played: Played, *, steps: int = STEPS) -> str:
    """The end of the schedule that failed, and how to play it again."""
    lines: list[str] = []
    again = play(played.seed, steps=steps, lines=lines)
    shown = [f"  {number:4} {line}" for number, line in enumerate(lines, 1)][-_SHOWN_LINES:]
    error = f"{type(again.error).__name__}: {again.error}"
    return "\n".join(
        [f"seed {played.seed}:", *shown, f"  {error}", f"  again: make simulate SEED={played.seed} COUNT=1"]
    )


def quiet() -> None:
    """The services' warnings are part of the plan here."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def main() -> int:
    """Play; 1 when a schedule failed."""
    parser = argparse.ArgumentParser(prog="tests/simulation/run.py", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule; the others follow")
    parser.add_argument("--count", type=int, default=1000, help="schedules")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each, before it settles")
    parsed = parser.parse_args()
    quiet()
    began, steps, faults, failed = time.monotonic(), 0, 0, 0
    for seed in range(parsed.seed, parsed.seed + parsed.count):
        played = play(seed, steps=parsed.steps)
        steps, faults = steps + played.steps, faults + played.faults
        if played.error is not None:
            failed += 1
            if failed == 1:
                _say(explanation(played, steps=parsed.steps))
            else:
                _say(f"seed {seed}: {type(played.error).__name__}: {played.error}")
    took = time.monotonic() - began
    _say(f"{steps:,} interleaved steps and {faults:,} faults in {took:.1f} s: {steps / took:,.0f} steps a second")
    _say(f"simulate: {parsed.count} schedules, {failed} failed")
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
