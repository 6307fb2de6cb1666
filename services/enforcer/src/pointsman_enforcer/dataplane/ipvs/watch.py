# SPDX-License-Identifier: Apache-2.0
"""Finds out that somebody else changed what is ours, at a cost that does not grow with it.

Twice a second: the cheap signs, some virtual servers by their keys round and round, and what waits for its last
connection. Now and then, never more than one fiftieth of the time: the sets as a whole. All of it happens on the thread
of the servers; the loop only hears that something is to be mended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Final

import structlog

from pointsman_chassis.errors import PointsmanError
from pointsman_enforcer.dataplane.ipvs.change import Sums
from pointsman_enforcer.dataplane.ipvs.genetlink.channel import IpvsError
from pointsman_enforcer.dataplane.ipvs.genetlink.model import Timeouts, VirtualServerId
from pointsman_enforcer.dataplane.ipvs.node import Sysctls
from pointsman_enforcer.dataplane.ipvs.observe import sums_of
from pointsman_enforcer.dataplane.ipvs.servers import Servers
from pointsman_enforcer.dataplane.ipvs.signs import SignReader, Signs

LOOK_SECONDS: Final = 0.5
SETS_SECONDS: Final = 10.0
REST_PER_WORK: Final = 49.0


@dataclass(slots=True)
class Suspicion:
    """What may not be as it was written."""

    rules: bool = False
    sets: bool = False
    routes: bool = False
    sysctls: bool = False
    servers: set[VirtualServerId] = field(default_factory=set)

    @property
    def is_any(self) -> bool:
        """Whether there is anything to mend."""
        return bool(self.rules or self.sets or self.routes or self.sysctls or self.servers)

    def include(self, other: Suspicion) -> None:
        """That, too."""
        self.rules |= other.rules
        self.sets |= other.sets
        self.routes |= other.routes
        self.sysctls |= other.sysctls
        self.servers |= other.servers


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What is looked at."""

    signs: SignReader
    servers: Servers
    sysctls: Sysctls
    timeouts: Timeouts
    sums: Callable[[], Sums]
    """What the sets should hold."""
    read_sets: Callable[[], str]
    """All sets as ipset prints them; blocking."""


class Watch:
    """Owns what was seen last. `look` and `settle` are for the thread of the servers, all else for the loop."""

    def __init__(self, watched: Watched, thread: Executor) -> None:
        self._watched = watched
        self._thread = thread
        self._rules: bytes | None = None
        self._count: int | None = None
        """Of virtual servers for IPv4, when last ours were all there."""
        self._suspicion = Suspicion()
        self._writes = 0
        self._sets_at = self._listed_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._noticed: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_failing = False

    def start(self, noticed: Callable[[], None]) -> None:
        """Call `noticed`, on the running loop, when there is something to mend."""
        self._loop, self._noticed = asyncio.get_running_loop(), noticed
        self._sets_at = time.monotonic() + SETS_SECONDS
        self._schedule()

    def close(self) -> None:
        """No more."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()

    def begin_write(self) -> None:
        """What is looked at from now on is being changed by us."""
        self._writes += 1

    def end_write(self) -> None:
        """No more."""
        self._writes += 1

    def settle_rules(self) -> None:
        """The rules that are there now are as written."""
        self._rules = self._watched.signs.rules()

    def settle_servers(self) -> None:
        """So are the virtual servers."""
        self._count = self._watched.signs.servers()

    def hurry(self) -> None:
        """Look at whole sets the next time."""
        self._sets_at = 0.0

    def suspect(self, suspicion: Suspicion) -> None:
        """Have this mended with the next `mend`."""
        self._suspicion.include(suspicion)
        if suspicion.is_any and self._noticed is not None:
            self._noticed()

    def take(self) -> Suspicion:
        """What there is to mend, with a look of just now; for the thread of the servers, when nothing is written."""
        found, self._suspicion = self._suspicion, Suspicion()
        found.include(self.look())
        return found

    def look(self) -> Suspicion:
        """One look."""
        watched = self._watched
        signs, expected = watched.signs.read(), watched.sums().sizes()
        found = Suspicion(
            rules=signs.rules != self._rules,
            sets=signs.sets != expected,
            routes=not signs.is_routed,
            sysctls=bool(watched.sysctls.differing()) or not watched.servers.has_timeouts(watched.timeouts),
        )
        found.servers.update(watched.servers.look())
        if found.servers or signs.servers != self._count:
            found.servers.update(self._listed(signs, is_urgent=bool(found.servers)))
        if not found.sets and time.monotonic() >= self._sets_at:
            found.sets = self._are_sets_other()
        if watched.servers.is_draining:
            watched.servers.drain()
            self.settle_servers()
        return found

    def _listed(self, signs: Signs, *, is_urgent: bool) -> list[VirtualServerId]:
        """Those that are gone. Somebody who changes his own all the time is not followed step by step."""
        started = time.monotonic()
        if started < self._listed_at and not is_urgent:
            return []
        found = self._watched.servers.missing()
        if not found:
            self._count = signs.servers
        self._listed_at = time.monotonic() + REST_PER_WORK * (time.monotonic() - started)
        return found

    def _are_sets_other(self) -> bool:
        started = time.monotonic()
        differs = sums_of(self._watched.read_sets()) != self._watched.sums()
        ended = time.monotonic()
        self._sets_at = ended + max(SETS_SECONDS, REST_PER_WORK * (ended - started))
        return differs

    def _schedule(self) -> None:
        if self._loop is not None:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._begin)

    def _begin(self) -> None:
        loop = self._loop
        if loop is None:
            return
        writes = self._writes
        if writes % 2:
            self._schedule()
            return

        def done(future: Future[Suspicion]) -> None:
            if not future.cancelled() and self._loop is not None:
                loop.call_soon_threadsafe(self._done, future, writes)

        self._thread.submit(self.look).add_done_callback(done)

    def _done(self, future: Future[Suspicion], writes: int) -> None:
        """A look during which we wrote proves nothing: what it saw may have been half of that."""
        try:
            found = future.result()
        except (OSError, IpvsError, PointsmanError, ValueError) as error:
            if not self._is_failing:
                structlog.get_logger("ipvs").warning("what is programmed cannot be looked at", error=str(error))
            self._is_failing = True
        else:
            self._is_failing = False
            if writes == self._writes:
                self.suspect(found)
        self._schedule()
