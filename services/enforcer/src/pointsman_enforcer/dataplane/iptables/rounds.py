# SPDX-License-Identifier: Apache-2.0
"""Reads everything of ours again, in the background and at a bounded share of the processor.

Neither xtables nor ipset lets one rule or element be asked for by its key, legacy tables and sets announce nothing, and
a rule of equal size changes no number. So what the tools print is compared with the ledger: sets every ten seconds,
legacy rules, too, and rules of the nft variant, whose commits are heard, only when somebody wants them verified. A
change never waits: reads have a thread of their own, and what was written meanwhile is judged by the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, NamedTuple

import structlog

from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.iptables import static
from pointsman_enforcer.dataplane.iptables.change import Ledger
from pointsman_enforcer.dataplane.iptables.counts import Found, PacketCounts, read_counts
from pointsman_enforcer.dataplane.iptables.layout import Id, Kind
from pointsman_enforcer.dataplane.iptables.picture import Differing, differing_rules, differing_sets, thing_of
from pointsman_enforcer.dataplane.iptables.static import StaticSettings
from pointsman_enforcer.dataplane.iptables.touches import Touches
from pointsman_enforcer.dataplane.xtables.tools import Tools, Variant

PERIOD_SECONDS: Final = 10.0
REST_SECONDS_MIN: Final = 0.25
REST_PER_WORK: Final = 49.0
"""One fiftieth of a processor at most."""
REST_SECONDS_MAX: Final = 120.0
"""What takes longer than a fiftieth of this waited for others more than it worked."""
_SAME_MAX: Final = 3
"""Findings alike, each after a repair, that are taken for the tool's way of printing."""


class Books(NamedTuple):
    """What the kernel should have, as of now; copies, so that a thread may read them."""

    ledger: Ledger
    settings: StaticSettings


class Reading(NamedTuple):
    """One read, and what it found."""

    begun: int
    differing: Differing


class _Finding(NamedTuple):
    """How rules read that differed, after how many repairs, and how often it was the same before that."""

    printed: int = 0
    repairs: int = 0
    times: int = 0


class _Round(NamedTuple):
    sets: Reading
    rules: Reading | None
    counts: Found


class Rounds:
    """Owns what was read last, and when to read again. Everything but the reading itself is on the event loop."""

    def __init__(self, tools: Tools, touches: Touches, books: Callable[[], Books]) -> None:
        self._tools = tools
        self._touches = touches
        self._books = books
        self._differs: Callable[[], None] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rules: Reading | None = None
        self._sets: Reading | None = None
        self._is_wanted = self._is_reading = False
        self._are_rules_due = tools.variant is Variant.LEGACY
        self._ended_at = self._rest = self._began_at = 0.0
        self._finding = _Finding()
        self.is_readable = True
        """False once the tool turned out to print rules otherwise than we write them."""
        self._is_failing = False
        self.count = 0
        """Rounds made."""
        self.counts = PacketCounts()

    def watch(self, differs: Callable[[], None]) -> None:
        """Begin; `differs` is called, on the running loop, when something is not as the ledger says."""
        self._loop, self._differs = asyncio.get_running_loop(), differs
        self._schedule(PERIOD_SECONDS)

    def close(self) -> None:
        """No more; a read under way is forgotten."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()

    def is_as_written(self, record: Id) -> bool | None:
        """Whether the kernel has this as the ledger says; None when that is not known yet, and will be looked at."""
        reading = self._rules if record.kind in (Kind.ENDPOINTS, Kind.FRONTEND) else self._sets
        thing = thing_of(record)
        if reading is not None and self._touches.is_settled(thing, reading.begun):
            return thing not in reading.differing.things
        if not self._is_wanted and self.is_readable:
            self._is_wanted = True
            self._schedule(0.0)
        return None

    def _schedule(self, seconds: float) -> None:
        """Read in so many seconds, but not before it has rested; who reads now, schedules the next when it is done."""
        if self._loop is None or self._is_reading:
            return
        if self._timer is not None:
            self._timer.cancel()
        rested = self._ended_at + self._rest - time.monotonic()
        self._timer = self._loop.call_later(max(seconds, rested), self._begin)

    def _begin(self) -> None:
        loop = self._loop
        if loop is None:
            return
        self._began_at, self._timer, self._is_reading = time.monotonic(), None, True
        are_rules_due = (self._is_wanted or self._are_rules_due) and self.is_readable
        self._is_wanted = False
        books, begun = self._books(), self._touches.now

        def done(future: Future[_Round]) -> None:
            if not future.cancelled() and self._loop is not None:
                loop.call_soon_threadsafe(self._done, future)

        self._tools.look(lambda: self._read(books, begun, are_rules_due=are_rules_due)).add_done_callback(done)

    def _read(self, books: Books, begun: int, *, are_rules_due: bool) -> _Round:
        tools, families = self._tools, self._tools.families
        names = set(tools.ipset_names())
        printed = tools.ipset_save_of([each for family in families for each in static.set_names(family)])
        sets = Reading(begun, differing_sets(books.ledger.all_sets(), names, printed))
        counts = read_counts(tools)
        if not are_rules_due:
            return _Round(sets, None, counts)
        saved = {family: tools.save_blocking(family) for family in families}
        return _Round(sets, Reading(begun, differing_rules(books.ledger, books.settings, saved)), counts)

    def _done(self, future: Future[_Round]) -> None:
        self._ended_at, self._is_reading = time.monotonic(), False
        rest = REST_PER_WORK * (self._ended_at - self._began_at)
        self._rest = min(max(REST_SECONDS_MIN, rest), REST_SECONDS_MAX)
        try:
            self._take(future.result())
        except (CommandError, ValueError) as error:
            if not self._is_failing:
                structlog.get_logger("iptables").warning("what is programmed cannot be read back", error=str(error))
            self._is_failing = True
        self._schedule(0.0 if self._is_wanted else PERIOD_SECONDS)

    def _take(self, found: _Round) -> None:
        self._is_failing = False
        self.count += 1
        self.counts.take(found.counts)
        self._sets, self._rules = found.sets, found.rules or self._rules
        begun = found.sets.begun
        if found.rules is not None:
            self._touches.forget(begun)
        things = found.sets.differing.things
        if found.rules is not None and not self._is_printed_otherwise(found.rules):
            things = things | found.rules.differing.things
        if any(self._touches.is_settled(thing, begun) for thing in things):
            self._differs()

    def _is_printed_otherwise(self, rules: Reading) -> bool:
        """Whether the same rules read the same after repairs: then a repair is for nothing."""
        before, printed, repairs = self._finding, rules.differing.printed, self._touches.repairs
        if not rules.differing.things or repairs == before.repairs:
            return False
        times = before.times + 1 if printed == before.printed else 0
        self._finding = _Finding(printed, repairs, times)
        if times < _SAME_MAX:
            return False
        self.is_readable = False
        structlog.get_logger("iptables").error(
            "the same rules differ after every repair: this version of iptables prints them otherwise, or somebody "
            "keeps writing them; rules are not compared any more and no service is acknowledged as verified",
            chains=sorted(thing[1] for thing in rules.differing.things if not isinstance(thing, Id))[:4],
        )
        return True
