# SPDX-License-Identifier: Apache-2.0
"""Which endpoint stands in which slot: uniform choice is "a random slot", so weights are repeated slots.

An endpoint that stays keeps its slot. Replacing one endpoint then changes one slot, and removing one moves at most the
endpoints of the last slots into the gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

from pointsman_enforcer.dataplane.nftables.layout import SLOTS_MAX


def shares_of(weights: Sequence[int]) -> list[int]:
    """How many slots each endpoint gets: weights in lowest terms, scaled down if there are more slots than can be.

    Each endpoint keeps at least one. ValueError when there are more endpoints than slots, or none.
    """
    if not weights or len(weights) > SLOTS_MAX:
        raise ValueError(f"an endpoint set has 1 to {SLOTS_MAX} endpoints here, not {len(weights)}")
    if weights.count(1) == len(weights):
        return list(weights)
    divisor = gcd(*weights)
    shares = [weight // divisor for weight in weights]
    total = sum(shares)
    if total <= SLOTS_MAX:
        return shares
    spare = SLOTS_MAX - len(shares)
    return [1 + share * spare // total for share in shares]


def assign(values: Sequence[bytes], shares: Sequence[int], previous: Mapping[int, bytes]) -> list[bytes]:
    """The value of each slot from 0 on, given what `previous` slots hold. Deterministic.

    A slot keeps its value as long as that value still has a share; the free slots are filled in the order of `values`.
    """
    if not previous:
        return [value for value, share in zip(values, shares, strict=True) for _ in range(share)]
    wanted = dict(zip(values, shares, strict=True))
    slots: list[bytes | None] = [None] * sum(shares)
    for slot in range(len(slots)):
        value = previous.get(slot)
        if value is not None and wanted.get(value, 0) > 0:
            slots[slot] = value
            wanted[value] -= 1
    rest = (value for value in values for _ in range(wanted[value]))
    return [next(rest) if value is None else value for value in slots]
