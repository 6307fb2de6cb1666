# SPDX-License-Identifier: Apache-2.0
"""Which planner a node dials, case by case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import pytest

from pointsman_enforcer.core.candidates import Candidate, Redirect, RedirectReason
from pointsman_enforcer.core.dial_timing import DialTiming
from pointsman_enforcer.core.dialing import REDIRECTS_MAX, Action, Close, Dialer, Ending, LookUp, Open
from pointsman_enforcer.core.planner_directory import LOOKUPS, PlannerDirectory, PlannerMemory, Source, dial_order

A, B, C = (Candidate(f"10.0.0.{n}:7402", name) for n, name in ((1, "a"), (2, "b"), (3, "c")))
TIMING = DialTiming()


class Node:
    """A dialer and the time; what it asks for is collected."""

    def __init__(
        self,
        *,
        told: Sequence[Candidate] = (),
        configured: Sequence[str] = (),
        lookups: frozenset[Source] = frozenset(),
        remembered: Sequence[str] = (),
    ) -> None:
        directory = PlannerDirectory(
            node="node-1",
            configured=configured,
            lookups=lookups,
            memory=PlannerMemory(tuple(told), tuple(remembered)),
        )
        self.dialer = Dialer(directory, random=Random(1))
        self.now = 100.0
        self.actions = self.dialer.begin(self.now)

    def opened(self) -> Open:
        [action] = self.take()
        assert isinstance(action, Open)
        return action

    def take(self) -> list[Action]:
        taken, self.actions = self.actions, []
        return taken

    def wait(self) -> float:
        """Let time pass until something is due; how long that was."""
        before, due = self.now, self.dialer.next_tick()
        assert due < math.inf
        self.now = max(self.now, due)
        self.actions += self.dialer.tick(self.now)
        return self.now - before

    def welcomed(self, opened: Open, name: str = "", candidates: Sequence[Candidate] = ()) -> None:
        planner = name or opened.target.planner_id
        self.actions += self.dialer.welcomed(opened.stream, planner, candidates, self.now)

    def served(self, opened: Open) -> None:
        self.actions += self.dialer.served(opened.stream, self.now)

    def ended(self, opened: Open, ending: Ending = Ending.LOST) -> None:
        self.actions += self.dialer.ended(opened.stream, ending, self.now)

    def redirected(self, opened: Open, *candidates: Candidate, **changes: object) -> None:
        redirect = Redirect(candidates=candidates, grace_seconds=20.0)._replace(**changes)  # type: ignore[arg-type]
        self.actions += self.dialer.redirected(opened.stream, redirect, self.now)

    def serve(self, candidates: Sequence[Candidate], name: str = "") -> Open:
        """Bring the attempt that was just made to the end."""
        opened = self.opened()
        self.welcomed(opened, name, candidates)
        self.served(opened)
        return opened


def test_sources_are_tried_in_order_and_lookups_only_when_they_are_needed() -> None:
    static = ["10.1.0.1:1", "10.1.0.2:1"]
    node = Node(told=[A, B], configured=static, lookups=LOOKUPS, remembered=["10.9.0.1:1"])
    seen = []
    for _ in range(4):
        opened = node.opened()
        seen.append(opened.target.address)
        node.ended(opened)
    assert seen == [A.address, B.address, *dial_order(static, "node-1")]
    assert node.take() == [LookUp(Source.API_SERVER)]
    node.actions += node.dialer.found(Source.API_SERVER, ["10.2.0.1:1"], node.now)
    opened = node.opened()
    assert (opened.target.address, opened.unreachable) == ("10.2.0.1:1", ("a", "b"))
    node.ended(opened)
    assert node.take() == [LookUp(Source.NAMES)]
    node.actions += node.dialer.found(Source.NAMES, [], node.now)
    opened = node.opened()
    assert opened.target.address == "10.9.0.1:1"
    node.ended(opened)
    assert node.take() == []
    assert 0 < node.wait() <= TIMING.retry
    assert node.opened().target == A


def test_lookups_are_not_repeated_with_every_search() -> None:
    node = Node(lookups=frozenset({Source.API_SERVER}))
    looked, started = 0, node.now
    while node.now < started + 3600.0:
        for action in node.take():
            assert action == LookUp(Source.API_SERVER)
            looked += 1
            node.actions += node.dialer.found(Source.API_SERVER, [], node.now)
        if not node.actions:
            node.wait()
    assert 12 <= looked <= 30


def test_what_a_lookup_found_is_dialled_in_later_searches_without_asking_again() -> None:
    node = Node(lookups=frozenset({Source.API_SERVER}))
    assert node.take() == [LookUp(Source.API_SERVER)]
    node.actions += node.dialer.found(Source.API_SERVER, [A.address], node.now)
    node.ended(node.opened())
    node.wait()
    assert node.opened().target.address == A.address


def test_a_redirect_before_any_transaction_is_followed_at_once() -> None:
    node = Node(configured=[A.address])
    first = node.opened()
    node.welcomed(first, "a", [B, A])
    node.redirected(first, B, A)
    close, opened = node.take()
    assert close == Close(first.stream)
    assert isinstance(opened, Open)
    assert (opened.target, opened.unreachable) == (B, ())


def test_candidates_that_cannot_be_reached_are_named_to_the_next_one() -> None:
    node = Node(configured=[C.address])
    first = node.opened()
    node.welcomed(first, "c", [A, B, C])
    node.redirected(first, A, B, C)
    second = node.take()[1]
    assert isinstance(second, Open)
    node.ended(second)
    third = node.opened()
    assert (third.target, third.unreachable) == (B, ("a",))
    node.ended(third)
    fourth = node.opened()
    assert (fourth.target, fourth.unreachable) == (C, ("a", "b"))


def test_a_redirect_of_a_served_stream_makes_before_it_breaks() -> None:
    node = Node(told=[A])
    old = node.serve([A, B])
    node.redirected(old, B, A, reason=RedirectReason.DRAINING)
    assert node.take() == []
    assert node.wait() <= TIMING.redirect_spread
    new = node.opened()
    assert (new.target, new.unreachable) == (B, ("a",)), "who has not heard of the drain would send us back"
    node.welcomed(new, "b", [B])
    assert node.take() == []
    assert node.dialer.kept == old.stream
    assert set(node.dialer.streams) == {old.stream, new.stream}
    node.served(new)
    assert node.take() == [Close(old.stream)]
    assert node.dialer.streams == (new.stream,)


def test_dialling_waits_for_the_delay_of_a_redirect() -> None:
    node = Node(told=[A])
    old = node.serve([A])
    node.redirected(old, B, delay_seconds=40.0)
    assert 40.0 <= node.wait() <= 40.0 * 1.1 + TIMING.redirect_spread
    assert node.opened().target == B


def test_an_old_stream_that_ends_early_leaves_the_new_one_in_its_place() -> None:
    node = Node(told=[A])
    old = node.serve([A])
    node.redirected(old, B)
    node.wait()
    new = node.opened()
    node.welcomed(new, "b", [B])
    node.ended(old)
    assert node.take() == []
    assert node.dialer.kept == new.stream
    node.served(new)
    assert node.take() == []


def test_a_move_that_fails_costs_nothing_and_is_made_again() -> None:
    node = Node(told=[A])
    old = node.serve([A])
    node.redirected(old, B, reason=RedirectReason.DRAINING)
    node.wait()
    node.ended(node.opened())
    assert node.take() == []
    assert node.dialer.kept == old.stream
    assert node.wait() >= TIMING.move / 2
    assert node.opened().target == B


def test_a_planner_that_sends_us_to_one_we_cannot_reach_is_told_so_by_a_new_stream() -> None:
    node = Node(told=[A])
    old = node.serve([A])
    node.redirected(old, B, A)
    node.wait()
    node.ended(node.opened())
    again = node.opened()
    assert (again.target, again.unreachable) == (A, ("b",))
    node.ended(old)
    node.welcomed(again, "a", [B, A])
    node.served(again)
    assert node.dialer.streams == (again.stream,)


def test_redirects_in_circles_end_with_a_planner_that_has_to_serve() -> None:
    node = Node(told=[A])
    opened = node.opened()
    for _ in range(REDIRECTS_MAX):
        other = B if opened.target.address == A.address else A
        node.welcomed(opened, opened.target.planner_id, [other])
        node.redirected(opened, other)
        opened = next(each for each in node.take() if isinstance(each, Open))
        assert opened.unreachable == ()
    node.welcomed(opened, opened.target.planner_id)
    node.redirected(opened, B if opened.target.address == A.address else A)
    assert node.take() == [Close(opened.stream)]
    assert node.wait() > 0
    assert node.opened().unreachable == ("a", "b")


def test_after_a_loss_the_next_candidate_is_told_who_is_silent() -> None:
    node = Node(told=[A, B])
    first = node.serve([A, B])
    node.now += 60.0
    node.ended(first, Ending.SILENT)
    assert node.wait() <= TIMING.spread
    opened = node.opened()
    assert (opened.target, opened.unreachable) == (B, ("a",))


def test_a_node_served_by_another_than_its_owner_goes_home_later() -> None:
    node = Node(told=[A, B])
    node.ended(node.opened())
    second = node.serve([A, B])
    assert second.target == B
    assert node.wait() >= TIMING.unreachable
    home = node.opened()
    assert (home.target, home.unreachable) == (A, ())
    node.welcomed(home, "a", [A, B])
    node.served(home)
    assert node.take() == [Close(second.stream)]
    assert node.dialer.next_tick() == math.inf


def test_a_planner_that_brings_nothing_is_doubted_but_not_left() -> None:
    node = Node(told=[A], configured=[B.address])
    silent = node.opened()
    node.welcomed(silent, "a", [])
    assert node.wait() >= TIMING.patience / 2
    other = node.opened()
    assert other.target.address == B.address
    assert node.dialer.kept == silent.stream
    node.welcomed(other, "b", [])
    node.served(other)
    assert node.take() == [Close(silent.stream)]


def test_planners_that_bring_nothing_do_not_keep_a_node_from_the_one_that_would() -> None:
    node = Node(told=[A, B, C])
    first = node.opened()
    node.welcomed(first, "a", [])
    node.wait()
    second = node.opened()
    assert second.target == B
    node.welcomed(second, "b", [])
    assert node.wait() >= TIMING.patience / 2
    closed, opened = node.take()
    assert closed == Close(second.stream)
    assert isinstance(opened, Open)
    assert opened.target == C
    node.welcomed(opened, "c", [])
    node.served(opened)
    assert node.take() == [Close(first.stream)]


def test_a_move_to_a_planner_that_brings_nothing_goes_on_to_the_next() -> None:
    node = Node(told=[A])
    old = node.serve([A])
    node.redirected(old, B, C, reason=RedirectReason.DRAINING)
    node.wait()
    stuck = node.opened()
    assert stuck.target == B
    node.welcomed(stuck, "b", [])
    node.wait()
    closed, opened = node.take()
    assert closed == Close(stuck.stream)
    assert isinstance(opened, Open)
    assert opened.target == C
    assert node.dialer.kept == old.stream


def test_a_planner_that_only_needs_time_is_kept_when_the_other_one_says_so() -> None:
    node = Node(told=[A], configured=[B.address])
    waiting = node.opened()
    node.welcomed(waiting, "a", [A, B])
    node.wait()
    other = node.opened()
    node.welcomed(other, "b", [A, B])
    node.redirected(other, A, B)
    assert node.take() == [Close(other.stream)]
    node.served(waiting)
    assert node.take() == []
    assert node.dialer.kept == waiting.stream


def test_searches_get_rarer_while_nobody_answers() -> None:
    node = Node(configured=[A.address])
    delays = []
    for _ in range(12):
        node.ended(node.opened())
        delays.append(node.wait())
    assert delays[0] <= TIMING.retry
    assert all(TIMING.retry_max / 2 <= each <= TIMING.retry_max for each in delays[-4:])


def test_a_planner_that_breaks_rules_again_and_again_is_dialled_ever_more_seldom() -> None:
    node = Node(told=[A])
    delays = []
    for _ in range(10):
        opened = node.serve([A])
        node.ended(opened, Ending.FAULTY)
        delays.append(node.wait())
    assert delays[-1] >= TIMING.retry_max / 2


def test_events_of_closed_streams_change_nothing() -> None:
    node = Node(told=[A])
    old = node.serve([A])
    node.redirected(old, B)
    node.wait()
    new = node.serve([B])
    assert node.take() == [Close(old.stream)]
    node.ended(old)
    node.served(old)
    node.redirected(old, C)
    node.welcomed(old, "a", [C])
    assert node.take() == []
    assert node.dialer.streams == (new.stream,)


def test_an_overloaded_planner_is_dialled_again_after_its_delay_and_not_for_ever() -> None:
    node = Node(told=[A, B])
    for _ in range(REDIRECTS_MAX + 1):
        opened = node.opened()
        assert (opened.target, opened.unreachable) == (A, ())
        node.welcomed(opened, "a", [A, B])
        node.redirected(opened, A, B, reason=RedirectReason.OVERLOADED, delay_seconds=5.0)
        assert node.take() == [Close(opened.stream)]
        assert 5.0 <= node.wait() <= 5.5
    opened = node.opened()
    assert (opened.target, opened.unreachable) == (B, ("a",))


@pytest.mark.parametrize("reason", [RedirectReason.DRAINING, RedirectReason.OVERLOADED])
def test_a_planner_that_goes_away_and_knows_no_other_is_left_for_any_other(reason: RedirectReason) -> None:
    node = Node(told=[A], configured=[A.address, C.address])
    old = node.serve([])
    node.redirected(old, reason=reason)
    node.wait()
    assert node.opened().target.address == C.address


def test_what_is_known_survives_a_restart() -> None:
    node = Node(configured=[A.address], lookups=LOOKUPS)
    node.serve([B, A], "a")
    memory = node.dialer.directory.memory
    assert memory.told == (B, A)
    assert memory.remembered[0] == A.address
    assert set(memory.remembered) == {A.address, B.address}
    assert Node(told=memory.told, remembered=memory.remembered).opened().target == B
