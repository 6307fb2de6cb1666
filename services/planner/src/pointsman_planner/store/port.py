# SPDX-License-Identifier: Apache-2.0
"""What planners share, and how a repository reaches it: records in areas, changed atomically, told in a log.

An area is a set of records that one repository owns (`planners`, `nodes`, `overrides`, ...). A record is a key, a value
(bytes, JSON by custom), the version at which it was written, and perhaps a moment at which it ends. Time is the
store's own, so planners with wrong clocks agree. Each write raises the area's version by one, however many records it
brings, and, in an area that is followed, adds one entry to the log: readers that see versions without a gap have missed
nothing. The epoch of an area is a random text made with it: a store that was emptied or replaced has another.

Nothing on the path of an endpoint change calls any of this. Every method that asks the store may raise
`StoreUnavailableError` after a bounded time; callers keep what they have and go on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from pointsman_chassis.errors import UnavailableError

WRITES_MAX = 500
"""Writes of one commit, keys of one read: bounds how long the store is kept busy by one script."""
KEY_CHARACTERS_MAX = 512
VALUE_BYTES_MAX = 256 << 10
_AREA_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


class StoreUnavailableError(UnavailableError):
    """The store does not answer, not in time, or refuses; what it holds is unknown for now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A set of records that one repository owns."""

    name: str
    records_max: int
    """More are not kept: memory in the store is bounded."""
    evicts: bool = False
    """What happens then: True = the record that would end first makes room; False = the write is refused."""
    is_followed: bool = True
    """Whether writes are told in the log. False for what changes often and is read on demand only."""

    def __post_init__(self) -> None:
        """Refuse what would not make a key."""
        if _AREA_NAME.fullmatch(self.name) is None or self.records_max < 1:
            raise ValueError(f"area {self.name!r} of {self.records_max} records: the name or the bound is not usable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record as the store has it."""

    key: str
    value: bytes
    version: int
    """The area's version when it was written; grows with every change and never repeats, even if the store was lost."""
    expires_at: float | None = None
    """When it ends, in seconds on the reader's monotonic clock; None = never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One wish: a record to write, or to remove."""

    key: str
    value: bytes | None
    """None removes the record."""
    lives_seconds: float | None = None
    """The record ends after this time; None = never."""
    if_version: int | None = None
    """Only if the record has this version now; 0 = only if there is none; None = whatever there is."""

    def __post_init__(self) -> None:
        """Refuse what no store takes."""
        if not 0 < len(self.key) <= KEY_CHARACTERS_MAX:
            raise ValueError(f"key of {len(self.key)} characters: 1 to {KEY_CHARACTERS_MAX} are possible")
        if self.value is not None and len(self.value) > VALUE_BYTES_MAX:
            raise ValueError(f"{self.key}: {len(self.value)} bytes are more than the {VALUE_BYTES_MAX} of a value")
        if self.lives_seconds is not None and self.lives_seconds <= 0:
            raise ValueError(f"{self.key}: a record that lives for {self.lives_seconds} s would never be seen")


class OutcomeKind(IntEnum):
    """What became of a write."""

    WRITTEN = 1
    """It is in the store (or gone, for a removal)."""
    UNCHANGED = 2
    """The store had this value already (or nothing to remove); only its end was moved. Not told in the log."""
    CONFLICT = 3
    """`if_version` did not hold; `Outcome.record` is what stands there."""
    FULL = 4
    """The area has all the records it may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one write, and what stands there after it."""

    kind: OutcomeKind
    record: Record | None = None
    """None when there is nothing under this key now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where an area stands. An area that nobody has written yet has epoch "" and version 0."""

    epoch: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What became of a commit; `outcomes` are in the order of the writes, each independent of the others."""

    head: Head
    outcomes: tuple[Outcome, ...]
    evicted: tuple[str, ...] = ()
    """Keys of records that made room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Records of an area, read at one moment."""

    head: Head
    records: Mapping[str, Record] = field(default_factory=dict)
    cursor: int = 0
    """Of the next page; 0 = this was the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """Something was written."""

    id: str
    area: str
    """Empty for an entry that is none of ours."""
    epoch: str
    version: int
    """Of the area after the write."""
    keys: tuple[str, ...]


class Store(Protocol):
    """The port. `memory_store` and `redis_store` implement it, and one test suite holds for both."""

    @property
    def is_available(self) -> bool:
        """Whether reads and writes are known to work. Changes with hysteresis."""

    @property
    def last_error(self) -> str:
        """Why it does not work, for people; empty when it does, and before that is known."""

    async def heads(self, areas: Sequence[Area]) -> tuple[Head, ...]:
        """Where areas stand, each made if it is not there; records that ended are swept away on the way."""

    async def commit(self, area: Area, writes: Sequence[Write], *, version_floor: int = 0) -> Committed:
        """Write up to WRITES_MAX records in one atomic step.

        `version_floor` raises the area's version to at least this first, for a store that came back with an old one.
        """

    async def read(self, area: Area, keys: Sequence[str]) -> Records:
        """Up to WRITES_MAX records by key; what is not there is left out."""

    async def page(self, area: Area, cursor: int = 0) -> Records:
        """All records, some at a time; a record that stays all the while is in one page at least."""

    async def log_end(self) -> str:
        """Where the log ends now, to `follow` from."""

    async def follow(self, after: str) -> tuple[LogEntry, ...]:
        """Entries after this id, oldest first; empty when none came within about a second."""

    async def run(self) -> None:
        """Watch the store's health, for ever."""

    async def close(self) -> None:
        """Let go of connections."""


async def list_area(store: Store, area: Area) -> Records:
    """All records of an area, with the head of the first page: what was written since is told in the log."""
    first = await store.page(area)
    found = dict(first.records)
    cursor = first.cursor
    while cursor:
        page = await store.page(area, cursor)
        found.update(page.records)
        cursor = page.cursor
        if page.head.epoch != first.head.epoch:
            raise StoreUnavailableError(f"area {area.name} was replaced while it was read")
        if len(found) > area.records_max + WRITES_MAX:
            raise StoreUnavailableError(f"area {area.name} has more than its {area.records_max} records")
    return Records(head=first.head, records=found)
