# SPDX-License-Identifier: Apache-2.0
"""Hands every change of the overrides in force to whom it concerns: the planner, readers of the API, the file on disk.

    OverrideStore (replica of the store, ends its records in time) --> OverrideFeed --> planner, subscriptions, file

Planning and reading use memory, so a store that is away changes nothing: overrides stay in force until they expire,
and expire all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Final

from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import SlowConsumerError
from pointsman_planner.core.override import KIND_NAMES, Override, OverrideChange, OverrideKey
from pointsman_planner.core.override_rules import OVERRIDES_MAX
from pointsman_planner.override_metrics import OverrideMetrics
from pointsman_planner.store.override_store import OverrideChanges, StoredOverride

WATCHES_MAX: Final = 256
PENDING_MAX: Final = 2 * OVERRIDES_MAX
"""Of one reader: all there may be, and as many that are gone. Names may come and go while it reads nothing."""


class Ending(Enum):
    """Why an override is gone."""

    DELETED = "deleted"
    EXPIRED = "expired"
    LOST = "lost"


class Subscription:
    """What a reader has not taken yet: the newest state of each override that changed, up to PENDING_MAX."""

    def __init__(self) -> None:
        self._is_behind = False
        self._pending: dict[OverrideKey, tuple[Override, Ending | None]] = {}
        self._wake = asyncio.Event()

    def tell(self, override: Override, ending: Ending | None) -> None:
        """An override is new or changed, or is gone."""
        if self._is_behind:
            return
        self._pending.pop(override.key, None)
        self._pending[override.key] = (override, ending)
        if len(self._pending) > PENDING_MAX:
            self._is_behind, self._pending = True, {}
        self._wake.set()

    async def take(self) -> Sequence[tuple[Override, Ending | None]]:
        """Wait for changes and take them, oldest first.

        Raises:
            SlowConsumerError: there were more than are kept.
        """
        await self._wake.wait()
        if self._is_behind:
            raise SlowConsumerError(f"{PENDING_MAX} overrides changed and were not read; begin anew")
        self._wake.clear()
        found, self._pending = self._pending, {}
        return tuple(found.values())


class OverrideFeed:
    """Overrides in force, and who is told of them. `take` is the `on_change` of an OverrideStore."""

    def __init__(
        self,
        *,
        clock: Clock,
        on_change: Callable[[Sequence[OverrideChange]], object],
        metrics: OverrideMetrics,
        epoch: Callable[[], str],
        on_taken: Callable[[], None] | None = None,
    ) -> None:
        """Tell `on_change` what planning must know, and `on_taken` that anything changed.

        `epoch` names the history that what is taken in belongs to: what another one lacks was lost, not deleted.
        """
        self._clock = clock
        self._on_change = on_change
        self._on_taken = on_taken
        self._metrics = metrics
        self._epoch_now = epoch
        self._epoch = ""
        self._held: dict[OverrideKey, StoredOverride] = {}
        self._subscriptions: set[Subscription] = set()
        self._count()

    @property
    def held(self) -> Mapping[OverrideKey, StoredOverride]:
        """Every override in force. Not to be changed by the caller."""
        return self._held

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Be told of every change from now on.

        Raises:
            SlowConsumerError: as many are told as may be.
        """
        if len(self._subscriptions) >= WATCHES_MAX:
            raise SlowConsumerError(f"this planner serves {WATCHES_MAX} watches of overrides, as many as it may")
        subscription = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def take(self, told: OverrideChanges) -> None:
        """Take in what is different; a renewal is told to readers and changes no plan."""
        epoch = self._epoch_now()
        is_other, self._epoch = self._epoch not in {"", epoch}, epoch
        now_ns = self._clock.wall_ns()
        changes: list[OverrideChange] = []
        for key, stored in told.items():
            before = self._held.get(key)
            if stored is None:
                if before is not None:
                    del self._held[key]
                    self._end(before, is_other=is_other)
                    changes.append(OverrideChange(key, None, "", now_ns))
                continue
            self._held[key] = stored
            self._tell(stored.override, None)
            if before is None or before.override.etag != stored.override.etag:
                changes.append(OverrideChange(key, stored.override, stored.traceparent, now_ns))
        if self._on_taken is not None:
            self._on_taken()
        if changes:
            self._count()
            self._on_change(changes)

    def _count(self) -> None:
        kinds = [each.override.kind_name for each in self._held.values()]
        for kind in KIND_NAMES:
            self._metrics.active.labels(kind).set(kinds.count(kind))

    def _end(self, before: StoredOverride, *, is_other: bool) -> None:
        ending = Ending.LOST if is_other else Ending.DELETED
        if before.ends_at is not None and before.ends_at <= self._clock.monotonic():
            ending = Ending.EXPIRED
        self._metrics.ended.labels(ending.value).inc()
        self._tell(before.override, ending)

    def _tell(self, override: Override, ending: Ending | None) -> None:
        for subscription in self._subscriptions:
            subscription.tell(override, ending)
