# SPDX-License-Identifier: Apache-2.0
"""Who is a member: leases count while the store is there, and nobody is dropped because the store was away."""

from pointsman_planner.core.membership import Membership
from pointsman_planner.core.ownership import Member

LEASE = 10.0


def listed(*names: str) -> list[Member]:
    return [Member(planner_id=name, address=f"{name}:1") for name in names]


def names(membership: Membership) -> list[str]:
    return [member.planner_id for member in membership.members]


def started(*present: str) -> Membership:
    membership = Membership(lease_seconds=LEASE)
    for now in (0.0, 3.0, 6.0, 9.0, 12.0):
        membership.take(listed(*present), epoch="e", now=now)
    return membership


def test_members_come_and_go_with_the_listing() -> None:
    membership = started("a", "b")
    assert names(membership) == ["a", "b"]
    assert membership.take(listed("a", "b", "c"), epoch="e", now=15.0)
    assert not membership.take(listed("c", "b", "a"), epoch="e", now=18.0)
    assert membership.take(listed("a", "c"), epoch="e", now=20.0)
    assert names(membership) == ["a", "c"]


def test_one_that_drains_is_seen_at_once() -> None:
    membership = started("a", "b")
    draining = [Member(planner_id="b", address="b:1", is_draining=True), *listed("a")]
    assert membership.take(draining, epoch="e", now=13.0)
    assert [member.is_draining for member in membership.members] == [False, True]


def test_after_the_store_was_away_members_have_a_lease_to_come_back() -> None:
    membership = started("a", "b", "c")
    assert not membership.is_frozen(20.0)
    assert membership.is_frozen(30.0)
    assert not membership.take(listed("a"), epoch="e", now=60.0)
    assert names(membership) == ["a", "b", "c"]
    membership.take(listed("a", "b"), epoch="e", now=65.0)
    assert names(membership) == ["a", "b", "c"]
    assert membership.take(listed("a", "b"), epoch="e", now=70.0)
    assert names(membership) == ["a", "b"]


def test_a_store_that_came_back_empty_drops_nobody_who_lives() -> None:
    membership = started("a", "b")
    assert not membership.take(listed("a"), epoch="other", now=13.0)
    assert not membership.take(listed("a", "b"), epoch="other", now=16.0)
    assert not membership.take(listed("a", "b"), epoch="other", now=23.0)
    assert membership.take(listed("a"), epoch="other", now=27.0)


def test_one_that_joins_meanwhile_is_a_member() -> None:
    membership = started("a")
    membership.take(listed("a", "new"), epoch="other", now=13.0)
    assert names(membership) == ["a", "new"]


def test_nothing_is_known_before_the_first_listing() -> None:
    membership = Membership(lease_seconds=LEASE)
    assert membership.is_frozen(0.0)
    assert not membership.is_known
    assert membership.members == ()
