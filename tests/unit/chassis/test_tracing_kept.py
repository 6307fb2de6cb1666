# SPDX-License-Identifier: Apache-2.0
"""Which spans are kept though nobody sampled their change: failures and the slowest, both bounded."""

import random

from pointsman_chassis.tracing_kept import KeptSpans, Slowest


def test_about_the_asked_share_of_durations_is_slow_whatever_their_scale() -> None:
    chooser = random.Random(7)
    for scale in (0.01, 1.0):
        slowest = Slowest(share=0.01, floor_seconds=0.001)
        slow = sum(slowest.is_slow(chooser.lognormvariate(0, 1) * scale) for _ in range(50_000))
        assert 300 < slow < 800, "a hundredth is 500"


def test_nothing_below_the_floor_is_slow() -> None:
    slowest = Slowest(share=0.01, floor_seconds=0.05)
    assert not any(slowest.is_slow(0.049) for _ in range(1_000))
    assert slowest.is_slow(0.051)


def test_a_node_that_is_slower_than_the_rest_is_kept_and_the_rest_is_not() -> None:
    kept = KeptSpans(floor_seconds=0.05)
    assert not any(kept.keeps(seconds=0.01, is_failed=False, now=0.0) for _ in range(1_000))
    assert kept.keeps(seconds=3.0, is_failed=False, now=0.0)


def test_failures_are_kept_up_to_a_rate_and_do_not_use_up_what_slow_ones_have() -> None:
    kept = KeptSpans(floor_seconds=0.05, per_second=1.0, burst=10)
    assert [kept.keeps(seconds=0.0, is_failed=True, now=0.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert kept.keeps(seconds=9.0, is_failed=False, now=0.0)
    assert kept.keeps(seconds=0.0, is_failed=True, now=1.5), "a second later there is room for one more"
