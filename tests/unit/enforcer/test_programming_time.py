# SPDX-License-Identifier: Apache-2.0
"""Network programming latency. Packet-flow rows 137 and 138; 139 is the planner's, who knows what a slice was."""

from __future__ import annotations

from pointsman_enforcer.core.programming_time import programming_times
from pointsman_enforcer.core.transaction import ChangeOrigin
from pointsman_model.names import ServiceKey
from support.enforcer_plans import key

SECOND = 1_000_000_000
STARTED = 100 * SECOND
APPLIED = 110 * SECOND


def times(
    *origins: ChangeOrigin, failed: frozenset[ServiceKey] = frozenset(), applied: int = APPLIED
) -> list[tuple[ServiceKey, float]]:
    counted = programming_times(origins, started_at_ns=STARTED, applied_at_ns=applied, is_failed=failed.__contains__)
    return [(origin.service, seconds) for origin, seconds in counted]


def change(service: int, trigger: float) -> ChangeOrigin:
    return ChangeOrigin(key(service), trigger_time_ns=round(trigger * SECOND))


def test_row_137_one_change_is_one_time() -> None:
    assert times(change(1, 107.5)) == [(key(1), 2.5)]


def test_row_137_changes_of_one_sync_count_each() -> None:
    assert times(change(1, 107), change(1, 109)) == [(key(1), 3.0), (key(1), 1.0)]


def test_row_137_services_are_counted_apart() -> None:
    assert times(change(1, 107), change(2, 108)) == [(key(1), 3.0), (key(2), 2.0)]


def test_row_138_no_annotation_and_older_than_the_process_count_nothing() -> None:
    assert times(change(1, 0), change(1, 99.9)) == []
    assert times(change(1, 100)) == [(key(1), 10.0)]


def test_what_the_kernel_refused_is_not_programmed() -> None:
    assert times(change(1, 107), change(2, 107), failed=frozenset({key(1)})) == [(key(2), 3.0)]


def test_a_clock_behind_the_controllers_gives_zero() -> None:
    assert times(change(1, 111)) == [(key(1), 0.0)]
