# SPDX-License-Identifier: Apache-2.0
"""Drift: somebody else changed what is ours in the kernel. What is known of it, and how often it is put right. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_SETTLE_SECONDS: Final = 0.02
"""A reload of somebody's rules is often several commits: one repair for all of them."""
_SPACING_SECONDS: Final = 0.25
_FREE_REPAIRS: Final = 4
"""Repairs in a row at the smallest spacing; after that the spacing doubles."""
_SPACING_SECONDS_MAX: Final = 30.0
_QUIET_SECONDS: Final = 60.0
"""Without drift for so long, and it counts as the first one again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """The newest repair, and how many there were since the process started."""

    repairs: int
    repaired_at_ns: int
    """Wall clock nanoseconds."""
    duration_ns: int
    """From the first notice to the kernel's answer."""
    kinds: tuple[str, ...]
    """What was touched: table, chain, rule, set, element, or `lost` when the kernel could not tell all of it."""
    objects: int
    """Kernel objects put back, written anew or removed."""
    process: str = ""
    """Name of the command that did it, if the kernel told."""
    process_id: int = 0
    """As the host numbers it; 0 = unknown."""


class RepairPace:
    """When the next repair may begin: at once at first, ever more seldom for somebody who does not stop.

    A handful of repairs in a row are done within a second; then 1, 2, 4 ... 30 seconds lie between two. A minute
    without drift forgets it all. Times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._row = 0
        self._not_before = 0.0

    @property
    def spacing_seconds(self) -> float:
        """Least time between the last repair and the next one."""
        if self._row <= _FREE_REPAIRS:
            return _SPACING_SECONDS
        return min(2.0 ** (self._row - _FREE_REPAIRS - 1), _SPACING_SECONDS_MAX)

    @property
    def is_slowed(self) -> bool:
        """Whether repairs are held back because they do not last."""
        return self._row > _FREE_REPAIRS

    def due(self, now: float) -> float:
        """When to look at what was noticed now."""
        return max(now + _SETTLE_SECONDS, self._not_before)

    def looked(self, now: float) -> None:
        """Something was looked at, and put right if it was wrong."""
        if now - self._not_before > _QUIET_SECONDS:
            self._row = 0
        self._row += 1
        self._not_before = now + self.spacing_seconds
