# SPDX-License-Identifier: Apache-2.0
"""A replica judges by versions alone whether it has missed anything, and never asks for more than it must."""

import pytest

from pointsman_planner.store.port import Area, Head, LogEntry, Record, Records
from pointsman_planner.store.replica import STALE_MAX, Changes, Replica

AREA = Area(name="things", records_max=100_000)


def record(key: str, version: int, value: bytes = b"v", expires_at: float | None = None) -> Record:
    return Record(key=key, value=value, version=version, expires_at=expires_at)


def records(version: int, *held: Record, epoch: str = "e") -> Records:
    return Records(head=Head(epoch=epoch, version=version), records={each.key: each for each in held})


def entry(version: int, *keys: str, epoch: str = "e") -> LogEntry:
    return LogEntry(id=str(version), area="things", epoch=epoch, version=version, keys=keys)


@pytest.fixture
def told() -> list[Changes]:
    return []


@pytest.fixture
def replica(told: list[Changes]) -> Replica:
    made = Replica(AREA, told.append)
    made.begin_listing()
    made.finish_listing(records(10, record("a", 4), record("b", 9)))
    told.clear()
    return made


def test_an_entry_that_follows_names_what_to_read(replica: Replica, told: list[Changes]) -> None:
    replica.take(entry(11, "a", "c"))
    replica.take(entry(12, "b"))
    assert set(replica.stale_keys) == {"a", "b", "c"}
    assert (replica.applied_version, replica.needs_listing) == (10, False)
    replica.finish_reading(replica.stale_keys, records(12, record("a", 11, b"w"), record("c", 11)), replica.head)
    assert told == [{"a": record("a", 11, b"w"), "b": None, "c": record("c", 11)}]
    assert (replica.applied_version, replica.has_work) == (12, False)


def test_what_changed_again_while_it_was_read_is_read_again(replica: Replica) -> None:
    replica.take(entry(11, "a"))
    asked, head = replica.stale_keys, replica.head
    replica.take(entry(12, "a"))
    replica.finish_reading(asked, records(11, record("a", 11, b"w")), head)
    assert replica.stale_keys == ("a",)
    assert replica.applied_version == 11


@pytest.mark.parametrize("wrong", [entry(12, "a"), entry(11, "a", epoch="other"), entry(5, "a", epoch="other")])
def test_an_entry_that_does_not_follow_leads_to_a_listing(replica: Replica, wrong: LogEntry) -> None:
    replica.take(wrong)
    assert replica.needs_listing
    assert replica.applied_version == 0


def test_an_entry_that_the_listing_had_already_is_nothing_new(replica: Replica) -> None:
    replica.take(entry(10, "a"))
    replica.take(entry(3, "b"))
    assert not replica.has_work


def test_entries_during_a_listing_are_taken_in_after_it(replica: Replica) -> None:
    replica.begin_listing()
    for version in (11, 12, 13):
        replica.take(entry(version, f"k{version}"))
    assert replica.applied_version == 0
    replica.finish_listing(records(12, record("a", 4), record("k12", 12)))
    assert replica.stale_keys == ("k13",)
    assert replica.head.version == 13


def test_a_listing_tells_only_what_is_different(replica: Replica, told: list[Changes]) -> None:
    replica.begin_listing()
    replica.finish_listing(records(12, record("a", 4, expires_at=5.0), record("c", 12)))
    assert told == [{"b": None, "c": record("c", 12)}]


def test_more_changed_keys_than_are_read_one_by_one_lead_to_a_listing(replica: Replica) -> None:
    replica.take(entry(11, *(f"k{number}" for number in range(STALE_MAX + 1))))
    assert replica.needs_listing
    assert replica.stale_keys == ()


def test_a_store_is_lost_when_it_is_another_or_an_older_one(replica: Replica) -> None:
    assert replica.is_lost(Head(epoch="other", version=99))
    assert replica.is_lost(Head(epoch="e", version=9))
    assert not replica.is_lost(Head(epoch="e", version=10))
    assert not replica.is_lost(Head(epoch="e", version=11))
    assert not Replica(AREA, lambda _: None).is_lost(Head(epoch="e", version=1))


def test_a_lost_store_is_given_what_it_lacks_and_nothing_that_ended(replica: Replica) -> None:
    replica.take(entry(11, "c", "d", "e"))
    live = (record("c", 11, expires_at=50.0), record("d", 11, expires_at=5.0), record("e", 11))
    replica.finish_reading(("c", "d", "e"), records(11, *live), replica.head)
    listed = records(7, record("a", 4), record("b", 3, b"old"), record("e", 99, b"theirs"))
    writes, floor = replica.restoration(listed, now=10.0)
    assert {(write.key, write.if_version, write.lives_seconds) for write in writes} == {("b", 3, None), ("c", 0, 40.0)}
    assert floor == 11


def test_ends_are_told_once_each_and_only_if_they_still_hold(replica: Replica) -> None:
    replica.begin_listing()
    replica.finish_listing(records(12, *(record(f"k{number}", 12, expires_at=float(number)) for number in range(9))))
    assert set(replica.ended(3.0)) == {"k0", "k1", "k2", "k3"}
    assert replica.ended(3.0) == ()
    replica.recheck(["k4"])
    replica.finish_reading(["k4"], records(12, record("k4", 12, expires_at=30.0)), replica.head)
    assert set(replica.ended(5.0)) == {"k5"}
    replica.forget(["k5"])
    assert "k5" not in replica.records
    assert set(replica.ended(40.0)) == {"k6", "k7", "k8", "k4"}


def test_records_prolonged_over_and_over_leave_nothing_behind(replica: Replica) -> None:
    for version in range(1, 2_000):
        replica.recheck(["a"])
        replica.finish_reading(["a"], records(10, record("a", 4, expires_at=float(version))), replica.head)
    assert len(replica._ends) < 200
    assert replica.ended(1e9) == ("a",)
