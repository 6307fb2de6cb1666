# SPDX-License-Identifier: Apache-2.0
"""What all listeners of a proxy share; and the moment at which there are too many connections."""

from __future__ import annotations

from typing import Final

import structlog

from pointsman_enforcer.dataplane.userspace.limits import PIPES_MAX, ProxyCounters, ProxyLimits
from pointsman_enforcer.dataplane.userspace.pipes import Pipes
from pointsman_enforcer.dataplane.userspace.poller import Poller

_CALM_SECONDS: Final = 60.0
"""So long nobody may have been refused for the trouble to be over."""


class Core:
    """Belongs to the proxy's thread, but for `counters` and `is_refusing`, which anybody may read."""

    def __init__(self, poller: Poller, limits: ProxyLimits) -> None:
        self.poller, self.limits = poller, limits
        self.counters = ProxyCounters()
        self.pipes = Pipes(PIPES_MAX)
        self.is_refusing = False
        """Whether somebody was refused in the last minute because there were too many connections or flows."""
        self._refused_at = 0.0

    def refused(self, what: str) -> None:
        """Somebody was, because of a limit: count it, and say so once."""
        self.counters.over_limit += 1
        self._refused_at = self.poller.now()
        if self.is_refusing:
            return
        self.is_refusing = True
        self.poller.after(_CALM_SECONDS, self._calm)
        structlog.get_logger("userspace").warning(
            "the proxy refuses clients: raise userspace.connectionsMax or flowsMax, or the process's open files",
            refused=what,
            connections=self.counters.connections,
            connections_max=self.limits.connections_max,
            flows=self.counters.flows,
            flows_max=self.limits.flows_max,
        )

    def _calm(self) -> None:
        left = self._refused_at + _CALM_SECONDS - self.poller.now()
        if left > 0:
            self.poller.after(left, self._calm)
            return
        self.is_refusing = False
        structlog.get_logger("userspace").info("the proxy refuses nobody any more", refused=self.counters.over_limit)
