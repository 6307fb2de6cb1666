# SPDX-License-Identifier: Apache-2.0
"""Whether a store counts as available: no single failure loses that, and no single success regains it."""

from pointsman_planner.store.health import Health


def test_the_first_success_is_enough_to_begin() -> None:
    health = Health()
    assert health.is_good is None
    assert health.succeeded(0.0)
    assert health.is_good is True
    assert not health.succeeded(1.0)


def test_failures_in_a_row_lose_it_and_a_success_between_does_not() -> None:
    health = Health(failures_max=3)
    health.succeeded(0.0)
    for now in range(1, 20):
        assert not (health.failed("away", now) if now % 3 else health.succeeded(now))
        assert health.is_good
    health.failed("a", 21.0)
    health.failed("b", 22.0)
    health.failed("b", 22.0)
    assert health.is_good is False
    assert health.last_error == "b"


def test_it_is_regained_only_when_it_lasts() -> None:
    health = Health(failures_max=1, successes_min=2, steady_seconds=5.0)
    assert health.failed("away", 10.0)
    assert not health.failed("away", 11.0)
    assert not health.succeeded(12.0)
    assert not health.succeeded(13.0)
    assert not health.succeeded(15.9)
    assert health.succeeded(16.0)
    assert (health.is_good, health.last_error) == (True, "")


def test_one_that_answers_now_and_then_is_not_back() -> None:
    health = Health(failures_max=3, steady_seconds=0.5)
    for now in range(3):
        health.failed("away", float(now))
    for now in range(3, 40, 2):
        assert not health.succeeded(float(now))
        assert not health.failed("away", now + 1.0)
    assert health.is_good is False
