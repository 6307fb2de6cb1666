# SPDX-License-Identifier: Apache-2.0
"""Token buckets: a burst, then a rate, each key for itself, in bounded memory."""

import pytest

from pointsman_chassis.rate import RateLimiter


def test_a_burst_passes_and_then_as_many_as_the_rate_allows() -> None:
    limiter = RateLimiter(per_second=2, burst=3)
    assert [limiter.take("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limiter.take("a", 0.0) == pytest.approx(0.5)
    assert limiter.take("a", 0.25) == pytest.approx(0.25)
    assert limiter.take("a", 0.5) == 0.0
    assert limiter.take("a", 0.5) > 0


def test_a_pause_fills_no_more_than_the_burst() -> None:
    limiter = RateLimiter(per_second=2, burst=3)
    assert [limiter.take("a", 1000.0) == 0.0 for _ in range(4)] == [True, True, True, False]
    assert [limiter.take("a", 2000.0) == 0.0 for _ in range(4)] == [True, True, True, False]


def test_keys_do_not_share() -> None:
    limiter = RateLimiter(per_second=1, burst=1)
    assert limiter.take("a", 0.0) == 0.0
    assert limiter.take("b", 0.0) == 0.0
    assert limiter.take("a", 0.0) > 0


def test_memory_is_bounded_and_who_was_away_longest_is_forgotten() -> None:
    limiter = RateLimiter(per_second=1, burst=1, keys_max=2)
    for key in ("a", "b", "a", "c"):
        limiter.take(key, 0.0)
    assert len(limiter) == 2
    assert limiter.take("a", 0.0) > 0
    assert limiter.take("b", 0.0) == 0.0
