# SPDX-License-Identifier: Apache-2.0
"""The end of a process that rules lead into: nobody new is led there, and who is there may finish.

Whatever mode comes next, new connections are served in between; a crash has no such end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from pointsman_chassis.clock import Clock
from pointsman_enforcer.dataplane.base import Parting
from pointsman_enforcer.dataplane.reconciler import Reconciler

_PROGRAM_SECONDS_MAX: Final = 10.0
_ON_THEIR_WAY_SECONDS: Final = 0.2
"""Clients that were led here by the rules of before arrive within this."""
_LOOK_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Ending:
    """One end; the reconciler still runs."""

    dataplane: Parting
    reconciler: Reconciler[Any]
    request_sync: Callable[[], None]
    clock: Clock

    async def run(self, drain_seconds: float) -> None:
        """Returns when no connection is left, or the time is over."""
        self.dataplane.part()
        self.reconciler.mark_all()
        self.request_sync()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PROGRAM_SECONDS_MAX):
                while not self.reconciler.is_programmed:
                    await self.clock.sleep(_LOOK_SECONDS)
        await self.clock.sleep(min(_ON_THEIR_WAY_SECONDS, drain_seconds))
        deadline = self.clock.monotonic() + drain_seconds
        while self.dataplane.connections and self.clock.monotonic() < deadline:
            await self.clock.sleep(_LOOK_SECONDS)
        log = structlog.get_logger("app")
        log.info("rules lead to endpoints themselves now", connections_that_end=self.dataplane.connections)
