# SPDX-License-Identifier: Apache-2.0
"""One WatchCluster stream as a state machine: messages in, complete batches out; no IO, no clock.

    opened(snapshot)  ->  deltas are collected  ->  in_sync: one batch with what differs from what is held
                                                    or, while the watcher has read less than that: catching up, the
                                                    snapshot grows with each delta until it is new enough
    opened(resume)    ->  each complete delta is a batch
    after in_sync     ->  each complete delta is a batch

A snapshot reaches the planner as its difference from what the planner holds, at once, when it is complete: a
reconnect never makes an object flap.

Mass-delete guard: a batch, from a snapshot or a delta, that would remove more than a share of all Services or slices
is held back. The stream ends, and every new one brings a snapshot; only what snapshots still say after the hold time is
believed. An API server that lost its data must not take the cluster's traffic with it before somebody could look.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pointsman_model.cluster import Change, ClusterPosition, ObjectKey, ObjectKind, ResourceVersions
from pointsman_planner.core.cluster_state import ClusterState
from pointsman_planner.core.freshness import Freshness, OlderWatcherError
from pointsman_planner.core.planner import Batch

_GUARDED = (ObjectKind.SERVICE, ObjectKind.ENDPOINT_SLICE)


class FeedProtocolError(Exception):
    """The watcher broke a rule of WatchCluster; the message says which."""


class MassDeleteHeldError(Exception):
    """The mass-delete guard holds a batch back; the message says what it would have removed, and for how long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """When a batch is held back, and for how long."""

    share: float = 0.5
    """Largest share of Services, or of slices, that one batch may remove at once."""
    minimum: int = 20
    """Removals below this number are never held: small clusters are rebuilt often."""
    hold_seconds: float = 60.0
    """How long the removals must go on being said before they are believed."""


class MassDeleteGuard:
    """Remembers, across streams, since when a mass deletion is held; anything else that comes instead ends the hold."""

    def __init__(self, settings: GuardSettings, *, now: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._now = now
        self._held_since: float | None = None

    @property
    def is_holding(self) -> bool:
        """Whether a mass deletion is held: the next stream must bring a snapshot."""
        return self._held_since is not None

    def check(self, cluster: ClusterState, removals: Sequence[ObjectKey]) -> None:
        """Let a batch with these removals pass, or hold it.

        Raises:
            MassDeleteHeldError: it removes too much, and the hold time is not over.
        """
        suspicious = self._suspicious(cluster, removals)
        if not suspicious:
            self._held_since = None
            return
        now = self._now()
        if self._held_since is None:
            self._held_since = now
        left = self._held_since + self._settings.hold_seconds - now
        if left > 0:
            raise MassDeleteHeldError(
                f"the watcher's state would remove {' and '.join(suspicious)}: held for {left:.0f} s more. If that is "
                "wrong, restore the API server's data; if it is right, wait or set massDeleteGuard.share to 1"
            )
        self._held_since = None

    def _suspicious(self, cluster: ClusterState, removals: Sequence[ObjectKey]) -> list[str]:
        if len(removals) < self._settings.minimum:
            return []
        removed = Counter(key.kind for key in removals)
        held = {
            ObjectKind.SERVICE: len(cluster.services),
            ObjectKind.ENDPOINT_SLICE: sum(len(cluster.slices_of(key)) for key in cluster.services),
        }
        return [
            f"{removed[kind]} of {max(held[kind], removed[kind])} {kind.name.lower()} objects"
            for kind in _GUARDED
            if removed[kind] >= self._settings.minimum and removed[kind] > self._settings.share * held[kind]
        ]


_UNKNOWN = ResourceVersions()


class FeedState:
    """State of one stream. Make a new one for each connection, with the same cluster, guard and freshness."""

    def __init__(
        self, cluster: ClusterState, guard: MassDeleteGuard, freshness: Freshness, resume: ClusterPosition | None
    ) -> None:
        self._cluster = cluster
        self._guard = guard
        self._freshness = freshness
        self._resume = resume
        self._epoch: str | None = None
        self._revision = 0
        self._versions = _UNKNOWN
        self._snapshot: dict[ObjectKey, Change] | None = None
        self._parts: list[Change] = []
        self._is_complete = False
        """The watcher sent everything; it is taken in when it is new enough."""
        self.is_in_sync = False

    @property
    def is_catching_up(self) -> bool:
        """Whether a complete snapshot waits until the watcher has read as much as what is held."""
        return self._is_complete and not self.is_in_sync

    def opened(self, epoch: str, *, is_snapshot: bool) -> None:
        """The first message of the stream."""
        if self._epoch is not None:
            raise FeedProtocolError("opened was sent twice")
        if not is_snapshot and (self._resume is None or self._resume.epoch != epoch):
            raise FeedProtocolError(f"the stream resumes epoch {epoch!r}, which was not asked for")
        self._epoch = epoch
        self._snapshot = {} if is_snapshot else None
        if not is_snapshot and self._resume is not None:
            self._revision = self._resume.revision

    def delta(
        self, revision: int, changes: list[Change], *, is_complete: bool, versions: ResourceVersions = _UNKNOWN
    ) -> Batch | None:
        """A part of a delta; gives a batch when it completes one that may be applied now.

        Raises:
            MassDeleteHeldError: it removes too much; reconnect for a snapshot.
            OlderWatcherError: it goes back behind what is held; reconnect, to another watcher if there is one.
        """
        self._require_opened("delta")
        self._parts.extend(changes)
        if not is_complete:
            return None
        changes, self._parts = self._parts, []
        if self._snapshot is not None:
            for change in changes:
                self._snapshot[change.key] = change
            if not self._is_complete:
                return None
            self._advance(revision, versions)
            return self.catch_up()
        if revision < self._revision:
            raise FeedProtocolError(f"revision {revision} follows {self._revision}; revisions only grow")
        return self._checked(tuple(changes), revision, versions)

    def in_sync(self, revision: int, versions: ResourceVersions = _UNKNOWN) -> Batch | None:
        """Everything up to the opening revision was sent; the batch makes the planner's view equal to it.

        None when the watcher has read less than what is held: `is_catching_up` then.

        Raises:
            MassDeleteHeldError: the snapshot removes too much; reconnect for another one.
            OlderWatcherError: the resumed stream goes back behind what is held.
        """
        self._require_opened("in_sync")
        if self._is_complete or self._parts:
            raise FeedProtocolError("in_sync was sent twice, or within a delta")
        self._is_complete = True
        if self._snapshot is not None:
            self._advance(revision, versions)
            return self.catch_up()
        batch = self._checked((), max(self._revision, revision), versions)
        self.is_in_sync = True
        return batch

    def heartbeat(self, revision: int, versions: ResourceVersions) -> Batch | None:
        """The watcher read further, perhaps without any change: a batch when that changes what is proved to be held."""
        if not self._is_complete or self._parts or revision != self._revision or versions == self._versions:
            return None
        if self.is_catching_up:
            self._versions = versions
            return self.catch_up()
        # An older server without a change of its own takes nothing away: only the clock starts.
        return self._batch((), revision, versions) if self._freshness.admits(versions) else None

    def catch_up(self) -> Batch | None:
        """The batch of a complete snapshot, if it may be taken in by now.

        Raises:
            MassDeleteHeldError: as `in_sync`.
        """
        if self._snapshot is None or not self._is_complete or not self._freshness.admits(self._versions):
            return None
        changes = self._difference(self._snapshot)
        self._guard.check(self._cluster, _removals(changes))
        self._snapshot = None
        self.is_in_sync = True
        return self._batch(changes, self._revision, self._versions)

    def older(self) -> OlderWatcherError:
        """What to say of a stream that does not catch up."""
        return OlderWatcherError(self._freshness.describe(self._versions))

    def _advance(self, revision: int, versions: ResourceVersions) -> None:
        self._revision = max(self._revision, revision)
        self._versions = versions

    def _checked(self, changes: tuple[Change, ...], revision: int, versions: ResourceVersions) -> Batch:
        if not self._freshness.admits(versions):
            raise OlderWatcherError(self._freshness.describe(versions))
        self._guard.check(self._cluster, _removals(changes))
        return self._batch(changes, revision, versions)

    def _batch(self, changes: tuple[Change, ...], revision: int, versions: ResourceVersions) -> Batch:
        self._advance(revision, versions)
        self._freshness.taken(changes, versions)
        position = ClusterPosition(epoch=self._epoch or "", revision=self._revision, resource_versions=self._versions)
        return Batch(changes=changes, position=position)

    def _difference(self, snapshot: dict[ObjectKey, Change]) -> tuple[Change, ...]:
        changes = [change for change in snapshot.values() if change.value is not None]
        present = {change.key for change in changes}
        changes += [Change(key=key, value=None) for key, _ in self._cluster.objects() if key not in present]
        return tuple(changes)

    def _require_opened(self, what: str) -> None:
        if self._epoch is None:
            raise FeedProtocolError(f"{what} was sent before opened")


def _removals(changes: Iterable[Change]) -> list[ObjectKey]:
    return [change.key for change in changes if change.value is None]
