# SPDX-License-Identifier: Apache-2.0
"""Which planner a node belongs to: joins, leaves and drains move only the nodes that must move."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_planner.core.ownership import Member, Verdict, candidates, judge

NODES = [f"node-{number}" for number in range(2_000)]


def members(*names: str, draining: str = "") -> tuple[Member, ...]:
    return tuple(Member(planner_id=name, address=f"{name}:7402", is_draining=name == draining) for name in names)


def owners(*names: str, draining: str = "") -> dict[str, str]:
    return {node: candidates(node, members(*names, draining=draining))[0].planner_id for node in NODES}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_a_planner_that_joins_takes_its_share_and_only_that(count: int) -> None:
    names = [f"p{number}" for number in range(count)]
    before, after = owners(*names), owners(*names, "new")
    moved = [node for node in NODES if before[node] != after[node]]
    assert {after[node] for node in moved} == {"new"}
    share = len(NODES) / (count + 1)
    assert 0.75 * share < len(moved) < 1.25 * share


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_a_planner_that_leaves_gives_its_nodes_to_their_second_candidates(count: int) -> None:
    names = [f"p{number}" for number in range(count)]
    before, after = owners(*names), owners(*names[1:])
    for node in NODES:
        if before[node] == "p0":
            assert after[node] == candidates(node, members(*names))[1].planner_id
        else:
            assert after[node] == before[node]
    heirs = {after[node] for node in NODES if before[node] == "p0"}
    assert heirs == set(names[1:])


def test_a_planner_that_drains_moves_exactly_what_its_end_would_move() -> None:
    assert owners("a", "b", "c", draining="b") == owners("a", "c")


def test_all_planners_agree_whatever_the_order_in_which_they_know_each_other() -> None:
    for node in NODES[:50]:
        assert candidates(node, members("a", "b", "c")) == candidates(node, members("c", "a", "b"))


def test_nodes_are_spread_evenly() -> None:
    held = list(owners("a", "b", "c", "d").values())
    for name in "abcd":
        assert 0.2 < held.count(name) / len(NODES) < 0.3


def test_the_owner_serves_and_others_send_away_unless_all_better_ones_are_unreachable() -> None:
    ordered = candidates("node-1", members("a", "b", "c"))
    first, second, third = (member.planner_id for member in ordered)
    assert judge(first, ordered, ()) is Verdict.SERVE
    assert judge(second, ordered, ()) is Verdict.NOT_OWNER
    assert judge(second, ordered, {first}) is Verdict.SERVE
    assert judge(third, ordered, {first}) is Verdict.NOT_OWNER
    assert judge(third, ordered, {first, second, "unheard of"}) is Verdict.SERVE


def test_a_planner_that_has_not_joined_comes_after_all_that_have() -> None:
    ordered = candidates("node-1", members("a", "b"))
    assert judge("new", ordered, ()) is Verdict.NOT_OWNER
    assert judge("new", ordered, {"a", "b"}) is Verdict.SERVE
    assert judge("new", (), ()) is Verdict.SERVE


def test_a_planner_that_drains_serves_only_when_there_is_no_other() -> None:
    ordered = candidates("node-1", members("a", "b", draining="a"))
    assert judge("a", ordered, ()) is Verdict.DRAINING
    assert judge("b", ordered, ()) is Verdict.SERVE
    assert judge("a", ordered, {"b"}) is Verdict.SERVE
    alone = members("a", draining="a")
    assert judge("a", alone, ()) is Verdict.SERVE


def test_planners_that_all_drain_do_not_send_nodes_in_circles() -> None:
    ordered = tuple(Member(planner_id=name, address="x:1", is_draining=True) for name in ("a", "b", "c"))
    assert {judge(member.planner_id, ordered, ()) for member in ordered} == {Verdict.SERVE}


@given(
    st.sets(st.sampled_from("abcdef"), min_size=1),
    st.sets(st.sampled_from("abcdef")),
    st.sets(st.sampled_from("abcdef")),
    st.text(max_size=20),
)
def test_somebody_serves_every_node_who_can_reach_anybody(
    live: set[str], draining: set[str], unreachable: set[str], node: str
) -> None:
    known = [Member(planner_id=name, address="x:1", is_draining=name in draining) for name in live]
    ordered = candidates(node, known)
    serving = {name for name in live if judge(name, ordered, unreachable) is Verdict.SERVE}
    assert serving - unreachable or not live - unreachable
    if not unreachable and live - draining:
        assert serving == {ordered[0].planner_id}
