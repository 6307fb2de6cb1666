# SPDX-License-Identifier: Apache-2.0
"""Which planner is dialled next, and which stream is closed, without IO: events and the time go in, actions come out.

    begin, welcomed, redirected, served, ended, found, tick  ->  Open, Close, LookUp

There is at most one stream that is kept and one that is an attempt. A stream is *served* once its first transaction is
in the kernel.

    attempt --welcome--> kept, if there is no other --first transaction programmed--> served
    served  --redirect--> still served, while attempts are made: the first of them that is served takes its place
    attempt --redirect--> closed; its candidates are dialled, at most REDIRECTS_MAX times in a row
    kept, but not served for long --> attempts elsewhere, beside it; whichever is served first closes the other
    attempt, welcomed but not served for long --> closed, and the next planner is tried

A *search* goes through all sources of planners in order (`planner_directory.Source`), and begins anew, with a growing
delay, when none was left. A *move* goes through given candidates only, and never costs the stream there is: it is made
when the planner asks for it, and now and then when we are served by another planner than our first candidate.

Loops: planners that do not agree may send a node in circles. After REDIRECTS_MAX redirects in a row those that sent it
away are named as unreachable, as for this node they are; then the next one has to serve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Final, TypeAlias

from pointsman_enforcer.core.candidates import Candidate, Redirect, RedirectReason
from pointsman_enforcer.core.dial_timing import DialTiming, Pace
from pointsman_enforcer.core.planner_directory import LOOKUPS, PlannerDirectory, Source

REDIRECTS_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Open:
    """Open a stream to this planner, with these planners named as unreachable."""

    stream: int
    target: Candidate
    unreachable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """Close this stream; `ended` need not be called for it."""

    stream: int


@dataclass(frozen=True, slots=True)
class LookUp:
    """Ask this source where planners are, and call `found`, also when nothing was."""

    source: Source


Action: TypeAlias = Open | Close | LookUp


class Ending(Enum):
    """How a stream came to its end."""

    LOST = "lost"
    """Refused, or broken, or closed by the planner."""
    SILENT = "silent"
    """Nothing was heard for too long: whoever dials it again waits for as long."""
    FAULTY = "faulty"
    """The planner broke a rule."""


@dataclass(slots=True)
class _Stream:
    number: int
    target: Candidate
    opened_at: float
    planner_id: str = ""
    is_welcomed: bool = False
    is_served: bool = False
    candidates: tuple[Candidate, ...] = ()
    doubt_at: float = math.inf
    """When others are tried if it has brought nothing until then; a stream that is not welcomed ends by itself."""

    def is_planner(self, candidate: Candidate) -> bool:
        """Whether this stream leads to that planner."""
        if candidate.planner_id and self.planner_id:
            return candidate.planner_id == self.planner_id
        return candidate.address == self.target.address


@dataclass(slots=True)
class _Search:
    queue: list[Candidate] = field(default_factory=list)
    sources: list[Source] = field(default_factory=lambda: list(Source))
    """Not asked yet; none for a move."""
    tried: set[str] = field(default_factory=set)
    is_move: bool = False


class Dialer:
    """Owns the decision; `now` is monotonic seconds."""

    def __init__(self, directory: PlannerDirectory, *, random: Random, timing: DialTiming | None = None) -> None:
        self.directory = directory
        self._random = random
        self._timing = timing = timing or DialTiming()
        self._retry = Pace(timing.retry, timing.retry_max, random)
        self._patience = Pace(timing.patience, timing.patience_max, random)
        self._move_pace = Pace(timing.move, timing.move_max, random)
        self._lookup_pace = Pace(timing.lookup, timing.lookup_max, random)
        self._kept: _Stream | None = None
        self._attempt: _Stream | None = None
        self._search: _Search | None = None
        self._looking: Source | None = None
        self._move: tuple[Candidate, ...] = ()
        self._move_at = math.inf
        self._not_before = 0.0
        self._lookup_at: dict[Source, float] = {}
        self._sent_away: list[str] = []
        self._count = 0

    # -- events ------------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> list[Action]:
        """Start dialling."""
        return self._advance(now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        return self._advance(now)

    def next_tick(self) -> float:
        """When `tick` is to be called next; infinite when only an event can change anything."""
        if self._attempt is not None:
            return self._attempt.doubt_at
        if self._looking is not None:
            return math.inf
        return max(self._not_before, self._wants_at())

    def welcomed(self, number: int, planner_id: str, candidates: Sequence[Candidate], now: float) -> list[Action]:
        """A planner has answered."""
        stream = self._stream(number)
        if stream is None:
            return []
        stream.is_welcomed, stream.planner_id, stream.candidates = True, planner_id, tuple(candidates)
        self.directory.reached(planner_id)
        self.directory.learn(candidates)
        stream.doubt_at = now + self._patience.next()
        if self._kept is None:
            self._kept, self._attempt = stream, None
        return []

    def told(self, number: int, candidates: Sequence[Candidate]) -> list[Action]:
        """The planners of this node are others than before. No call to move: that would be a redirect."""
        stream = self._stream(number)
        if stream is None or not candidates:
            return []
        stream.candidates = tuple(candidates)
        self.directory.learn(candidates)
        return []

    def served(self, number: int, now: float) -> list[Action]:
        """The first transaction of a stream is in the kernel: the other stream, if there is one, has had its time."""
        stream = self._stream(number)
        if stream is None or stream.is_served:
            return []
        other = self._kept if stream is self._attempt else self._attempt
        self._kept, self._attempt, self._search = stream, None, None
        stream.is_served, self._sent_away = True, []
        self.directory.served(Candidate(stream.target.address, stream.planner_id))
        for pace in (self._patience, self._lookup_pace):
            pace.reset()
        self._lookup_at.clear()
        self._plan_way_home(stream, now)
        return [Close(other.number)] if other is not None else []

    def redirected(self, number: int, redirect: Redirect, now: float) -> list[Action]:
        """A planner sends us away."""
        stream = self._stream(number)
        if stream is None:
            return []
        self.directory.learn(redirect.candidates)
        if redirect.candidates:
            stream.candidates = redirect.candidates
        if redirect.reason is RedirectReason.DRAINING:
            # Others may not have heard of it yet, and would send us back.
            self.directory.not_reached(stream.planner_id, now + self._timing.unreachable)
        if stream.is_served:
            return self._move_on(stream, redirect, now)
        return [Close(number), *self._follow(stream, redirect, now)]

    def ended(self, number: int, ending: Ending, now: float) -> list[Action]:
        """A stream is over, and not because of `Close`."""
        stream = self._stream(number)
        if stream is None:
            return []
        if not stream.is_welcomed or ending is Ending.SILENT:
            name = stream.planner_id or stream.target.planner_id
            self.directory.not_reached(name, now + self._timing.unreachable)
        if stream is self._attempt:
            self._attempt = None
        else:
            self._lose_kept(stream, ending, now)
        return self._advance(now)

    def found(self, source: Source, addresses: Sequence[str], now: float) -> list[Action]:
        """A lookup is over."""
        self._looking = None
        self._lookup_at[source] = now + self._lookup_pace.next()
        self.directory.found(source, addresses)
        if self._search is not None:
            self._search.queue.extend(self.directory.targets(source, now))
        return self._advance(now)

    # -- what others may ask -----------------------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """The stream that is kept, 0 when there is none."""
        return 0 if self._kept is None else self._kept.number

    @property
    def streams(self) -> tuple[int, ...]:
        """All streams that are open or being opened: at most two."""
        return tuple(each.number for each in (self._kept, self._attempt) if each is not None)

    # -- decisions ---------------------------------------------------------------------------------------------------

    def _stream(self, number: int) -> _Stream | None:
        return next((each for each in (self._kept, self._attempt) if each is not None and each.number == number), None)

    def _wants_at(self) -> float:
        """From when on another stream is wanted."""
        if self._kept is None:
            return 0.0
        return self._move_at if self._kept.is_served else self._kept.doubt_at

    def _advance(self, now: float) -> list[Action]:
        """Dial, or look up, if it is time to."""
        attempt = self._attempt
        if attempt is not None and attempt.doubt_at <= now:
            self._attempt = None
            return [Close(attempt.number), *self._advance(now)]
        while self.next_tick() <= now:
            search = self._search = self._search or self._new_search()
            if search.queue:
                target = search.queue.pop(0)
                if self._is_worth_dialling(target, search, now):
                    search.tried.add(target.address)
                    return [self._open(target, now)]
            elif search.sources:
                source = search.sources.pop(0)
                if source in LOOKUPS and self._may_look(source, now):
                    self._looking = source
                    return [LookUp(source)]
                search.queue.extend(self.directory.targets(source, now))
            else:
                self._exhaust(search, now)
        return []

    def _is_worth_dialling(self, target: Candidate, search: _Search, now: float) -> bool:
        """Not twice in a search; and the planner that sends us away only to tell it whom we cannot reach."""
        if target.address in search.tried:
            return False
        is_here = search.is_move and self._kept is not None and self._kept.is_planner(target)
        return not is_here or bool(self.directory.unreachable(now))

    def _may_look(self, source: Source, now: float) -> bool:
        return source in self.directory.lookups and self._lookup_at.get(source, now) <= now

    def _new_search(self) -> _Search:
        if self._kept is None:
            return _Search()
        if self._kept.is_served:
            return _Search(queue=list(self._move), sources=[], is_move=True)
        return _Search(tried={self._kept.target.address})

    def _open(self, target: Candidate, now: float) -> Open:
        self._count += 1
        self._attempt = _Stream(self._count, target, now)
        return Open(self._count, target, self.directory.unreachable(now))

    def _exhaust(self, search: _Search, now: float) -> None:
        """Nobody is left to dial: again later."""
        self._search = None
        if search.is_move:
            self._move_at = now + self._move_pace.next()
        elif self._kept is not None:
            self._kept.doubt_at = now + self._patience.next()
        else:
            self._not_before = now + self._retry.next()

    def _lose_kept(self, stream: _Stream, ending: Ending, now: float) -> None:
        """The stream that was kept is over; an attempt that got further than dialling takes its place."""
        self._kept, self._move, self._move_at = None, (), math.inf
        attempt = self._attempt
        if attempt is not None and attempt.is_welcomed:
            self._kept, self._attempt = attempt, None
        if not stream.is_served:
            return
        if self._search is not None and self._search.is_move:
            self._search.is_move, self._search.sources = False, list(Source)
        is_healthy = ending is not Ending.FAULTY and now - stream.opened_at >= self._timing.healthy
        if is_healthy:
            self._retry.reset()
        delay = self._timing.spread * self._random.random() if is_healthy else self._retry.next()
        self._not_before = now + delay

    def _plan_way_home(self, stream: _Stream, now: float) -> None:
        """When another planner is our owner, it could not be reached: try it again after a while."""
        index = next((n for n, each in enumerate(stream.candidates) if stream.is_planner(each)), 0)
        self._move, self._move_at = stream.candidates[:index], math.inf
        self._move_pace.reset()
        if self._move:
            self._move_at = now + max(self._timing.unreachable, self._move_pace.next())

    def _move_on(self, stream: _Stream, redirect: Redirect, now: float) -> list[Action]:
        """A planner gives us away, and serves until we have arrived elsewhere."""
        if redirect.candidates and stream.is_planner(redirect.candidates[0]):
            return []
        self._move = redirect.candidates or self._elsewhere(stream, now)
        if redirect.reason is not RedirectReason.NOT_OWNER:
            self._move = tuple(each for each in self._move if not stream.is_planner(each))
        self._move_pace.reset()
        spread = min(self._timing.redirect_spread, redirect.grace_seconds / 4)
        self._move_at = now + self._delayed(redirect) + spread * self._random.random()
        attempt = self._attempt
        if attempt is not None and self._move and attempt.is_planner(self._move[0]):
            return []
        self._attempt = self._search = None
        return ([Close(attempt.number)] if attempt is not None else []) + self._advance(now)

    def _elsewhere(self, stream: _Stream, now: float) -> tuple[Candidate, ...]:
        """All that could be dialled instead without asking anybody."""
        known = (each for source in Source for each in self.directory.targets(source, now))
        return tuple(each for each in known if not stream.is_planner(each))

    def _follow(self, stream: _Stream, redirect: Redirect, now: float) -> list[Action]:
        """A stream that served nothing sends us on."""
        if stream is self._attempt:
            self._attempt = None
        else:
            self._lose_kept(stream, Ending.LOST, now)
        self._sent_away.append(stream.planner_id)
        is_move = self._kept is not None and self._kept.is_served
        search = _Search(queue=list(redirect.candidates), sources=[] if is_move else list(Source), is_move=is_move)
        if self._kept is not None:
            search.tried.add(self._kept.target.address)
        if not redirect.candidates:
            search.tried.add(stream.target.address)
        self._search = search
        if len(self._sent_away) > REDIRECTS_MAX:
            for name in self._sent_away:
                self.directory.not_reached(name, now + self._timing.unreachable)
            self._sent_away = []
            self._exhaust(search, now)
        elif self._kept is not None and redirect.candidates and self._kept.is_planner(redirect.candidates[0]):
            self._exhaust(search, now)
        self._not_before = max(self._not_before, now + self._delayed(redirect))
        return self._advance(now)

    def _delayed(self, redirect: Redirect) -> float:
        return redirect.delay_seconds * (1.0 + 0.1 * self._random.random())
