# SPDX-License-Identifier: Apache-2.0
"""How long dialling waits for what. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class DialTiming:
    """Intervals, in seconds."""

    retry: float = 0.1
    """Before a search is made again; grows by two each time."""
    retry_max: float = 10.0
    spread: float = 0.5
    """A planner that dies loses all its nodes at once: each waits up to so long."""
    healthy: float = 10.0
    """A stream that was served and lived so long is no reason to wait longer the next time."""
    patience: float = 30.0
    """A stream that was welcomed and brings nothing is doubted after this; doubles each time."""
    patience_max: float = 600.0
    move: float = 30.0
    """Before a move that failed is made again; doubles each time."""
    move_max: float = 600.0
    unreachable: float = 60.0
    """A planner that could not be reached counts as unreachable for so long."""
    lookup: float = 30.0
    """Least time between two lookups of one source; doubles while no planner serves us."""
    lookup_max: float = 300.0
    redirect_spread: float = 2.0
    """Moves that a planner asks for begin within this, or a quarter of the grace."""


class Pace:
    """A delay that doubles, up to a maximum, until it is reset; drawn from its upper half."""

    def __init__(self, initial: float, maximum: float, random: Random) -> None:
        self._initial, self._maximum, self._random = initial, maximum, random
        self._next = initial

    def next(self) -> float:
        """The delay before the next attempt, in seconds; the one after it is longer."""
        delay, self._next = self._next, min(2 * self._next, self._maximum)
        return delay * (0.5 + 0.5 * self._random.random())

    def reset(self) -> None:
        """Begin again with the shortest."""
        self._next = self._initial
