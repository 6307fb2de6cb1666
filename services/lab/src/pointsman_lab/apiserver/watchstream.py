# SPDX-License-Identifier: Apache-2.0
"""One open watch: moves what its cursor sees to its connection, in whole lines, as soon as it is committed.

            store commits -> wake -> cursor.take -> lines -> connection
            nothing for a while -> BOOKMARK        timeoutSeconds -> clean end        compacted -> ERROR 410, end

There is no queue between the store and the connection; a client that reads slowly falls behind in the log.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver.encoding import encode_json, event_line
from pointsman_lab.apiserver.errors import ApiError
from pointsman_lab.apiserver.eventlog import ADDED, BOOKMARK, ERROR
from pointsman_lab.apiserver.watching import WatchCursor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pointsman_lab.apiserver.faults import Faults
    from pointsman_lab.apiserver.rendering import WatchRenderer
    from pointsman_lab.apiserver.resources import Resource
    from pointsman_lab.apiserver.stats import Stats
    from pointsman_lab.apiserver.store import ObjectStore
    from pointsman_lab.apiserver.watching import WatchOptions

_BATCH: Final = 512
_BOOKMARK_BEFORE_END_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTimes:
    """When a watch ends by itself and how often it proves to be alive, in seconds."""

    timeout: float
    bookmark_interval: float


class WatchStream:
    """A watch from its first event to its end; `run` writes through `send` until the watch is over."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        resource: Resource,
        options: WatchOptions,
        renderer: WatchRenderer,
        faults: Faults,
        stats: Stats,
        times: WatchTimes,
        send: Callable[[bytes], Awaitable[None]],
        abort: Callable[[], None],
    ) -> None:
        self._store = store
        self.resource = resource
        self._options = options
        self._renderer = renderer
        self._faults = faults
        self._stats = stats
        self._times = times
        self._send_bytes = send
        self._abort = abort
        self._wake = asyncio.Event()
        self._closing = False
        self._now = asyncio.get_running_loop().time

    def close(self, *, abrupt: bool = False) -> None:
        """End the watch: cleanly, or as a broken connection."""
        self._closing = True
        self._wake.set()
        if abrupt:
            self._abort()

    async def run(self) -> None:
        """Write the watch until its timeout, a fault, or a history that is compacted; a broken connection raises."""
        endings = [
            self._store.observe(self.resource, lambda _resource, _event: self._wake.set()),
            self._faults.on_change(self._wake.set),
        ]
        self._stats.open_watches[self.resource.plural] += 1
        try:
            cursor = WatchCursor(self._store.collection(self.resource), self._store.revision, self._options)
            await self._send_initial(cursor)
            await self._follow(cursor)
        except ApiError as error:
            await self._send([event_line(ERROR, encode_json(error.status))])
        finally:
            self._stats.open_watches[self.resource.plural] -= 1
            for end in endings:
                end()

    async def _send_initial(self, cursor: WatchCursor) -> None:
        for start in range(0, len(cursor.initial), _BATCH):
            chunk = cursor.initial[start : start + _BATCH]
            await self._send([self._renderer.initial(ADDED, stored) for stored in chunk])
        cursor.initial = ()
        if self._options.send_initial_events:
            mark = cursor.bookmark(cursor.position, end_of_initial_events=True)
            await self._send([self._renderer.bookmark(BOOKMARK, mark)])

    async def _follow(self, cursor: WatchCursor) -> None:
        end = self._now() + self._times.timeout
        next_bookmark = self._next_bookmark(end)
        while not self._closing and self._now() < end:
            self._wake.clear()
            wait_until = end
            if not self._faults.is_frozen(self.resource):
                position, delay = cursor.position, self._faults.delay_of(self.resource)
                seen = cursor.take(_BATCH, self._now() - delay if delay else None)
                if seen:
                    await self._send([self._renderer.change(kind, event) for kind, event in seen])
                if cursor.position != position:
                    continue
                ahead = cursor.next_commit_time() if delay else None
                if ahead is None and self._now() >= next_bookmark:
                    await self._bookmark(cursor)
                    next_bookmark = self._next_bookmark(end)
                wait_until = min(end, next_bookmark if ahead is None else ahead + delay)
            await self._sleep(wait_until)

    def _next_bookmark(self, end: float) -> float:
        """Give the time of the next bookmark: after the interval, and once shortly before the end."""
        following, last = self._now() + self._times.bookmark_interval, end - _BOOKMARK_BEFORE_END_SECONDS
        return last if self._now() < last < following else following

    async def _bookmark(self, cursor: WatchCursor) -> None:
        if self._options.bookmarks and cursor.position <= self._store.revision:
            mark = cursor.bookmark(self._store.revision)
            await self._send([self._renderer.bookmark(BOOKMARK, mark)])

    async def _sleep(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(max(until, self._now())):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _send(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        self._stats.watch_events[self.resource.plural] += len(lines)
        self._stats.watch_bytes[self.resource.plural] += len(data)
        await self._send_bytes(data)
