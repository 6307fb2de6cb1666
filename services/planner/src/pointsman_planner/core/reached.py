# SPDX-License-Identifier: Apache-2.0
"""What a node has acknowledged, level by level: received, programmed, verified; each with position and digest.

Acks are cumulative, and a higher level includes the lower ones. They may arrive in any order across levels (the
verification of transaction 5 after the programming of 6), so each level remembers the transaction that it speaks of
and never goes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from pointsman_model.cluster import ClusterPosition
from pointsman_planner.core.messages import Ack, AckLevel

_POSITIONS_KEPT = 16
"""Transactions whose positions are remembered; an ack of level VERIFIED may come when later ones are programmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The newest that a node said of one level."""

    level: AckLevel
    position: ClusterPosition = field(default_factory=ClusterPosition)
    digest: int = 0
    """Of the plan held for RECEIVED, of what the kernel has for the others."""
    at_ns: int = 0
    """When the planner was told."""


class ReachedLevels:
    """The levels of one session."""

    __slots__ = ("_held", "_nonces", "_positions")

    def __init__(self) -> None:
        self._positions: deque[tuple[int, ClusterPosition]] = deque(maxlen=_POSITIONS_KEPT)
        self._held: dict[AckLevel, Reached] = {}
        self._nonces: dict[AckLevel, int] = {}

    def __iter__(self) -> Iterator[Reached]:
        return iter([self._held[level] for level in sorted(self._held)])

    def nonce(self, level: AckLevel) -> int:
        """The last transaction that reached a level; 0 = none."""
        return self._nonces.get(level, 0)

    def sent(self, nonce: int, position: ClusterPosition) -> None:
        """A transaction was built that brings the node to this position."""
        self._positions.append((nonce, position))

    def acknowledged(self, ack: Ack, *, now_ns: int) -> None:
        """Take in an ack; one that names no transaction speaks of the last one of its level."""
        for level in AckLevel:
            if level > ack.level:
                return
            nonce = ack.nonce or self.nonce(level)
            if nonce < self.nonce(level):
                continue
            position = next((where for number, where in self._positions if number == nonce), None)
            if position is None:
                continue
            digest = ack.digest if level is AckLevel.RECEIVED else ack.programmed_digest
            self._held[level] = Reached(level=level, position=position, digest=digest, at_ns=now_ns)
            self._nonces[level] = nonce
