# SPDX-License-Identifier: Apache-2.0
"""The store port in this process: for a single planner, and for several in one test. Forgets everything at the end."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Sequence

from pointsman_chassis.clock import Clock, SystemClock
from pointsman_planner.store.port import (
    WRITES_MAX,
    Area,
    Committed,
    Head,
    LogEntry,
    Outcome,
    OutcomeKind,
    Record,
    Records,
    Write,
)

_FOLLOW_SECONDS = 1.0


class _AreaState:
    """One area's records, in order of writing."""

    __slots__ = ("epoch", "records", "version")

    def __init__(self) -> None:
        self.epoch = uuid.uuid4().hex
        self.version = time.time_ns() // 1000
        self.records: dict[str, Record] = {}

    @property
    def head(self) -> Head:
        return Head(epoch=self.epoch, version=self.version)

    def sweep(self, now: float) -> None:
        ended = [key for key, record in self.records.items() if not _lives(record, now)]
        for key in ended:
            del self.records[key]


def _lives(record: Record, now: float) -> bool:
    return record.expires_at is None or record.expires_at > now


class MemoryStore:
    """Implements `Store`; see the module."""

    is_available = True
    last_error = ""

    def __init__(self, *, clock: Clock | None = None, log_entries_max: int = 10_000) -> None:
        self._clock = clock or SystemClock()
        self._areas: dict[str, _AreaState] = {}
        self._log: deque[LogEntry] = deque(maxlen=log_entries_max)
        self._last_id = 0
        self._appended = asyncio.Event()

    async def heads(self, areas: Sequence[Area]) -> tuple[Head, ...]:
        """See `Store`."""
        now = self._clock.monotonic()
        for area in areas:
            self._state(area).sweep(now)
        return tuple(self._state(area).head for area in areas)

    async def commit(self, area: Area, writes: Sequence[Write], *, version_floor: int = 0) -> Committed:
        """See `Store`."""
        if len(writes) > WRITES_MAX:
            raise ValueError(f"{len(writes)} writes, at most {WRITES_MAX} fit a commit")
        state = self._state(area)
        state.sweep(self._clock.monotonic())
        version = max(state.version, version_floor) + 1
        evicted: list[str] = []
        outcomes = tuple(self._apply(area, state, write, version, evicted) for write in writes)
        changed = [
            write.key for write, outcome in zip(writes, outcomes, strict=True) if outcome.kind is OutcomeKind.WRITTEN
        ]
        if changed:
            state.version = version
            if area.is_followed:
                self._tell(area, state, (*evicted, *changed))
        return Committed(head=state.head, outcomes=outcomes, evicted=tuple(evicted))

    async def read(self, area: Area, keys: Sequence[str]) -> Records:
        """See `Store`."""
        if len(keys) > WRITES_MAX:
            raise ValueError(f"{len(keys)} keys, at most {WRITES_MAX} are read at once")
        state, now = self._areas.get(area.name), self._clock.monotonic()
        if state is None:
            return Records(head=Head())
        found = {key: state.records[key] for key in keys if key in state.records}
        return Records(head=state.head, records={key: each for key, each in found.items() if _lives(each, now)})

    async def page(self, area: Area, cursor: int = 0) -> Records:  # noqa: ARG002 - part of the port
        """See `Store`; one page holds everything, whatever the cursor."""
        state, now = self._areas.get(area.name), self._clock.monotonic()
        if state is None:
            return Records(head=Head())
        return Records(head=state.head, records={key: r for key, r in state.records.items() if _lives(r, now)})

    async def log_end(self) -> str:
        """See `Store`."""
        return str(self._last_id)

    async def follow(self, after: str) -> tuple[LogEntry, ...]:
        """See `Store`."""
        if int(after) >= self._last_id:
            appended = self._appended
            try:
                async with asyncio.timeout(_FOLLOW_SECONDS):
                    await appended.wait()
            except TimeoutError:
                return ()
        return tuple(entry for entry in self._log if int(entry.id) > int(after))

    async def run(self) -> None:
        """Nothing to watch."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing to let go of."""

    def lose(self) -> None:
        """Forget everything, as a Redis does that is restarted empty. For tests."""
        self._areas.clear()
        self._log.clear()

    def _state(self, area: Area) -> _AreaState:
        return self._areas.setdefault(area.name, _AreaState())

    def _apply(self, area: Area, state: _AreaState, write: Write, version: int, evicted: list[str]) -> Outcome:
        present = state.records.get(write.key)
        if write.if_version is not None and write.if_version != (present.version if present else 0):
            return Outcome(kind=OutcomeKind.CONFLICT, record=present)
        if write.value is None:
            if present is None:
                return Outcome(kind=OutcomeKind.UNCHANGED)
            del state.records[write.key]
            return Outcome(kind=OutcomeKind.WRITTEN)
        if present is None and not _make_room(area, state, evicted):
            return Outcome(kind=OutcomeKind.FULL)
        is_same = present is not None and present.value == write.value
        record = state.records[write.key] = Record(
            key=write.key,
            value=write.value,
            version=present.version if present is not None and is_same else version,
            expires_at=None if write.lives_seconds is None else self._clock.monotonic() + write.lives_seconds,
        )
        return Outcome(kind=OutcomeKind.UNCHANGED if is_same else OutcomeKind.WRITTEN, record=record)

    def _tell(self, area: Area, state: _AreaState, keys: tuple[str, ...]) -> None:
        self._last_id += 1
        entry = LogEntry(id=str(self._last_id), area=area.name, epoch=state.epoch, version=state.version, keys=keys)
        self._log.append(entry)
        appended, self._appended = self._appended, asyncio.Event()
        appended.set()


def _make_room(area: Area, state: _AreaState, evicted: list[str]) -> bool:
    """Whether one more record has its place."""
    if len(state.records) < area.records_max:
        return True
    ending = [record for record in state.records.values() if record.expires_at is not None] if area.evicts else []
    if not ending:
        return False
    first = min(ending, key=lambda record: record.expires_at or 0.0)
    del state.records[first.key]
    evicted.append(first.key)
    return len(state.records) < area.records_max
