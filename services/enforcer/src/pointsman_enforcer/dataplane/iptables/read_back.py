# SPDX-License-Identifier: Apache-2.0
"""Says of each record of a rendering whether the kernel has it, by what was read last."""

from __future__ import annotations

from functools import partial
from itertools import islice

from pointsman_enforcer.dataplane.base import ReadBack
from pointsman_enforcer.dataplane.iptables.layout import records
from pointsman_enforcer.dataplane.iptables.rounds import Rounds

_SHOWN_MAX = 4


def reader(rounds: Rounds) -> partial[ReadBack | None]:
    """`Dataplane.read_back` by these rounds."""
    return partial(read_back, rounds)


def read_back(rounds: Rounds, rendering: bytes, start: int, most: int) -> ReadBack | None:
    """See `Dataplane.read_back`. What differs was noticed by the round that found it."""
    words, reads = [], 0
    for record, _ in islice(records(rendering), start, start + most):
        is_right = rounds.is_as_written(record)
        if is_right is None:
            return None
        reads += 1
        if not is_right:
            words.append(f"{record.kind.name.lower()} {_shown(record.key)} is another")
    more = f" and {len(words) - _SHOWN_MAX} more" if len(words) > _SHOWN_MAX else ""
    return ReadBack(reads, len(words), ", ".join(words[:_SHOWN_MAX]) + more)


def _shown(key: bytes) -> str:
    return key.decode() if key.isascii() and key.decode().isprintable() else key.hex()
