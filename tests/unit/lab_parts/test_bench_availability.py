# SPDX-License-Identifier: Apache-2.0
"""The lossless report blames the proxy for every failure, except those that no proxy could have prevented."""

import errno
from typing import Any

import pytest

from pointsman_lab.bench.availability import MOVED, Broken, EndpointTimeline, Record, Window, broken_flows, judge

READY = {"ready": True, "serving": True, "terminating": False}
DRAINING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}


def slice_with(name: str, *conditions: dict[str, bool]) -> dict[str, Any]:
    endpoints = [{"addresses": [f"10.0.0.{n}"], "conditions": given} for n, given in enumerate(conditions)]
    return {"metadata": {"name": name}, "endpoints": endpoints}


def test_a_window_lasts_from_the_last_usable_endpoint_to_the_next_one() -> None:
    timeline = EndpointTimeline()
    timeline.see("ADDED", slice_with("a", READY), 1.0)
    timeline.see("ADDED", slice_with("b", READY), 1.5)
    timeline.see("MODIFIED", slice_with("a"), 2.0)
    assert timeline.until(2.5) == []
    timeline.see("MODIFIED", slice_with("b", DRAINING), 3.0)
    assert timeline.until(3.5) == []
    timeline.see("MODIFIED", slice_with("b", GONE), 4.0)
    assert timeline.until(4.5) == [Window(4.0, 4.5)]
    timeline.see("MODIFIED", slice_with("a", READY), 5.0)
    timeline.see("DELETED", slice_with("a", READY), 6.0)
    assert timeline.until(7.0) == [Window(4.0, 5.0), Window(6.0, 7.0)]


@pytest.mark.parametrize(
    ("started", "ended", "is_outside"),
    [(1.0, 1.9, True), (1.0, 2.0, False), (2.5, 2.6, False), (2.9, 9.0, False), (3.05, 3.1, False), (3.2, 3.3, True)],
)
def test_a_failure_is_unavoidable_when_it_touches_a_window(started: float, ended: float, is_outside: bool) -> None:
    records = [Record(0, started, ended, errno.ECONNREFUSED), Record(0, 1.0, 1.5, 0)]
    outcome = judge(records, [Window(2.0, 3.0)], allowance_seconds=0.1)
    assert (outcome.opened, outcome.failed, outcome.outside) == (2, 1, int(is_outside))
    assert outcome.worst_seconds == 0.5
    assert outcome.failures == {"ECONNREFUSED": 1}


def test_without_a_window_every_failure_counts() -> None:
    records = [Record(0, 1.0, 1.1, errno.ECONNRESET), Record(0, 1.0, 4.0, errno.ETIMEDOUT), Record(0, 1.0, 1.1, 0)]
    outcome = judge(records, [], allowance_seconds=0.1)
    assert (outcome.failed, outcome.outside, outcome.resets, outcome.unanswered) == (2, 2, 1, 1)


def test_the_latest_failure_after_a_window_is_told() -> None:
    records = [Record(0, 3.5, 3.6, errno.ECONNREFUSED), Record(0, 2.5, 2.6, errno.ECONNREFUSED)]
    assert judge(records, [Window(2.0, 3.0)], allowance_seconds=0.1).late_seconds == 0.5


def test_a_held_connection_breaks_once_and_a_lost_datagram_breaks_nothing() -> None:
    connection, flow = 0, 1
    records = [
        Record(connection, 1.0, 1.1, errno.ECONNRESET),
        Record(connection, 1.2, 1.3, -2),
        Record(flow, 1.0, 2.0, errno.ETIMEDOUT),
        Record(flow, 5.0, 5.1, MOVED),
    ]
    found = broken_flows(records, [Window(0.9, 1.2)], datagram_specs=frozenset({flow}), allowance_seconds=0.1)
    assert found == Broken(total=2, outside=1)
