# SPDX-License-Identifier: Apache-2.0
"""What one subscriber of WatchCluster is sent, and when: a sans-IO session over the object store.

    opening ---opened---> base ---(snapshot or missed changes), in_sync---> live ---delta, delta, ...

A subscriber is a set of dirty keys, never a queue of messages. `mark` notes that an object changed; `next_message`
takes all dirty keys as the next delta and sends the *newest* state of each, in parts below the message limit. A reader
that is slow thus gets fewer, later and always complete deltas, and costs at most one key per changed object. Keys that
become dirty while the parts of a delta are being sent wait for the next delta.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from pointsman_model.cluster import ClusterPosition, ObjectKey, ResourceVersions
from pointsman_watcher.core.frames import (
    DELTA_OVERHEAD_BYTES,
    change_frame,
    delta_response,
    in_sync_response,
    opened_response,
)
from pointsman_watcher.core.object_store import ObjectStore

MESSAGE_BYTES_MAX: Final = 1 << 20
"""Promised by the protocol: larger deltas are split."""


class Subscription:
    """One stream. The caller marks and asks; it owns no clock and does no IO."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        resume: ClusterPosition | None,
        heartbeat_interval_ms: int,
        pending_keys_max: int,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        self._store = store
        self._part_bytes_max = message_bytes_max - DELTA_OVERHEAD_BYTES
        self._pending_keys_max = pending_keys_max
        self._heartbeat_interval_ms = heartbeat_interval_ms
        missed = store.keys_since(resume.epoch, resume.revision) if resume else None
        self.is_resume = missed is not None
        self._opened_revision = store.revision
        self._opened_versions = store.resource_versions
        # Changes up to here are old news to this subscriber: their traces ended long ago and are not sent again.
        self._traced_after = resume.revision if resume and self.is_resume else store.revision
        base = list(store.present_keys()) if missed is None else missed
        self._dirty: dict[ObjectKey, None] = {}
        self._session = self._messages(base)
        self.conflated_count = 0
        """Changes that were merged into one that had not been sent yet."""

    @property
    def pending_count(self) -> int:
        """Dirty keys that wait for the next delta."""
        return len(self._dirty)

    @property
    def is_overrun(self) -> bool:
        """Whether more keys wait than allowed: the objects that exist plus a margin.

        Only an endless stream of new names that come and go while the reader stands still gets here; it must then
        start again with a snapshot.
        """
        return len(self._dirty) > self._pending_keys_max + len(self._store)

    def mark(self, keys: Iterable[ObjectKey]) -> list[ObjectKey]:
        """Note that these objects changed; returns those whose change before was not sent, and now never will be."""
        merged: list[ObjectKey] = []
        for key in keys:
            if key in self._dirty:
                merged.append(key)
            else:
                self._dirty[key] = None
        self.conflated_count += len(merged)
        return merged

    def next_message(self) -> bytes | None:
        """The next message to write, or None when the subscriber has everything. The first is always `opened`."""
        return next(self._session)

    def _messages(self, base: list[ObjectKey]) -> Iterator[bytes | None]:
        yield opened_response(
            epoch=self._store.epoch,
            revision=self._opened_revision,
            is_resume=self.is_resume,
            heartbeat_interval_ms=self._heartbeat_interval_ms,
        )
        yield from self._delta(base, self._opened_revision, self._opened_versions, with_removals=self.is_resume)
        del base
        yield in_sync_response(self._opened_revision, self._opened_versions)
        while True:
            if not self._dirty:
                yield None
                continue
            taken, self._dirty = self._dirty, {}
            # Taken together: what is read while the parts are sent is dirty again, and claimed by the next delta.
            revision, versions = self._store.revision, self._store.resource_versions
            yield from self._delta(list(taken), revision, versions, with_removals=True)

    def _delta(
        self, keys: list[ObjectKey], revision: int, versions: ResourceVersions, *, with_removals: bool
    ) -> Iterator[bytes]:
        """The parts of one delta, each built when it is asked for, from the state of that moment.

        That state may be newer than `revision` for a key that changed meanwhile; the key is dirty again then, so what
        follows is complete all the same. Only the snapshot leaves out what vanished meanwhile: the reader drops by
        itself what a snapshot does not name.
        """
        frames: list[bytes] = []
        size = 0
        for key in keys:
            if not with_removals and not self._store.is_present(key):
                continue
            frame = self._frame(key)
            if frames and size + len(frame) > self._part_bytes_max:
                yield delta_response(revision, frames, versions=None)
                frames, size = [], 0
            frames.append(frame)
            size += len(frame)
        if frames:
            yield delta_response(revision, frames, versions=versions)

    def _frame(self, key: ObjectKey) -> bytes:
        entry = self._store.entry(key)
        trace = entry.trace if entry.revision > self._traced_after else b""
        return change_frame(entry.body, entry.meta, trace)
