# SPDX-License-Identifier: Apache-2.0
"""Which failures the planner of one stream knows of. Pure.

A failure is told when it is new to *this* planner, whoever was told of it before: a node that moved to another planner,
or whose report was lost with a sync that was not finished, still says why. A transaction that names a service makes a
planner forget why it was refused; so with the answer to it, it is told anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pointsman_enforcer.core.transaction import Stage, Transaction
from pointsman_model.digest import bucket_of
from pointsman_model.names import ServiceKey

_UNANSWERED_MAX: Final = 16
"""A planner has two transactions unanswered at most; what one that ignores this has sent counts as answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A service that could not be programmed."""

    key: ServiceKey
    stage: Stage
    message: str


class News(NamedTuple):
    """What a planner is to be told."""

    failures: list[Failure]
    recovered: list[ServiceKey]
    """Failures that it was told of and that are none any more."""


class _Named(NamedTuple):
    """The services that a transaction names."""

    nonce: int
    keys: frozenset[ServiceKey]
    buckets: frozenset[int]
    is_all: bool


class ToldFailures:
    """One for each stream. Bounded by the failures that there are."""

    def __init__(self) -> None:
        self._told: dict[ServiceKey, Stage] = {}
        self._unanswered: deque[_Named] = deque()

    def committed(self, transaction: Transaction) -> None:
        """The planner has sent this."""
        keys = frozenset((*transaction.updates, *transaction.removals))
        buckets = frozenset(transaction.replaced_buckets)
        self._unanswered.append(_Named(transaction.nonce, keys, buckets, transaction.replaces_all))
        if len(self._unanswered) > _UNANSWERED_MAX:
            self._forget(self._unanswered.popleft())

    def news(self, nonce: int, failures: Sequence[Failure]) -> News:
        """What to say with the answer to transaction `nonce`, 0 if it is none, when these are all failures there are.

        What it says counts as told.
        """
        while self._unanswered and self._unanswered[0].nonce <= nonce:
            self._forget(self._unanswered.popleft())
        if not (failures or self._told):
            return News([], [])
        before, self._told = self._told, {each.key: each.stage for each in failures}
        return News(
            [each for each in failures if before.get(each.key) is not each.stage],
            [key for key in before if key not in self._told],
        )

    def _forget(self, named: _Named) -> None:
        if not self._told:
            return
        if named.is_all:
            self._told = {}
        for key in [key for key in self._told if key in named.keys or bucket_of(key) in named.buckets]:
            del self._told[key]
