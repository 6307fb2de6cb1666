# SPDX-License-Identifier: Apache-2.0
"""Keeps `plan.log` in the state directory equal to the plan held.

A change is appended (its own size, into the page cache), so a restarted process finds it; it is flushed to the disk
within a second, so a node that loses power loses at most that, and the planner's digests find what is missing. When the
log has grown to several times its snapshot, or a transaction is large, the whole file is written anew beside it and
moved into its place.

A disk that cannot be written is logged and counted, and the node goes on: the plan in the kernel does not depend on it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from pointsman_chassis.clock import Clock
from pointsman_enforcer.core.plan_log import LoadResult, encode_record, encode_snapshot, load
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Transaction

FILE_NAME: Final = "plan.log"
_COMPACT_BYTES_MIN: Final = 1 << 20
_COMPACT_FACTOR: Final = 3
_LARGE_TRANSACTION: Final = 1000
"""Services in a transaction from which on the file is rather written anew."""
_FLUSH_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 10.0


def load_plan(directory: Path) -> LoadResult:
    """Read the plan; an absent, unreadable or damaged file is what it is: less plan, and a line in the log."""
    path = directory / FILE_NAME
    log = structlog.get_logger("journal")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return load(b"")
    except OSError as error:
        log.warning("plan on disk cannot be read; waiting for a planner", path=str(path), error=str(error))
        return load(b"")
    result = load(data)
    if result.problem:
        log.warning(
            "plan on disk is damaged; using what is sound",
            path=str(path),
            problem=result.problem,
            services=len(result.store),
            lost_bytes=len(data) - result.good_bytes,
        )
    return result


def remove_plan(directory: Path) -> bool:
    """Delete the plan from the disk; whether there was one. Raises OSError."""
    found = False
    for name in (FILE_NAME, _temporary_name()):
        try:
            (directory / name).unlink()
            found = True
        except FileNotFoundError:
            continue
    return found


class PlanJournal:
    """Writes the log. `record` is cheap; the work happens in `run`, on the loop for small records, else in a thread."""

    def __init__(
        self,
        directory: Path,
        store: PlanStore,
        *,
        clock: Clock,
        on_failure: Callable[[], None] | None = None,
        on_durable: Callable[[int], None] | None = None,
    ) -> None:
        """`on_durable` hears how many of the transactions recorded so far would survive a loss of power."""
        self._path = directory / FILE_NAME
        self._store = store
        self._clock = clock
        self._on_failure = on_failure or (lambda: None)
        self._on_durable = on_durable or (lambda _: None)
        self._recorded = self._written = 0
        self._file: BinaryIO | None = None
        self._queue: list[Transaction] = []
        self._wake = asyncio.Event()
        self._must_rewrite = True
        self._rewriting: asyncio.Future[int] | None = None
        self._log_bytes = self._snapshot_bytes = 0

    def resume(self, loaded: LoadResult) -> None:
        """Go on with the file that was loaded, if it was sound; else the next write makes it anew."""
        self._must_rewrite = bool(loaded.problem)
        self._log_bytes = self._snapshot_bytes = loaded.good_bytes

    def record(self, transaction: Transaction) -> int:
        """The plan held has changed by this transaction, just now; its number, for `on_durable`.

        What is written is the digest that the plan has, which need not be the one that the planner meant: a record
        whose digest is not that of the plan would count as damage, and what came after it as lost.
        """
        if transaction.digest != self._store.digest:
            transaction = replace(transaction, digest=self._store.digest, in_sync=False)
        self._queue.append(transaction)
        if len(transaction.updates) + len(transaction.removals) > _LARGE_TRANSACTION or transaction.replaces_all:
            self._must_rewrite = True
        if self._must_rewrite:
            self._queue.clear()
        self._wake.set()
        self._recorded += 1
        return self._recorded

    async def run(self) -> None:
        """Write until cancelled: appends at once, flushes a moment after the first one that is not flushed."""
        loop = asyncio.get_running_loop()
        flush_at: float | None = None
        while True:
            try:
                try:
                    async with asyncio.timeout_at(flush_at):
                        await self._wake.wait()
                except TimeoutError:
                    flush_at = None
                    await self._flush()
                    continue
                self._wake.clear()
                await self._write()
                if flush_at is None:
                    flush_at = loop.time() + _FLUSH_SECONDS
            except OSError as error:
                self._failed(error)
                flush_at = None
                await self._clock.sleep(_RETRY_SECONDS)
                self._wake.set()

    async def close(self) -> None:
        """Write and flush what is left, if the disk lets us."""
        try:
            await self._finish_rewrite()
            if self._queue or (self._must_rewrite and len(self._store)):
                await self._write()
            if self._file is not None:
                os.fsync(self._file.fileno())
                self._file.close()
        except OSError as error:
            self._failed(error)

    async def _write(self) -> None:
        if self._must_rewrite or self._log_bytes > _COMPACT_FACTOR * max(self._snapshot_bytes, _COMPACT_BYTES_MIN):
            await self._rewrite()
            return
        queue, self._queue = self._queue, []
        data = b"".join([encode_record(transaction) for transaction in queue])
        if self._file is None:
            self._file = self._path.open("ab")
        self._file.write(data)
        self._file.flush()
        self._log_bytes += len(data)
        self._written = self._recorded

    async def _rewrite(self) -> None:
        """Write a snapshot of the plan as it is now; what is recorded meanwhile is appended afterwards."""
        self._queue.clear()
        self._must_rewrite = False
        snapshot, recorded = self._store.snapshot(), self._recorded
        if self._file is not None:
            self._file.close()
            self._file = None
        # Shielded: a thread cannot be cancelled, and two of them must never write the same file.
        self._rewriting = asyncio.ensure_future(asyncio.to_thread(_replace_file, self._path, snapshot))
        await self._finish_rewrite()
        self._written = recorded
        self._on_durable(recorded)
        if self._queue:
            await self._write()

    async def _finish_rewrite(self) -> None:
        """Wait for the file that is being written, if one is."""
        if self._rewriting is None:
            return
        try:
            self._log_bytes = self._snapshot_bytes = await asyncio.shield(self._rewriting)
        except OSError:
            self._rewriting, self._must_rewrite = None, True
            raise
        self._rewriting = None

    async def _flush(self) -> None:
        """Make durable what was appended."""
        if self._file is not None:
            await asyncio.to_thread(os.fsync, self._file.fileno())
            self._on_durable(self._written)

    def _failed(self, error: OSError) -> None:
        self._must_rewrite = True
        self._queue.clear()
        self._on_failure()
        structlog.get_logger("journal").error(
            "plan not written to disk; a restart will need a planner", path=str(self._path), error=str(error)
        )


def _replace_file(path: Path, snapshot: Transaction) -> int:
    """Write a whole new file beside the old one, make it durable, and put it in its place; returns its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary_name())
    size = 0
    with temporary.open("wb") as file:
        for piece in encode_snapshot(snapshot):
            size += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_directory(path.parent)
    return size


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary_name() -> str:
    return f"{FILE_NAME}.new"
