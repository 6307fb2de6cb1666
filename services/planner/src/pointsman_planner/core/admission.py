# SPDX-License-Identifier: Apache-2.0
"""Who may be brought up to date now: a bound on how many nodes are, so that a herd does not delay the others' changes.

A node that reconnects and agrees with the planner, or nearly, costs next to nothing and passes. One of which much
differs needs a slot until it has its first transaction in the kernel; without one it waits, first come, first served,
and keeps what it has. More than may wait are refused: they are told to come back later. No IO, no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """The bounds."""

    slots: int = 16
    """Nodes that are brought up to date at once."""
    waiting_max: int = 1_000
    """Nodes that wait for that."""
    free_buckets: int = 64
    """Nodes of which no more buckets differ pass without a slot."""
    slot_seconds: float = 30.0
    """A node that takes longer gives its slot to the next one and goes on."""


class Admitted(Enum):
    """What becomes of a node that asks."""

    NOW = "now"
    LATER = "later"
    """It waits; `done` or `overdue` will name it."""
    REFUSED = "refused"


class Admission(Generic[K]):
    """Slots, and the queue before them."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._syncing: OrderedDict[K, float] = OrderedDict()
        self._waiting: OrderedDict[K, None] = OrderedDict()

    @property
    def syncing(self) -> int:
        """Slots taken."""
        return len(self._syncing)

    @property
    def waiting(self) -> int:
        """Who waits."""
        return len(self._waiting)

    def ask(self, key: K, *, buckets: int, now: float) -> Admitted:
        """A node of which so many buckets differ wants its first transaction."""
        if buckets <= self._limits.free_buckets:
            return Admitted.NOW
        if len(self._syncing) < self._limits.slots and not self._waiting:
            self._syncing[key] = now
            return Admitted.NOW
        if len(self._waiting) >= self._limits.waiting_max:
            return Admitted.REFUSED
        self._waiting[key] = None
        return Admitted.LATER

    def done(self, key: K, *, now: float) -> tuple[K, ...]:
        """A node has its plan, or is gone; returns those whose turn it is."""
        self._waiting.pop(key, None)
        self._syncing.pop(key, None)
        return self._fill(now)

    def overdue(self, *, now: float) -> tuple[K, ...]:
        """Take back slots that were held for too long; returns those whose turn it is."""
        while self._syncing:
            key, since = next(iter(self._syncing.items()))
            if now - since < self._limits.slot_seconds:
                break
            del self._syncing[key]
        return self._fill(now)

    def _fill(self, now: float) -> tuple[K, ...]:
        admitted = []
        while self._waiting and len(self._syncing) < self._limits.slots:
            key, _ = self._waiting.popitem(last=False)
            self._syncing[key] = now
            admitted.append(key)
        return tuple(admitted)
