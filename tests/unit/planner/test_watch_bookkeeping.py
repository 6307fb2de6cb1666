# SPDX-License-Identifier: Apache-2.0
"""A watch is a set of keys: whoever reads slowly, or comes back, is told of each thing once, in its newest state."""

import hypothesis.strategies as st
from hypothesis import given

from pointsman_model.cluster import ObjectKey, ObjectKind
from pointsman_planner.core.watching import UNREAD_MARKS_MAX, ChangeLog, Reader


def key(name: str) -> ObjectKey:
    return ObjectKey(ObjectKind.SERVICE, "shop", name)


def names(reader: Reader) -> list[str]:
    return [each.name for each in reader.take().keys]


def opened(log: ChangeLog, token: str = "", everything: str = "") -> Reader:
    return log.open(token, map(key, everything), lambda: None)


def test_a_new_reader_begins_with_everything_and_then_gets_what_changes() -> None:
    log = ChangeLog(epoch="e")
    reader = opened(log, everything="abc")
    assert not reader.is_resume
    assert names(reader) == ["a", "b", "c"]
    log.mark(map(key, "bd"))
    assert names(reader) == ["b", "d"]
    assert names(reader) == []


def test_a_slow_reader_is_told_once_of_what_changed_often() -> None:
    log = ChangeLog(epoch="e")
    reader = opened(log)
    for _ in range(1000):
        log.mark(map(key, "ab"))
    assert (reader.pending_count, names(reader)) == (2, ["a", "b"])


def test_what_changes_while_it_is_sent_is_sent_again() -> None:
    log = ChangeLog(epoch="e")
    reader = opened(log, everything="a")
    taken = reader.take()
    log.mark([key("a")])
    assert names(reader) == ["a"]
    assert taken.token != log.token


def test_who_comes_back_gets_what_changed_since_oldest_first() -> None:
    log = ChangeLog(epoch="e")
    reader = opened(log, everything="abc")
    token = reader.take().token
    reader.close()
    for name in "cab":
        log.mark([key(name)])
    log.mark([key("c")])
    again = opened(log, token, "abc")
    assert again.is_resume
    assert names(again) == ["a", "b", "c"]
    assert log.reader_count == 1


def test_a_log_without_readers_keeps_nothing_and_one_that_was_read_waits_a_while() -> None:
    log = ChangeLog(epoch="e")
    log.mark([key("a")])
    assert (log.is_followed, log.token) == (False, "e.0")
    reader = opened(log)
    token = reader.take().token
    reader.close()
    for _ in range(UNREAD_MARKS_MAX - 1):
        log.mark([key("a")])
    again = opened(log, token)
    assert (again.is_resume, names(again)) == (True, ["a"])
    again.close()
    for _ in range(UNREAD_MARKS_MAX + 5):
        log.mark([key("a")])
    assert not log.is_followed
    assert not opened(log, token).is_resume


def test_a_token_of_another_process_or_of_nobody_begins_anew() -> None:
    log = ChangeLog(epoch="e")
    opened(log)
    log.mark([key("a")])
    for token in ("f.0", "e.2", "e.-1", "e.", "", "e", "e.x", "e." + "9" * 30):
        assert not opened(log, token).is_resume
    assert opened(log, "e.0").is_resume


def test_a_reader_that_was_away_too_long_begins_anew_and_memory_is_bounded() -> None:
    log = ChangeLog(epoch="e", entries_max=3)
    token = opened(log).take().token
    for name in "abc":
        log.mark([key(name)])
    assert names(opened(log, token)) == ["a", "b", "c"]
    log.mark([key("a")])
    assert opened(log, token).is_resume, "a is remembered with its newest change"
    log.mark([key("d")])
    assert not opened(log, token).is_resume
    assert names(opened(log, "e.2")) == ["c", "a", "d"]


def test_a_reader_that_stands_still_while_names_come_and_go_costs_no_more_than_allowed() -> None:
    log = ChangeLog(epoch="e", entries_max=10, pending_max=3)
    reader = opened(log)
    for number in range(100):
        log.mark([key(f"n{number}")])
        assert reader.pending_count <= 3
    assert reader.is_overrun
    assert not opened(log).is_overrun


def test_readers_are_woken_until_they_leave() -> None:
    log = ChangeLog(epoch="e")
    calls: list[int] = []
    reader = log.open("", [], lambda: calls.append(1))
    log.mark([key("a")])
    log.mark([])
    reader.close()
    log.mark([key("a")])
    assert calls == [1]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.booleans()), max_size=60), st.integers(1, 5))
def test_however_a_reader_reads_it_ends_with_the_newest_of_everything(
    steps: list[tuple[str, bool, bool]], entries_max: int
) -> None:
    log = ChangeLog(epoch="e", entries_max=entries_max)
    truth: dict[str, int] = dict.fromkeys("abcd", 0)
    held: dict[str, int] = {}
    token = ""
    reader = opened(log, everything="abcd")

    def read() -> None:
        nonlocal token
        taken = reader.take()
        held.update({each.name: truth[each.name] for each in taken.keys})
        token = taken.token

    for name, is_read, is_reconnect in steps:
        truth[name] += 1
        log.mark([key(name)])
        if is_read:
            read()
        if is_reconnect:
            reader.close()
            reader = opened(log, token, "abcd")
    read()
    assert held == truth
