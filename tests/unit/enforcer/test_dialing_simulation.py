# SPDX-License-Identifier: Apache-2.0
"""A node among planners that die, come back, disagree, delay and send it round: it always ends at its owner.

Planners here follow plan.v1 rule 12: who is not the first of its own order of candidates, those named as unreachable
left out, redirects. Time is virtual; the dialer is the real one.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman_enforcer.core.candidates import Candidate, Redirect, RedirectReason
from pointsman_enforcer.core.dialing import Action, Close, Dialer, Ending, LookUp, Open
from pointsman_enforcer.core.planner_directory import LOOKUPS, PlannerDirectory, Source

NAMES = ("a", "b", "c")
PLANNERS = {name: Candidate(f"10.0.0.{index}:7402", name) for index, name in enumerate(NAMES)}
BY_ADDRESS = {each.address: name for name, each in PLANNERS.items()}


class World:
    """Planners, one node, and what is on its way between them."""

    def __init__(self, seed: int, configured: list[str], *, is_looked_up: bool) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.alive = dict.fromkeys(NAMES, True)
        self.opinions: dict[str, tuple[str, ...]] = dict.fromkeys(NAMES, NAMES)
        self.open: dict[int, str] = {}
        self.served: set[int] = set()
        self._events: list[tuple[float, int, Callable[[], list[Action]]]] = []
        self._order = itertools.count()
        self.dialer = Dialer(
            PlannerDirectory(
                node="n", configured=configured, lookups=LOOKUPS if is_looked_up or not configured else ()
            ),
            random=self.random,
        )
        self._perform(self.dialer.begin(0.0))

    def later(self, seconds: float, event: Callable[[], list[Action]]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(100_000):
            event_at = self._events[0][0] if self._events else math.inf
            due = self.dialer.next_tick()
            if min(event_at, due) > end:
                self.now = end
                return
            if event_at <= due:
                self.now, _, event = heapq.heappop(self._events)
                self._perform(event())
            else:
                self.now = max(self.now, due)
                self._perform(self.dialer.tick(self.now))
        raise AssertionError("the node does not come to rest")

    def kill(self, name: str) -> None:
        self.alive[name] = False
        for number in [each for each, planner in self.open.items() if planner == name]:
            self.later(self.random.choice([0.0, 30.0]), lambda number=number: self._break(number))  # type: ignore[misc]  # a default binds

    def redirect(self, reason: RedirectReason) -> None:
        """Planners give away what is not theirs, as after a change of membership, or all of it."""
        for number, name in list(self.open.items()):
            order = self._order_of(name, ())
            if order[0].planner_id != name or reason is RedirectReason.DRAINING:
                given = Redirect(
                    candidates=tuple(each for each in order if each.planner_id != name)
                    if reason is RedirectReason.DRAINING
                    else order,
                    reason=reason,
                    grace_seconds=10.0,
                    delay_seconds=self.random.choice([0.0, 3.0]),
                )
                self._perform(self.dialer.redirected(number, given, self.now))

    @property
    def server(self) -> str:
        return self.open.get(self.dialer.kept, "")

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Open):
                self._dial(action)
            elif isinstance(action, Close):
                is_kept = action.stream in self.served
                self._end(action.stream)
                assert not is_kept or self.dialer.kept in self.served, "broken before another was made"
            else:
                assert isinstance(action, LookUp)
                found = [PLANNERS[name].address for name in NAMES] if action.source is Source.API_SERVER else []
                self.later(0.01, lambda of=action.source, found=found: self.dialer.found(of, found, self.now))  # type: ignore[misc]  # a default binds
        assert len(self.dialer.streams) <= 2

    def _dial(self, action: Open) -> None:
        name = BY_ADDRESS[action.target.address]
        if not self.alive[name]:
            self.later(
                self.random.choice([0.001, 6.0]), lambda: self.dialer.ended(action.stream, Ending.LOST, self.now)
            )
            return
        self.open[action.stream] = name
        for number in [each for each, planner in self.open.items() if planner == name and each != action.stream]:
            self.later(0.001, lambda number=number: self._break(number))  # type: ignore[misc]  # a default binds
        self.later(0.002, lambda: self._answer(action.stream, name, action.unreachable))

    def _answer(self, number: int, name: str, unreachable: tuple[str, ...]) -> list[Action]:
        if number not in self.open:
            return []
        order = self._order_of(name, unreachable)
        told = tuple(PLANNERS[each] for each in self.opinions[name])
        actions = self.dialer.welcomed(number, name, told, self.now)
        if order and order[0].planner_id != name:
            actions += self.dialer.redirected(number, Redirect(candidates=told), self.now)
        else:
            self.later(self.random.choice([0.01, 1.0, 50.0]), lambda: self._serve(number))
        return actions

    def _serve(self, number: int) -> list[Action]:
        if number not in self.open:
            return []
        self.served.add(number)
        return self.dialer.served(number, self.now)

    def _break(self, number: int) -> list[Action]:
        if number not in self.open:
            return []
        self._end(number)
        return self.dialer.ended(number, self.random.choice([Ending.LOST, Ending.SILENT]), self.now)

    def _end(self, number: int) -> None:
        self.open.pop(number, None)
        self.served.discard(number)

    def _order_of(self, name: str, unreachable: tuple[str, ...]) -> tuple[Candidate, ...]:
        return tuple(PLANNERS[each] for each in self.opinions[name] if each == name or each not in unreachable)


orders = st.permutations(NAMES).map(tuple)
events = st.one_of(
    st.tuples(st.just("kill"), st.sampled_from(NAMES)),
    st.tuples(st.just("revive"), st.sampled_from(NAMES)),
    st.tuples(st.just("agree"), orders),
    st.tuples(st.just("differ"), st.tuples(orders, orders, orders)),
    st.tuples(st.just("redirect"), st.sampled_from(RedirectReason)),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 20.0, 200.0])),
)


def happen(world: World, event: tuple[str, object]) -> None:
    kind, value = event
    if kind == "kill":
        world.kill(str(value))
    elif kind == "revive":
        world.alive[str(value)] = True
    elif kind == "agree":
        world.opinions = dict.fromkeys(NAMES, value)  # type: ignore[arg-type]  # an order
    elif kind == "differ":
        world.opinions = dict(zip(NAMES, value, strict=True))  # type: ignore[call-overload]  # three orders
    elif kind == "redirect":
        world.redirect(value)  # type: ignore[arg-type]  # a reason
    else:
        world.run(float(value))  # type: ignore[arg-type]  # seconds


class Case(NamedTuple):
    """How a world begins, what happens, and what is left of it."""

    seed: int
    configured: frozenset[str]
    is_looked_up: bool
    history: list[tuple[str, object]]
    order: tuple[str, ...]
    survivors: frozenset[str]


names = st.frozensets(st.sampled_from(NAMES))
cases = st.builds(
    Case, st.integers(0, 2**16), names, st.booleans(), st.lists(events, max_size=25), orders, names.filter(bool)
)


@settings(max_examples=300, deadline=None)
@given(cases)
def test_whatever_happens_the_node_ends_at_the_first_planner_that_it_can_reach(case: Case) -> None:
    seed, configured, is_looked_up, history, order, survivors = case
    world = World(seed, [PLANNERS[name].address for name in sorted(configured)], is_looked_up=is_looked_up)
    for event in history:
        happen(world, event)
    for name in NAMES:
        if name in survivors:
            world.alive[name] = True
        else:
            world.kill(name)
    world.opinions = dict.fromkeys(NAMES, tuple(each for each in order if each in survivors))
    if not is_looked_up and configured and not configured & survivors:
        # Only a planner that was told of, or nobody at all, can help; there is nothing to promise then.
        return
    world.run(1.0)
    world.redirect(RedirectReason.NOT_OWNER)
    world.run(4 * 3600.0)
    assert world.dialer.kept in world.served
    assert world.server == next(name for name in order if name in survivors)
