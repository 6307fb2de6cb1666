# SPDX-License-Identifier: Apache-2.0
"""What readers of a watch have not been told yet: a set of keys each, never a queue; and how one comes back.

    ChangeLog.mark(keys)   -> every reader's set of dirty keys, and the newest change of each key for whoever comes back
    ChangeLog.open(token)  -> a Reader that begins with all keys, or with those that changed after the token
    Reader.take()          -> the keys to send now, and the token that stands for having sent them

A log that nobody reads keeps nothing: until the first reader comes, and some time after the last one has gone.

A key is all that is kept; what is sent is the newest state when it is sent. So a slow reader costs a set that is
bounded by what there is, and gets fewer, later and complete changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pointsman_model.cluster import ObjectKey

ENTRIES_MAX = 200_000
"""Keys whose newest change is remembered; about 150 bytes each. Who is further behind gets a snapshot."""
UNREAD_MARKS_MAX = 10_000
"""Changes without any reader after which nobody is expected to come back."""
PENDING_MAX = 250_000
"""Dirty keys of one reader, more than any cluster has: only names that come and go while it stands still get here."""


class Taken(NamedTuple):
    """Keys to send, and where the reader is when it has them."""

    keys: Sequence[ObjectKey]
    token: str


class Reader:
    """One watch. The caller sends what `take` gives, and waits to be woken when that is nothing."""

    def __init__(
        self, log: ChangeLog, base: Iterable[ObjectKey], *, is_resume: bool, wake: Callable[[], None], pending_max: int
    ) -> None:
        self.is_resume = is_resume
        self._log = log
        self._pending_max = pending_max
        self._dirty: dict[ObjectKey, None] = dict.fromkeys(base)
        self._wake = wake
        self.is_overrun = False
        """Whether more changed than may wait: it has to begin anew."""

    @property
    def pending_count(self) -> int:
        """Keys that wait to be sent."""
        return len(self._dirty)

    def mark(self, keys: Iterable[ObjectKey]) -> None:
        """These changed."""
        if not self.is_overrun:
            self._dirty.update(dict.fromkeys(keys))
        if len(self._dirty) > self._pending_max:
            self.is_overrun = True
            self._dirty = {}
        self._wake()

    def take(self) -> Taken:
        """All that is dirty; it is not any more, and becomes so again if it changes while it is being sent."""
        taken, self._dirty = self._dirty, {}
        return Taken(tuple(taken), self._log.token)

    def close(self) -> None:
        """The watch is over."""
        self._log.forget(self)


class ChangeLog:
    """Changes of one kind of thing in one planner process; `epoch` is unlike that of any other process."""

    def __init__(self, *, epoch: str, entries_max: int = ENTRIES_MAX, pending_max: int = PENDING_MAX) -> None:
        self._epoch = epoch
        self._entries_max = entries_max
        self._pending_max = pending_max
        self._sequence = 0
        self._floor = 0
        """Who has seen up to here has missed nothing."""
        self._newest: OrderedDict[ObjectKey, int] = OrderedDict()
        self._readers: set[Reader] = set()
        self._unread_marks = UNREAD_MARKS_MAX

    @property
    def token(self) -> str:
        """Stands for everything that was marked up to now."""
        return f"{self._epoch}.{self._sequence}"

    @property
    def reader_count(self) -> int:
        """Watches that are open."""
        return len(self._readers)

    @property
    def is_followed(self) -> bool:
        """Whether somebody reads, or may come back; otherwise there is no need to call `mark`."""
        return bool(self._readers) or self._unread_marks < UNREAD_MARKS_MAX

    def mark(self, keys: Iterable[ObjectKey]) -> None:
        """These things may have changed."""
        marked = tuple(keys)
        if not marked or not self.is_followed:
            return
        self._sequence += 1
        self._unread_marks = 0 if self._readers else self._unread_marks + 1
        if not self.is_followed:
            self._newest.clear()
            self._floor = self._sequence
            return
        for key in marked:
            self._newest[key] = self._sequence
            self._newest.move_to_end(key)
        while len(self._newest) > self._entries_max:
            _, self._floor = self._newest.popitem(last=False)
        for reader in self._readers:
            reader.mark(marked)

    def open(self, token: str, everything: Iterable[ObjectKey], wake: Callable[[], None]) -> Reader:
        """A reader that has seen up to `token`, or nothing when that is empty, of another process, or too long ago."""
        missed = self._since(token)
        base = everything if missed is None else missed
        reader = Reader(self, base, is_resume=missed is not None, wake=wake, pending_max=self._pending_max)
        self._readers.add(reader)
        self._unread_marks = 0
        return reader

    def forget(self, reader: Reader) -> None:
        """A reader is gone."""
        self._readers.discard(reader)

    def _since(self, token: str) -> list[ObjectKey] | None:
        epoch, _, number = token.rpartition(".")
        if epoch != self._epoch or not (number.isascii() and number.isdigit() and len(number) < 20):
            return None
        sequence = int(number)
        if not self._floor <= sequence <= self._sequence:
            return None
        missed: list[ObjectKey] = []
        for key, changed in reversed(self._newest.items()):
            if changed <= sequence:
                break
            missed.append(key)
        missed.reverse()
        return missed
