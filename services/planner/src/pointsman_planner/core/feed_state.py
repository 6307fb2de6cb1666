# SPDX-License-Identifier: Apache-2.0
"""One WatchCluster stream as a state machine: messages in, complete batches out; no IO, no clock.

    opened(snapshot)  ->  deltas are collected  ->  in_sync: one batch with what differs from what is held
    opened(resume)    ->  each complete delta is a batch
    after in_sync     ->  each complete delta is a batch

A snapshot reaches the planner as its difference from what the planner holds, at once, when it is complete: a
reconnect never makes an object flap. A snapshot that would remove more than a share of all Services or slices is
held back until a second snapshot, from a new stream, says the same (mass-delete guard): an API server that lost its
data must not take the cluster's traffic with it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pointsman_model.cluster import Change, ClusterPosition, ObjectKey, ObjectKind
from pointsman_planner.core.cluster_state import ClusterState
from pointsman_planner.core.planner import Batch

_GUARDED = (ObjectKind.SERVICE, ObjectKind.ENDPOINT_SLICE)


class FeedProtocolError(Exception):
    """The watcher broke a rule of WatchCluster; the message says which."""


class SnapshotHeldError(Exception):
    """The mass-delete guard holds a snapshot back; the message says what it would have removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """When a snapshot is held back."""

    share: float = 0.5
    """Largest share of Services, or of slices, that one snapshot may remove unconfirmed."""
    minimum: int = 20
    """Removals below this number are never held: small clusters are rebuilt often."""


class MassDeleteGuard:
    """Remembers a held snapshot across streams; the second one in a row that removes as much is believed."""

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self.is_holding = False

    def check(self, cluster: ClusterState, removals: list[ObjectKey]) -> None:
        """Raise SnapshotHeldError when these removals must be confirmed first."""
        removed = Counter(key.kind for key in removals)
        held = {
            ObjectKind.SERVICE: len(cluster.services),
            ObjectKind.ENDPOINT_SLICE: sum(len(cluster.slices_of(key)) for key in cluster.services),
        }
        suspicious = [
            f"{removed[kind]} of {max(held[kind], removed[kind])} {kind.name.lower()} objects"
            for kind in _GUARDED
            if removed[kind] >= self._settings.minimum and removed[kind] > self._settings.share * held[kind]
        ]
        if suspicious and not self.is_holding:
            self.is_holding = True
            raise SnapshotHeldError(f"a snapshot would remove {' and '.join(suspicious)}; waiting for a second one")


class FeedState:
    """State of one stream. Make a new one for each connection, with the same cluster and guard."""

    def __init__(self, cluster: ClusterState, guard: MassDeleteGuard, resume: ClusterPosition | None) -> None:
        self._cluster = cluster
        self._guard = guard
        self._resume = resume
        self._epoch: str | None = None
        self._revision = 0
        self._snapshot: dict[ObjectKey, Change] | None = None
        self._parts: list[Change] = []
        self.is_in_sync = False

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

    def delta(self, revision: int, changes: list[Change], *, is_complete: bool) -> Batch | None:
        """A part of a delta; gives a batch when it completes one that may be applied now."""
        epoch = self._require_opened("delta")
        self._parts.extend(changes)
        if not is_complete:
            return None
        changes, self._parts = self._parts, []
        if self._snapshot is not None:
            for change in changes:
                self._snapshot[change.key] = change
            return None
        if revision < self._revision:
            raise FeedProtocolError(f"revision {revision} follows {self._revision}; revisions only grow")
        self._revision = revision
        return Batch(changes=tuple(changes), position=ClusterPosition(epoch=epoch, revision=revision))

    def in_sync(self, revision: int) -> Batch:
        """Everything up to the opening revision was sent; the batch makes the planner's view equal to it.

        Raises:
            SnapshotHeldError: the snapshot removes too much; reconnect to have it confirmed.
        """
        epoch = self._require_opened("in_sync")
        if self.is_in_sync or self._parts:
            raise FeedProtocolError("in_sync was sent twice, or within a delta")
        changes: tuple[Change, ...] = ()
        if self._snapshot is not None:
            changes = self._difference(self._snapshot)
            self._guard.check(self._cluster, [change.key for change in changes if change.value is None])
            self._snapshot = None
        self._guard.is_holding = False
        self.is_in_sync = True
        self._revision = max(self._revision, revision)
        return Batch(changes=changes, position=ClusterPosition(epoch=epoch, revision=self._revision))

    def _difference(self, snapshot: dict[ObjectKey, Change]) -> tuple[Change, ...]:
        changes = [change for change in snapshot.values() if change.value is not None]
        present = {change.key for change in changes}
        changes += [Change(key=key, value=None) for key, _ in self._cluster.objects() if key not in present]
        return tuple(changes)

    def _require_opened(self, what: str) -> str:
        if self._epoch is None:
            raise FeedProtocolError(f"{what} was sent before opened")
        return self._epoch
