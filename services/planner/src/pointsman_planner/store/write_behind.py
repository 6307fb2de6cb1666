# SPDX-License-Identifier: Apache-2.0
"""Writes that nobody waits for: the newest value of each key is kept until the store has taken it.

A store that is slow or gone therefore costs one value for each key, up to a bound, and delays nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from pointsman_chassis.backoff import Backoff
from pointsman_planner.store.port import WRITES_MAX, StoreUnavailableError

_FLUSH_SECONDS = 0.1
_LAST_FLUSH_SECONDS = 1.0
_T = TypeVar("_T")


class WriteBehind(Generic[_T]):
    """Batches values and hands them to `write`, which may raise StoreUnavailableError: then they are kept."""

    def __init__(
        self,
        *,
        write: Callable[[Mapping[str, _T]], Awaitable[None]],
        keys_max: int,
        on_dropped: Callable[[], None],
        flush_seconds: float = _FLUSH_SECONDS,
    ) -> None:
        self._write = write
        self._keys_max = keys_max
        self._on_dropped = on_dropped
        self._flush_seconds = flush_seconds
        self._pending: dict[str, _T] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, key: str) -> bool:
        return key in self._pending

    def __getitem__(self, key: str) -> _T:
        return self._pending[key]

    def put(self, key: str, value: _T) -> None:
        """Keep the newest value of a key until it is written; more keys than fit are left out and counted."""
        if key not in self._pending and len(self._pending) >= self._keys_max:
            self._on_dropped()
            return
        self._pending[key] = value
        self._wake.set()

    async def run(self) -> None:
        """Write what was put, for ever."""
        backoff = Backoff(initial_seconds=0.1, maximum_seconds=2.0)
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._flush_seconds)
            self._wake.clear()
            try:
                while self._pending:
                    await self._write_some()
            except StoreUnavailableError:
                await asyncio.sleep(backoff.next_seconds())
                self._wake.set()
            else:
                backoff.reset()

    async def close(self) -> None:
        """One last attempt, of bounded length."""
        try:
            async with asyncio.timeout(_LAST_FLUSH_SECONDS):
                while self._pending:
                    await self._write_some()
        except (StoreUnavailableError, TimeoutError):
            return

    async def _write_some(self) -> None:
        # Taken off first: a value that comes during the write is newer and is written next.
        batch = {key: self._pending.pop(key) for key in list(self._pending)[:WRITES_MAX]}
        try:
            await self._write(batch)
        except BaseException:
            self._pending = batch | self._pending
            raise
