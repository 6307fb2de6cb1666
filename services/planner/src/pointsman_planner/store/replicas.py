# SPDX-License-Identifier: Apache-2.0
"""Keeps the replicas of followed areas equal to the store: one reader of the log, one check a second, one worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from pointsman_chassis.backoff import Backoff
from pointsman_chassis.clock import Clock, SystemClock
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.store.port import WRITES_MAX, Area, Records, Store, StoreUnavailableError, list_area
from pointsman_planner.store.replica import Changes, Replica

_CHECK_SECONDS = 1.0
_ENDS_SECONDS = 0.2
_LOAD_POLL_SECONDS = 0.05
_RESTORES_MAX = 3


class Replicas:
    """All replicas of one planner. `add` them, then `run`."""

    def __init__(
        self, *, store: Store, metrics: StoreMetrics, clock: Clock | None = None, check_seconds: float = _CHECK_SECONDS
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._check_seconds = check_seconds
        self._replicas: dict[str, Replica] = {}
        self._behind_at: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._must_find_end = True

    def add(self, area: Area, on_change: Callable[[Changes], None], *, is_restored: bool = True) -> Replica:
        """A replica of a followed area; `on_change` is called in the loop with what is different and must not raise."""
        if not area.is_followed or area.name in self._replicas:
            raise ValueError(f"area {area.name} is not followed, or has a replica already")
        replica = self._replicas[area.name] = Replica(area, on_change, is_restored=is_restored)
        return replica

    async def loaded(self, timeout_seconds: float) -> bool:
        """Whether every replica was listed once, waiting at most so long, and not for a store known to be away."""
        is_over = asyncio.get_running_loop().time() + timeout_seconds

        def are_loaded() -> bool:
            return all(each.is_loaded for each in self._replicas.values())

        while not await self._until(are_loaded, _LOAD_POLL_SECONDS):
            is_away = bool(self._store.last_error) and not self._store.is_available
            if is_away or asyncio.get_running_loop().time() >= is_over:
                return False
        return True

    async def reached(self, replica: Replica, version: int, timeout_seconds: float) -> bool:
        """Whether the replica has what was written at this version, waiting for it at most so long."""
        return await self._until(lambda: replica.applied_version >= version, timeout_seconds)

    async def run(self) -> None:
        """Follow the store, for ever."""
        if not self._replicas:
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._check())
            tasks.create_task(self._end())
            tasks.create_task(self._work())

    async def _until(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        try:
            async with asyncio.timeout(timeout_seconds):
                while not condition():
                    progress = self._progress
                    await progress.wait()
        except TimeoutError:
            return False
        return True

    async def _follow(self) -> None:
        """Read the log. A new start lists everything after it has found where the log ends, so nothing is between."""
        after = ""
        backoff = Backoff(initial_seconds=0.1, maximum_seconds=2.0)
        while True:
            try:
                if self._must_find_end:
                    after = await self._store.log_end()
                    self._must_find_end = False
                    self._list_all()
                entries = await self._store.follow(after)
            except StoreUnavailableError:
                await self._clock.sleep(backoff.next_seconds())
                continue
            backoff.reset()
            for entry in entries:
                after = entry.id
                replica = self._replicas.get(entry.area)
                if replica is not None:
                    replica.take(entry)
            if entries:
                self._wake.set()

    def _list_all(self) -> None:
        for replica in self._replicas.values():
            replica.needs_listing = True
        self._wake.set()

    async def _check(self) -> None:
        """Ask where the areas stand: the log is quick, and this is true."""
        replicas = list(self._replicas.values())
        while True:
            await self._clock.sleep(self._check_seconds)
            try:
                heads = await self._store.heads([replica.area for replica in replicas])
            except StoreUnavailableError:
                continue
            for replica, head in zip(replicas, heads, strict=True):
                if replica.agrees(head) or not replica.is_loaded:
                    self._behind_at.pop(replica.area.name, None)
                elif replica.is_lost(head) or self._behind_at.get(replica.area.name) == replica.head.version:
                    # Lost, or the log has told nothing new although the store is ahead of it since the last check.
                    self._behind_at.pop(replica.area.name, None)
                    self._must_find_end = replica.needs_listing = True
                    self._wake.set()
                else:
                    self._behind_at[replica.area.name] = replica.head.version

    async def _end(self) -> None:
        """Let records end in their time."""
        while True:
            await self._clock.sleep(_ENDS_SECONDS)
            now = self._clock.monotonic()
            for replica in self._replicas.values():
                keys = replica.ended(now)
                if keys and self._store.is_available:
                    replica.recheck(keys)
                    self._wake.set()
                elif keys:
                    replica.forget(keys)

    async def _work(self) -> None:
        backoff = Backoff(initial_seconds=0.1, maximum_seconds=2.0)
        while True:
            await self._wake.wait()
            self._wake.clear()
            for replica in self._replicas.values():
                try:
                    await self._update(replica)
                except StoreUnavailableError:
                    self._forget_ended(replica)
                    await self._clock.sleep(backoff.next_seconds())
                    self._wake.set()
                else:
                    backoff.reset()
            progress, self._progress = self._progress, asyncio.Event()
            progress.set()

    def _forget_ended(self, replica: Replica) -> None:
        """Records whose time was over when the store stopped answering."""
        now = self._clock.monotonic()
        held = (replica.records.get(key) for key in replica.stale_keys)
        replica.forget(each.key for each in list(held) if each and each.expires_at and each.expires_at <= now)

    async def _update(self, replica: Replica) -> None:
        """One step; what is left waits for the next turn, so that no area holds up another."""
        if replica.needs_listing:
            await self._list(replica)
        elif replica.stale_keys:
            keys, head = replica.stale_keys[:WRITES_MAX], replica.head
            found = await self._store.read(replica.area, keys)
            if found.head.epoch == head.epoch:
                replica.finish_reading(keys, found, head)
            else:
                replica.needs_listing = True
        if replica.has_work:
            self._wake.set()

    async def _list(self, replica: Replica) -> None:
        replica.begin_listing()
        try:
            listed = await self._whole(replica)
        except BaseException:
            replica.abandon_listing()
            raise
        replica.finish_listing(listed)

    async def _whole(self, replica: Replica) -> Records:
        """The area as it stands, once it was given back what it lacks; it may be lost again in the meantime."""
        restored = ""
        for _ in range(_RESTORES_MAX):
            await self._store.heads([replica.area])
            listed = await list_area(self._store, replica.area)
            is_lost = replica.is_restored and replica.is_lost(listed.head)
            if not is_lost or listed.head.epoch == restored:
                return listed
            restored = await self._restore(replica, listed)
        raise StoreUnavailableError(f"area {replica.area.name} was lost again and again while it was rebuilt")

    async def _restore(self, replica: Replica, listed: Records) -> str:
        """Give a lost store what it lacks; the others do the same, and a record that stands already is left alone.

        Returns the epoch that has everything now; none when the area was lost meanwhile.
        """
        self._metrics.rebuilds.labels(replica.area.name).inc()
        log = structlog.get_logger("store")
        log.warning("shared state was emptied, replaced or set back; it is rebuilt", area=replica.area.name)
        writes, floor = replica.restoration(listed, self._clock.monotonic())
        for start in range(0, len(writes), WRITES_MAX):
            batch = writes[start : start + WRITES_MAX]
            done = await self._store.commit(replica.area, batch, version_floor=floor)
            if done.head.epoch != listed.head.epoch:
                return ""
        log.info("shared state is rebuilt", area=replica.area.name, records=len(writes))
        return listed.head.epoch
