# SPDX-License-Identifier: Apache-2.0
"""Which object changed at which revision, as far back as memory allows: what makes a reconnect cheap."""

from collections import deque
from typing import NamedTuple

from pointsman_model.cluster import ObjectKey


class LoggedChange(NamedTuple):
    """One entry."""

    revision: int
    key: ObjectKey


class ChangeLog:
    """A bounded ring of changes in the order of their revisions. It holds keys only; the state is in the store."""

    def __init__(self, *, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: deque[LoggedChange] = deque()
        self._floor = 0

    @property
    def floor(self) -> int:
        """The newest revision of which an entry was dropped: a reader at or above it has missed nothing."""
        return self._floor

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, revision: int, key: ObjectKey) -> LoggedChange | None:
        """Add the newest change; returns the entry that fell out for it, if any."""
        self._entries.append(LoggedChange(revision, key))
        if len(self._entries) <= self._entries_max:
            return None
        dropped = self._entries.popleft()
        self._floor = dropped.revision
        return dropped

    def keys_since(self, revision: int) -> list[ObjectKey] | None:
        """The keys that changed after `revision`, each once, oldest change first; None when that is not known."""
        if revision < self._floor:
            return None
        found: dict[ObjectKey, None] = {}
        for entry in reversed(self._entries):
            if entry.revision <= revision:
                break
            found[entry.key] = None
        return list(reversed(found))
