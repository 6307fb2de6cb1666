# SPDX-License-Identifier: Apache-2.0
"""Slots: every share gets one, who stays keeps his, and nothing moves that need not."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_enforcer.dataplane.nftables.layout import SLOTS_MAX
from pointsman_enforcer.dataplane.nftables.slots import assign, shares_of

weighted = st.dictionaries(st.binary(min_size=1, max_size=2), st.integers(1, 4), min_size=1, max_size=8)


@given(before=weighted, after=weighted)
def test_each_value_has_its_shares_and_kept_ones_stay(before: dict[bytes, int], after: dict[bytes, int]) -> None:
    old = assign(list(before), list(before.values()), {})
    new = assign(list(after), list(after.values()), dict(enumerate(old)))
    assert Counter(new) == Counter(after)
    moved = sum(1 for slot, value in enumerate(old[: len(new)]) if new[slot] != value)
    leaving = Counter(old[: len(new)]) - Counter(after)
    assert moved == leaving.total(), "a slot changes only when its endpoint has no share left"


def test_replacing_one_of_ten_moves_nobody_else() -> None:
    old = [bytes([each]) for each in range(10)]
    new = assign([*old[:3], b"new", *old[4:]], [1] * 10, dict(enumerate(old)))
    assert new == [*old[:3], b"new", *old[4:]]


@pytest.mark.parametrize(
    ("weights", "shares"), [([1, 1], [1, 1]), ([2, 4], [1, 2]), ([100, 100, 50], [2, 2, 1]), ([7], [1])]
)
def test_weights_are_taken_in_lowest_terms(weights: list[int], shares: list[int]) -> None:
    assert shares_of(weights) == shares


@given(weights=st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=50))
def test_extreme_weights_still_fit_and_nobody_is_left_out(weights: list[int]) -> None:
    shares = shares_of(weights)
    assert min(shares) >= 1
    assert sum(shares) <= SLOTS_MAX


def test_more_endpoints_than_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="endpoints here"):
        shares_of([1] * (SLOTS_MAX + 1))
