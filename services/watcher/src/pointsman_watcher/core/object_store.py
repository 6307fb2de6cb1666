# SPDX-License-Identifier: Apache-2.0
"""The current state of every object, as the bytes that subscribers are sent, and the revisions it went through.

One revision is one batch of real changes. A change is real when the normalised bytes differ from what is there: the
heartbeat of a node, a label that nobody reads, an event seen twice and a relist after a 410 all end here, and cost no
subscriber anything. Removed objects leave a tombstone for as long as the change log remembers their removal, so that
a reader who resumes gets the removal with its trace.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pointsman_model.cluster import ObjectKey, ObjectKind, ResourceVersions
from pointsman_model.wire.cluster import object_to_pb, serialize
from pointsman_watcher.core.change_log import ChangeLog
from pointsman_watcher.core.frames import encode_meta, encode_trace


class Entry(NamedTuple):
    """One object. body + meta (+ trace) is an encoded `pointsman.cluster.v1.Change`, in whatever order."""

    revision: int
    """Revision of its last real change."""
    body: bytes
    """The object, or its removal."""
    meta: bytes
    """resource_version and observed_at."""
    trace: bytes = b""
    """trace, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """An object as it is now; `body` None when it is gone."""

    key: ObjectKey
    body: bytes | None
    resource_version: str = ""
    observed_at_ns: int = 0
    traceparent: str = ""

    def traced(self, traceparent: str) -> "Update":
        """The same, with its trace. `dataclasses.replace` would cost four times as much, for every change."""
        return Update(
            key=self.key,
            body=self.body,
            resource_version=self.resource_version,
            observed_at_ns=self.observed_at_ns,
            traceparent=traceparent,
        )


class ObjectStore:
    """Owned by one writer; readers look between its calls."""

    def __init__(self, *, epoch: str, log_entries_max: int) -> None:
        self.epoch = epoch
        self.resource_versions = ResourceVersions()
        """How far the API server was read; the objects here are at least that new."""
        self._revision = 0
        self._current: dict[ObjectKey, Entry] = {}
        self._tombstones: dict[ObjectKey, Entry] = {}
        self._counts: Counter[ObjectKind] = Counter()
        self._log = ChangeLog(entries_max=log_entries_max)

    @property
    def revision(self) -> int:
        """The newest revision; 0 before the first change."""
        return self._revision

    def __len__(self) -> int:
        return len(self._current)

    def present_keys(self) -> Collection[ObjectKey]:
        """The objects that exist."""
        return self._current.keys()

    def count(self, kind: ObjectKind) -> int:
        """How many objects of a kind exist."""
        return self._counts[kind]

    def entry(self, key: ObjectKey) -> Entry:
        """The object's state or its removal; a key never heard of is a removal too."""
        found = self._current.get(key) or self._tombstones.get(key)
        return found or Entry(0, encode_removal(key), b"")

    def is_present(self, key: ObjectKey) -> bool:
        """Whether the object exists."""
        return key in self._current

    def real_changes(self, updates: Iterable[Update]) -> list[Update]:
        """The updates that change something, the last for each key, in order of first mention."""
        latest = {update.key: update for update in updates}
        return [update for update in latest.values() if self._differs(update)]

    def missing_from(self, kind: ObjectKind, listed: Collection[ObjectKey]) -> list[ObjectKey]:
        """The objects of a kind that a complete list no longer names."""
        return [key for key in self._current if key.kind is kind and key not in listed]

    def commit(self, changes: Collection[Update]) -> int:
        """Make real changes (see `real_changes`) the next revision and return it; without any, the present one."""
        if not changes:
            return self._revision
        self._revision += 1
        for change in changes:
            self._put(change)
        return self._revision

    def read_up_to(self, kind: ObjectKind, version: int) -> bool:
        """All of a kind was read up to this resourceVersion (0: unknown); says whether that is a step back.

        It is one when the API server was restored from a backup. What it says then is the truth all the same.
        """
        is_back = 0 < version < self.resource_versions.of(kind)
        self.resource_versions = self.resource_versions.having(kind, version)
        return is_back

    def keys_since(self, epoch: str, revision: int) -> list[ObjectKey] | None:
        """What changed after a position; None when the position is of another history or too long ago."""
        if epoch != self.epoch or revision > self._revision:
            return None
        return self._log.keys_since(revision)

    def _differs(self, update: Update) -> bool:
        present = self._current.get(update.key)
        return update.body != (present.body if present else None)

    def _put(self, change: Update) -> None:
        key = change.key
        meta = encode_meta(change.resource_version, change.observed_at_ns)
        trace = encode_trace(change.traceparent)
        if change.body is None:
            del self._current[key]
            self._counts[key.kind] -= 1
            self._tombstones[key] = Entry(self._revision, encode_removal(key), meta, trace)
        else:
            self._counts[key.kind] += key not in self._current
            self._tombstones.pop(key, None)
            self._current[key] = Entry(self._revision, change.body, meta, trace)
        dropped = self._log.append(self._revision, key)
        if dropped is not None:
            buried = self._tombstones.get(dropped.key)
            if buried is not None and buried.revision == dropped.revision:
                del self._tombstones[dropped.key]


def encode_removal(key: ObjectKey) -> bytes:
    """The encoded Change that says the object is gone."""
    return serialize(object_to_pb(key, None))
