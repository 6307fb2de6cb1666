# SPDX-License-Identifier: Apache-2.0
"""Delays grow, stay within their bounds, and start over after a success."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pointsman_chassis.backoff import Backoff


def test_without_jitter_delays_double_up_to_the_maximum() -> None:
    backoff = Backoff(initial_seconds=1, maximum_seconds=5, factor=2, jitter=0)
    assert [backoff.next_seconds() for _ in range(5)] == [1, 2, 4, 5, 5]


def test_a_reset_starts_over() -> None:
    backoff = Backoff(initial_seconds=1, maximum_seconds=5, jitter=0)
    backoff.next_seconds()
    backoff.next_seconds()
    backoff.reset()
    assert backoff.next_seconds() == 1


@given(st.integers(), st.integers(min_value=1, max_value=30))
def test_jitter_stays_between_half_and_all_of_the_ceiling(seed: int, attempts: int) -> None:
    backoff = Backoff(initial_seconds=0.1, maximum_seconds=10, jitter=0.5, random_source=random.Random(seed))
    for attempt in range(attempts):
        ceiling = min(0.1 * 2**attempt, 10)
        assert ceiling / 2 <= backoff.next_seconds() <= ceiling


def test_two_nodes_do_not_wait_the_same_time() -> None:
    first, second = (Backoff(random_source=random.Random(seed)) for seed in (1, 2))
    assert first.next_seconds() != second.next_seconds()
