# SPDX-License-Identifier: Apache-2.0
"""When kube-proxy's rules are looked for, and when they are removed. Pure: what was seen goes in, a pause comes out.

They are removed once everything of ours is verified. A kube-proxy that still runs writes them again, within half a
minute in most modes. That is no contest worth having: each return doubles the pause before the next removal, up to an
hour, and one line says what to do. Where a process is seen, nothing is removed before it has ended. When nothing came
back for some minutes the looks end, and only a process of that name would begin them anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

RUNNING: Final = "kube-proxy is still running on this node and rewrites its rules; delete its DaemonSet"


class TakeoverState(Enum):
    """Where taking over from kube-proxy stands."""

    NOT_YET = "waiting until our rules are verified"
    CLEAN = "nothing of kube-proxy here"
    REMOVED = "removed; looking whether anything comes back"
    DRAINING = "removed but for what carries connections"
    RUNNING = "kube-proxy is running"
    FAILED = "could not be removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeoverPace:
    """Intervals.

    Attributes:
        look_seconds: between looks while something may come back, and while connections end.
        quiet_looks: how many looks in a row find nothing before they end.
        idle_seconds: between looks at processes afterwards.
        return_seconds, return_seconds_max: the pause after the first return, and the longest.
    """

    look_seconds: float = 20.0
    quiet_looks: int = 6
    idle_seconds: float = 60.0
    return_seconds: float = 30.0
    return_seconds_max: float = 3600.0


class TakeoverBook:
    """What has been seen so far. Not frozen: it is the process's memory of it."""

    def __init__(self, pace: TakeoverPace | None = None) -> None:
        self._pace = pace or TakeoverPace()
        self.state = TakeoverState.NOT_YET
        self.returns = 0
        """How often rules were found again after they had been removed."""
        self._quiet = 0
        self._pause = 0.0

    @property
    def looks_for_rules(self) -> bool:
        """Whether the next look is at rules, and not at processes alone."""
        return self._quiet < self._pace.quiet_looks

    def seen_process(self) -> float:
        """A kube-proxy process runs: nothing is to be removed; seconds until the next look."""
        self.state = TakeoverState.RUNNING
        self._quiet = 0
        return self._pace.look_seconds

    def seen_return(self) -> float:
        """Rules are there again: seconds to wait before they are removed once more."""
        self.state = TakeoverState.RUNNING
        self.returns += 1
        self._quiet = 0
        self._pause = min(2 * self._pause or self._pace.return_seconds, self._pace.return_seconds_max)
        return self._pause

    def seen_nothing(self) -> float:
        """Nothing is there: seconds until the next look."""
        self._quiet += 1
        if self.looks_for_rules:
            if not self._pause:
                self.state = TakeoverState.CLEAN
            return self._pace.look_seconds
        self.state = TakeoverState.CLEAN
        self._pause = 0.0
        return self._pace.idle_seconds

    def removed(self, *, is_waiting: bool) -> float:
        """All is gone but what carries connections: seconds until the next look."""
        self._quiet = 0
        if not self._pause:
            self.state = TakeoverState.DRAINING if is_waiting else TakeoverState.REMOVED
        return self._pace.look_seconds

    def failed(self) -> float:
        """The kernel could not be asked, or refused: seconds until the next look."""
        self.state = TakeoverState.FAILED
        self._quiet = 0
        return self._pace.return_seconds
