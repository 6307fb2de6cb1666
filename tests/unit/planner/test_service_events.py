# SPDX-License-Identifier: Apache-2.0
"""Which Events are written, when, and when one is given up."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pointsman_model.names import ServiceKey
from pointsman_planner.core.messages import Condition
from pointsman_planner.core.service_events import (
    ATTEMPTS_MAX,
    NOTE_BYTES_MAX,
    OF_SERVICE_MAX,
    PACE_SECONDS,
    QUEUED_MAX,
    REMEMBERED_MAX,
    REPEAT_SECONDS,
    RETRY_SECONDS,
    Answer,
    Fate,
    ServiceEvents,
)

PORT = 1


def condition(
    name: str = "web", *, kind: int = PORT, message: str = "port 32100 is taken", since_ns: int = 7
) -> Condition:
    return Condition(service=ServiceKey("shop", name), kind=kind, message=message, since_ns=since_ns)


def begun(events: ServiceEvents, node: str, what: Condition, *, now: float = 0.0) -> Fate:
    return events.begun(node, what, now=now, now_ns=int(now * 1e9))


def test_an_event_says_what_where_and_since_when_in_kube_proxys_words() -> None:
    events = ServiceEvents()
    assert begun(events, "node-a", condition(), now=3.0) is Fate.QUEUED
    event = events.head
    assert (event.service, event.node) == (ServiceKey("shop", "web"), "node-a")
    assert (event.cause.reason, event.cause.action) == ("FailedToStartServiceHealthcheck", "Listen")
    assert event.note == "node node-a: port 32100 is taken"
    assert event.at_ns == 3_000_000_000
    assert event.name.startswith("web.")


def test_two_planners_that_hear_of_the_same_beginning_name_it_alike() -> None:
    names = []
    for now in (1.0, 60.0):
        events = ServiceEvents()
        begun(events, "node-a", condition(), now=now)
        names.append(events.head.name)
    other = ServiceEvents()
    begun(other, "node-a", condition(since_ns=8))
    assert names[0] == names[1] != other.head.name


def test_the_same_is_not_said_again_for_a_while_and_other_things_are() -> None:
    events = ServiceEvents()
    assert begun(events, "node-a", condition()) is Fate.QUEUED
    assert begun(events, "node-a", condition(since_ns=99), now=REPEAT_SECONDS - 1) is Fate.REPEATED
    assert begun(events, "node-b", condition()) is Fate.QUEUED
    assert begun(events, "node-a", condition("api")) is Fate.QUEUED
    assert begun(events, "node-a", condition(message="permission denied")) is Fate.QUEUED
    assert begun(events, "node-a", condition(), now=REPEAT_SECONDS) is Fate.QUEUED


def test_a_kind_that_no_event_stands_for_is_left_out() -> None:
    events = ServiceEvents()
    assert begun(events, "node-a", condition(kind=99)) is Fate.UNKNOWN
    assert len(events) == 0


def test_one_service_on_a_thousand_nodes_is_one_story() -> None:
    events = ServiceEvents()
    fates = [begun(events, f"node-{number}", condition()) for number in range(1000)]
    assert fates == [Fate.QUEUED] * OF_SERVICE_MAX + [Fate.CROWDED] * (1000 - OF_SERVICE_MAX)
    assert begun(events, "node-0", condition("api")) is Fate.QUEUED
    assert begun(events, "node-1000", condition(), now=REPEAT_SECONDS) is Fate.QUEUED


def test_what_does_not_fit_is_left_out_and_may_begin_again_later() -> None:
    events = ServiceEvents()
    for number in range(QUEUED_MAX):
        assert begun(events, "node-a", condition(f"svc-{number}")) is Fate.QUEUED
    assert begun(events, "node-a", condition("late")) is Fate.OVERFLOWED
    assert events.answered(Answer.WRITTEN, now=1.0)
    assert begun(events, "node-a", condition("late"), now=2.0) is Fate.QUEUED


def test_memory_is_bounded_and_the_oldest_is_forgotten_first() -> None:
    events = ServiceEvents()
    for number in range(REMEMBERED_MAX + 1):
        assert begun(events, "node-a", condition(f"svc-{number}"), now=number / 1000) is Fate.QUEUED
        events.answered(Answer.WRITTEN, now=number / 1000)
    assert begun(events, "node-a", condition(f"svc-{REMEMBERED_MAX}"), now=11.0) is Fate.REPEATED
    assert begun(events, "node-a", condition("svc-0"), now=11.0) is Fate.QUEUED


def test_one_is_written_after_the_other_at_a_pace() -> None:
    events = ServiceEvents()
    assert events.wait_seconds(0.0) == math.inf
    begun(events, "node-a", condition())
    begun(events, "node-b", condition())
    assert events.wait_seconds(0.0) == 0.0
    assert events.answered(Answer.WRITTEN, now=0.0)
    assert events.wait_seconds(0.0) == PACE_SECONDS
    assert events.wait_seconds(6.0) == 0.0
    assert events.answered(Answer.WRITTEN, now=6.0)
    assert events.wait_seconds(7.0) == math.inf


def test_an_api_server_that_is_away_is_asked_less_and_less_often_and_then_no_more() -> None:
    events = ServiceEvents()
    begun(events, "node-a", condition())
    waits, now = [], 0.0
    while not events.answered(Answer.AWAY, now=now):
        waits.append(events.wait_seconds(now))
        now += waits[-1]
    assert waits == [RETRY_SECONDS * 2**number for number in range(ATTEMPTS_MAX - 1)]
    assert len(events) == 0
    assert begun(events, "node-a", condition(), now=now) is Fate.QUEUED, "it was not written, so it may begin anew"


def test_attempts_are_counted_for_each_event() -> None:
    events = ServiceEvents()
    begun(events, "node-a", condition())
    begun(events, "node-b", condition())
    assert not events.answered(Answer.AWAY, now=0.0)
    assert events.answered(Answer.WRITTEN, now=1.0)
    assert [events.answered(Answer.AWAY, now=now) for now in range(2, 2 + ATTEMPTS_MAX)] == [False] * 3 + [True]


def test_what_is_refused_is_not_tried_again_and_is_not_remembered() -> None:
    events = ServiceEvents()
    begun(events, "node-a", condition())
    assert events.answered(Answer.REFUSED, now=0.0)
    assert begun(events, "node-a", condition(), now=1.0) is Fate.QUEUED


@given(st.text(max_size=3000))
def test_a_note_is_no_longer_than_the_api_server_takes(message: str) -> None:
    events = ServiceEvents()
    begun(events, "node-a", condition(message=message))
    assert len(events.head.note.encode()) <= NOTE_BYTES_MAX
