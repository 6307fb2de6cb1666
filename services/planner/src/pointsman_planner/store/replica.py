# SPDX-License-Identifier: Apache-2.0
"""A followed area as it stands in this process: equal to the store's within a moment, and outliving it.

The log says which keys changed; their records are read, and `on_change` is called with what is different. Versions that
do not follow each other, another epoch, or a store whose version is ahead of what the log told, all lead to the same:
the whole area is listed and compared. While the store is away the replica keeps what it has, and lets records end in
their time. A store that comes back empty, replaced or older than the replica is given what it lacks by every planner
alike: a record is written only where none of a later version stands, so the first one does it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping

from pointsman_planner.store.port import Area, Head, LogEntry, Record, Records, Write

STALE_MAX = 5_000
"""Changed keys that are read one by one; more, and the area is listed."""
_HELD_ENTRIES_MAX = 1_000

Changes = Mapping[str, Record | None]
"""Records by key; None = there is none any more."""


class Replica:
    """The state of one area's copy, without IO: `replicas.py` asks the store and tells it the answers."""

    def __init__(self, area: Area, on_change: Callable[[Changes], None], *, is_restored: bool = True) -> None:
        self.area = area
        self.is_restored = is_restored
        """Whether a store that lost its state is given back what this holds; otherwise this loses it too."""
        self._on_change = on_change
        self._records: dict[str, Record] = {}
        self._ends: list[tuple[float, str]] = []
        self._head = Head()
        self._stale: dict[str, int] = {}
        """Keys to read, with the version at which that became known."""
        self._held: list[LogEntry] | None = None
        """Entries that came while the area is listed."""
        self.is_loaded = False
        """Whether the area was listed once."""
        self.needs_listing = True

    @property
    def records(self) -> Mapping[str, Record]:
        """What the area holds, as far as is known here. Not to be changed by the caller."""
        return self._records

    @property
    def head(self) -> Head:
        """Up to where the log was followed."""
        return self._head

    @property
    def applied_version(self) -> int:
        """Up to where `records` is complete; 0 before the first listing."""
        if not self.is_loaded or self.needs_listing or self._held is not None:
            return 0
        return min(self._stale.values()) - 1 if self._stale else self._head.version

    @property
    def has_work(self) -> bool:
        """Whether the store must be asked."""
        return self.needs_listing or bool(self._stale)

    @property
    def stale_keys(self) -> tuple[str, ...]:
        """Keys whose records must be read."""
        return tuple(self._stale)

    def seed(self, head: Head, records: Iterable[Record]) -> None:
        """Begin with what an earlier process held, which had followed the log to `head`; call it first."""
        self._head = head
        self._put({record.key: record for record in records})

    # -- the log -----------------------------------------------------------------------------------------------------

    def take(self, entry: LogEntry) -> None:
        """An entry of this area's log."""
        if self._held is not None:
            self._held.append(entry)
            if len(self._held) > _HELD_ENTRIES_MAX:
                self._held.clear()
                self.needs_listing = True
            return
        if entry.epoch == self._head.epoch and entry.version <= self._head.version:
            return
        if entry.epoch != self._head.epoch or entry.version != self._head.version + 1:
            self.needs_listing = True
            return
        self._head = Head(epoch=entry.epoch, version=entry.version)
        self._stale.update(dict.fromkeys(entry.keys, entry.version))
        if len(self._stale) > STALE_MAX:
            self._stale.clear()
            self.needs_listing = True

    def agrees(self, head: Head) -> bool:
        """Whether the store is where the log led to."""
        return head == self._head

    def is_lost(self, head: Head) -> bool:
        """Whether the store is another one than was followed, or an older state of it."""
        return bool(self._head.epoch) and (head.epoch != self._head.epoch or head.version < self._head.version)

    # -- listing -----------------------------------------------------------------------------------------------------

    def begin_listing(self) -> None:
        """The area is about to be listed; what the log tells meanwhile is kept for afterwards."""
        self._held = []
        self.needs_listing = False

    def abandon_listing(self) -> None:
        """It could not be listed."""
        self._held = None
        self.needs_listing = True

    def restoration(self, listed: Records, now: float) -> tuple[list[Write], int]:
        """What a store that is lost lacks, and the version above which it must go on."""
        writes = []
        for key, record in self._records.items():
            theirs = listed.records.get(key)
            left = None if record.expires_at is None else record.expires_at - now
            if (theirs is None or theirs.version < record.version) and (left is None or left > 0):
                version = theirs.version if theirs is not None else 0
                writes.append(Write(key=key, value=record.value, lives_seconds=left, if_version=version))
        return writes, self._head.version

    def finish_listing(self, listed: Records) -> None:
        """The area is as listed, and as the log told since."""
        changes: dict[str, Record | None] = {key: None for key in self._records if key not in listed.records}
        changes.update(listed.records)
        self._stale.clear()
        self._head = listed.head
        self._put(changes)
        self.is_loaded = True
        held, self._held = self._held or [], None
        for entry in held:
            self.take(entry)

    # -- single records ----------------------------------------------------------------------------------------------

    def finish_reading(self, keys: Iterable[str], found: Records, head: Head) -> None:
        """These keys were read when the log had led to `head`."""
        asked = tuple(keys)
        self._put({key: found.records.get(key) for key in asked})
        for key in asked:
            if self._stale.get(key, 0) <= head.version:
                self._stale.pop(key, None)

    def ended(self, now: float) -> tuple[str, ...]:
        """Keys of records whose time is over, each told once."""
        keys = []
        while self._ends and self._ends[0][0] <= now:
            end, key = heapq.heappop(self._ends)
            record = self._records.get(key)
            if record is not None and record.expires_at == end:
                keys.append(key)
        return tuple(keys)

    def recheck(self, keys: Iterable[str]) -> None:
        """Read these again: somebody may have prolonged them."""
        self._stale.update(dict.fromkeys(keys, self._head.version))

    def forget(self, keys: Iterable[str]) -> None:
        """Let these end although the store cannot be asked."""
        self._put(dict.fromkeys(keys))

    def _put(self, changes: Changes) -> None:
        told: dict[str, Record | None] = {}
        for key, record in changes.items():
            known = self._records.get(key)
            if record is None:
                if self._records.pop(key, None) is not None:
                    told[key] = None
                continue
            self._records[key] = record
            if record.expires_at is not None and (known is None or known.expires_at != record.expires_at):
                heapq.heappush(self._ends, (record.expires_at, key))
            if known is None or (known.value, known.version) != (record.value, record.version):
                told[key] = record
        self._trim_ends()
        if told:
            self._on_change(told)

    def _trim_ends(self) -> None:
        """Prolonged records leave their former ends behind; they are thrown out before they outnumber the records."""
        if len(self._ends) > 2 * len(self._records) + 100:
            self._ends = [(r.expires_at, key) for key, r in self._records.items() if r.expires_at is not None]
            heapq.heapify(self._ends)
