# SPDX-License-Identifier: Apache-2.0
"""Overrides on disk, so that a planner that restarts has them before it can ask a store, or without any.

The file says which history it is of: if the store is still the same one, what the store has counts; if not, the file is
what the planner remembers of the one that is gone. A file that cannot be read is set aside, never overwritten.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from pointsman_chassis.clock import Clock
from pointsman_planner.store.override_store import StoredOverride, decode, encode
from pointsman_planner.store.port import Head

_FLUSH_SECONDS = 0.2
_BYTES_MAX = 64 << 20


class _Kept(msgspec.Struct, frozen=True):
    version: int
    value: msgspec.Raw


class _Document(msgspec.Struct, frozen=True):
    epoch: str
    version: int
    overrides: list[_Kept]


Source = Callable[[], tuple[Head, Sequence[StoredOverride]]]


class OverrideFile:
    """One file; the only writer of it."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._changed = asyncio.Event()

    def read(self, clock: Clock) -> tuple[Head, tuple[StoredOverride, ...]]:
        """What was kept and has not expired; nothing when there is no file, or none that can be read."""
        try:
            if self._path.stat().st_size > _BYTES_MAX:
                raise ValueError(f"more than {_BYTES_MAX} bytes")
            document = msgspec.json.decode(self._path.read_bytes(), type=_Document)
        except FileNotFoundError:
            return Head(), ()
        except (OSError, ValueError, RecursionError) as error:
            self._set_aside(error)
            return Head(), ()
        found = (_restored(each, clock) for each in document.overrides)
        head = Head(epoch=document.epoch, version=document.version)
        return head, tuple(each for each in found if each is not None)

    def mark(self) -> None:
        """Something changed."""
        self._changed.set()

    async def keep(self, source: Source) -> None:
        """Write what `source` gives some time after each change, and at the end; for ever."""
        writing: asyncio.Future[None] | None = None
        try:
            while True:
                await self._changed.wait()
                await asyncio.sleep(_FLUSH_SECONDS)
                self._changed.clear()
                writing = asyncio.ensure_future(asyncio.to_thread(self._write, *source()))
                await asyncio.shield(writing)
        finally:
            if writing is not None:
                await writing  # two writers at once would spoil the file
            if self._changed.is_set():
                self._write(*source())

    def _write(self, head: Head, overrides: Sequence[StoredOverride]) -> None:
        kept = [
            _Kept(each.version, msgspec.Raw(encode(each.override, each.traceparent)))
            for each in sorted(overrides, key=lambda each: each.override.key)
        ]
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            with new.open("wb") as file:
                file.write(msgspec.json.encode(_Document(head.epoch, head.version, kept)))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            structlog.get_logger("overrides").error(
                "overrides cannot be kept on disk; they are lost if this planner and its store restart",
                path=str(self._path),
                error=str(error),
            )

    def _set_aside(self, error: Exception) -> None:
        aside = self._path.with_name(f"{self._path.name}.unreadable")
        with contextlib.suppress(OSError):
            self._path.replace(aside)
        structlog.get_logger("overrides").error(
            "the file of overrides cannot be read and is set aside; overrides begin with what the store has",
            path=str(self._path),
            aside=str(aside),
            error=str(error)[:200],
        )


def _restored(kept: _Kept, clock: Clock) -> StoredOverride | None:
    try:
        override, traceparent = decode(bytes(kept.value))
    except (ValueError, RecursionError) as error:
        structlog.get_logger("overrides").warning("an override on disk is left out", error=str(error)[:200])
        return None
    ends_at = None
    if override.ttl_ns:
        left = (override.expires_ns - clock.wall_ns()) / 1e9
        if left <= 0:
            return None
        ends_at = clock.monotonic() + min(left, override.ttl_ns / 1e9)
    return StoredOverride(override=override, version=kept.version, ends_at=ends_at, traceparent=traceparent)
