# SPDX-License-Identifier: Apache-2.0
"""Membership by lease: each planner that is in sync writes a record that ends unless renewed, and reads the others'.

The lease is counted by the store, so clocks of planners do not matter. A change of membership is told in the log, and
read at once; the rest is found at the next renewal.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

import msgspec
import structlog

from pointsman_chassis.backoff import Backoff
from pointsman_chassis.clock import Clock
from pointsman_planner.core.membership import Membership
from pointsman_planner.core.ownership import Member
from pointsman_planner.metrics import ShardingMetrics, StoreMetrics
from pointsman_planner.store.hostile_values import HostileValues
from pointsman_planner.store.port import Area, Record, Store, StoreUnavailableError, Write, list_area
from pointsman_planner.store.replica import Changes
from pointsman_planner.store.replicas import Replicas

_RENEWALS_PER_LEASE = 3
_TEXT_MAX = 512
_ADDRESS = re.compile(r"[A-Za-z0-9._\-\[\]:%]{1,300}:([0-9]{1,5})")
_LEAVE_SECONDS = 1.0
PLANNERS = Area(name="planners", records_max=1_000)


class MemberStore:
    """The repository of planners, and this planner's own record in it."""

    def __init__(
        self,
        *,
        planner_id: str,
        store: Store,
        replicas: Replicas,
        lease_seconds: float,
        clock: Clock,
        metrics: ShardingMetrics,
        store_metrics: StoreMetrics,
        on_change: Callable[[tuple[Member, ...]], None],
    ) -> None:
        self._planner_id = planner_id
        self._own: Member | None = None
        self._store = store
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._metrics = metrics
        self._hostile = HostileValues(store_metrics)
        self._on_change = on_change
        self._membership = Membership(lease_seconds=lease_seconds)
        self._joined_version = 0
        self._wake = asyncio.Event()
        # Only a hint: who lives is read from the store, since a replica lets records end while the store is away.
        replicas.add(PLANNERS, self._hear)

    @property
    def members(self) -> tuple[Member, ...]:
        """The planners that serve, as far as is known; frozen while the store is away."""
        return self._membership.members

    @property
    def is_frozen(self) -> bool:
        """Whether the store is away for so long that nobody knows who lives."""
        return self._membership.is_frozen(self._clock.monotonic())

    def join(self, own: Member) -> None:
        """This planner is in sync: others may send nodes to it."""
        self._own = own
        self._wake.set()

    async def drain(self) -> None:
        """This planner is going away: no node belongs to it any more. Returns when that is known, or cannot be."""
        if self._own is not None:
            self._own = replace(self._own, is_draining=True)
            with suppress(StoreUnavailableError):
                await self.refresh()

    async def run(self) -> None:
        """Renew the lease and read the members, for ever."""
        interval = self._lease_seconds / _RENEWALS_PER_LEASE
        backoff = Backoff(initial_seconds=interval / 8, maximum_seconds=interval)
        while True:
            self._wake.clear()
            try:
                await self.refresh()
            except StoreUnavailableError:
                await self._clock.sleep(backoff.next_seconds())
            else:
                backoff.reset()
                await self._pause(interval)
            self._metrics.membership_frozen.set(int(self.is_frozen))

    async def leave(self) -> None:
        """Give the lease back, if that is possible at once."""
        if self._own is None:
            return
        self._own = None
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._store.commit(PLANNERS, [Write(key=self._planner_id, value=None)])
        except (StoreUnavailableError, TimeoutError):
            structlog.get_logger("membership").warning("the lease could not be given back; it ends by itself")

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def refresh(self) -> None:
        """Renew the lease and read the members once; StoreUnavailableError when that cannot be done."""
        if self._own is not None:
            value = msgspec.json.encode(self._own)
            own = Write(key=self._planner_id, value=value, lives_seconds=self._lease_seconds)
            done = await self._store.commit(PLANNERS, [own])
            self._joined_version = self._joined_version or done.head.version
        listed = await list_area(self._store, PLANNERS)
        found = tuple(self._valid(listed.records.values()))
        if self._membership.take(found, epoch=listed.head.epoch, now=self._clock.monotonic()):
            self._metrics.members.set(len(self.members))
            structlog.get_logger("membership").info(
                "planners",
                members=[member.planner_id for member in self.members if not member.is_draining],
                draining=[member.planner_id for member in self.members if member.is_draining],
            )
            self._on_change(self.members)

    def _valid(self, records: Iterable[Record]) -> Iterator[Member]:
        for record in records:
            member = self._hostile.decoded(PLANNERS, record, Member)
            if member is None:
                continue
            if member.planner_id == record.key and _is_address(member.address) and len(member.instance_id) <= _TEXT_MAX:
                yield member
            else:
                self._hostile.leave_out(PLANNERS, record.key, ValueError("no planner can have this id or address"))

    def _hear(self, changes: Changes) -> None:
        """The log told of a planner. Two processes of one id would take the nodes from each other."""
        record, own = changes.get(self._planner_id), self._own
        if record is not None and own is not None and 0 < self._joined_version < record.version:
            other = self._hostile.decoded(PLANNERS, record, Member)
            if other is not None and other.instance_id != own.instance_id:
                structlog.get_logger("membership").error(
                    "another planner has the same plannerID; each needs its own", planner=self._planner_id
                )
        self._wake.set()


def _is_address(text: str) -> bool:
    found = _ADDRESS.fullmatch(text)
    return found is not None and 0 < int(found[1]) < 1 << 16
