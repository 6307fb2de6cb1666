# SPDX-License-Identifier: Apache-2.0
"""Looks at the kernel's memory of clients, and gives back what somebody else took from it.

What the last look saw is kept, packed. A table that is made anew gets it back; so does a memory that was emptied, less
whoever has connected since. What a look sees counts only if nobody else touched the memory meanwhile: otherwise one
that runs just after a flush would take everybody for forgotten. Three things make that certain: what the monitor has
heard is asked before and after; a turn of the kernel's commit lock between, because somebody else's commit is visible a
moment before it is announced; and a number that every repair of ours counts up.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final, TypeAlias

from pointsman_chassis.clock import Clock
from pointsman_enforcer.dataplane.affinity import LOOK_CLIENTS_MAX, AffinityClient, Look
from pointsman_enforcer.dataplane.base import KernelError
from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.affinity_memory import SECOND_MS, Remembered, clients_of, seeds_of
from pointsman_enforcer.dataplane.nftables.apply import TABLES
from pointsman_enforcer.dataplane.nftables.drift import Monitor
from pointsman_enforcer.dataplane.nftables.elements import Timed, add_timed, delete_keys
from pointsman_enforcer.dataplane.nftables.errors import NetlinkError
from pointsman_enforcer.dataplane.nftables.kernel import NftKernel
from pointsman_enforcer.dataplane.nftables.message import Batch, Family
from pointsman_enforcer.dataplane.nftables.notifications import Touched
from pointsman_model.plan import ServicePlan

_CLIENTS_PER_BATCH: Final = 500
_LEFT_OUT: Final = (errno.EEXIST, errno.EBUSY, errno.ENFILE)
"""A client that is remembered already, with the same endpoint or another; the memory is full."""
_Seeds: TypeAlias = Sequence[tuple[Family, Timed]]


class AffinityKeeper:
    """Implements `dataplane.affinity.AffinityMemory` on the map `affinity`."""

    def __init__(
        self, *, kernel: NftKernel, monitor: Monitor | None, clock: Clock, is_wanted: Callable[[], bool]
    ) -> None:
        """Without `monitor`, nobody else is expected to touch the memory."""
        self._nft = kernel
        self._monitor = monitor
        self._clock = clock
        self._is_wanted = is_wanted
        self._changed: Callable[[], None] = lambda: None
        self._memory: Mapping[Family, Remembered] = {}
        self._looked_at = 0.0
        self._repairs = 0
        self._reading = asyncio.Lock()
        """One dump at a time: a look and a repair may both want one."""

    @property
    def is_wanted(self) -> bool:
        """See `AffinityMemory`."""
        return self._is_wanted()

    def watch(self, changed: Callable[[], None]) -> None:
        """See `AffinityMemory`."""
        self._changed = changed

    def changed(self) -> None:
        """Picks were programmed."""
        self._changed()

    async def look(self) -> Look | None:
        """See `AffinityMemory`."""
        repairs = self._repairs
        if self._is_disturbed():
            return None
        started, passed_ms = self._clock.monotonic(), self._passed_ms()
        memory = {family: await self._read(family, self._memory.get(family), passed_ms) for family in Family}
        await asyncio.to_thread(self._nft.settle)
        if self._is_disturbed() or self._repairs != repairs:
            return None
        self._memory, self._looked_at = memory, started
        return Look(
            clients=sum(each.count for each in memory.values()),
            is_whole=all(each.count < LOOK_CLIENTS_MAX for each in memory.values()),
        )

    def clients(self, plan: ServicePlan, rendering: bytes) -> Iterator[AffinityClient]:
        """See `AffinityMemory`."""
        return clients_of(plan, rendering, self._memory, self._passed_ms())

    async def seed(self, plan: ServicePlan, rendering: bytes, clients: Sequence[AffinityClient]) -> int:
        """See `AffinityMemory`."""
        unknown, lasting = await asyncio.to_thread(self._sorted, list(seeds_of(plan, rendering, clients)))
        return await self._add(unknown) + await self._prolong(lasting)

    @contextmanager
    def repairing(self) -> Iterator[None]:
        """While the tables are put right, what a look sees is not what is remembered."""
        self._repairs += 1
        try:
            yield
        finally:
            self._repairs += 1

    async def give_back(self, family: Family, ports: Iterable[bytes] | None = None) -> int:
        """Make a table just made remember the clients of these ports (`ID:0`), or of all; how many there were.

        Raises:
            KernelError: refused.
        """
        found = self._memory.get(family)
        if found is None:
            return 0
        elements = found.elements(found.ports() if ports is None else ports, self._passed_ms())
        return await self._add((family, each) for each in elements)

    async def restore(self, families: Iterable[Family]) -> int:
        """Give back to memories that were touched whoever is missing in them; how many that were.

        Raises:
            KernelError: they could not be read, or refused.
        """
        missing = 0
        for family in families:
            known = self._memory.get(family)
            if known is None or not known.ports():
                continue
            found = await self._read(family)
            missing += await self._add((family, each) for each in known.without(found, self._passed_ms()))
        return missing

    def _passed_ms(self) -> int:
        return round((self._clock.monotonic() - self._looked_at) * SECOND_MS)

    def _sorted(self, seeds: Sequence[tuple[Family, Timed]]) -> tuple[_Seeds, _Seeds]:
        """Those whom the kernel does not know, and those who would be forgotten earlier.

        Asking for one costs 10 us, a transaction refused for one 10 ms.
        """
        unknown, lasting = [], []
        for family, each in seeds:
            found = self._nft.get_element(TABLES[family], layout.AFFINITY, each[0])
            if found is None:
                unknown.append((family, each))
            elif found.data == each[1] and found.expiration_ms + SECOND_MS < each[3]:
                lasting.append((family, each))
        return unknown, lasting

    async def _prolong(self, elements: _Seeds) -> int:
        """Have clients remembered for longer, whom the kernel knows with this endpoint; how many that were.

        Older kernels change no time, so an element is replaced with itself in one transaction: no packet sees it gone.
        A client that was forgotten in this moment, or connected, fails the transaction of its batch at worst; those of
        it are tried one by one. One who connected is remembered for longer anyhow, soon or at the next report.
        """
        prolonged = 0
        for start in range(0, len(elements), _CLIENTS_PER_BATCH):
            some = elements[start : start + _CLIENTS_PER_BATCH]
            if await self._replace(some):
                prolonged += len(some)
            elif len(some) > 1:
                for each in some:
                    prolonged += await self._replace([each])
        return prolonged

    async def _replace(self, elements: _Seeds) -> bool:
        """Whether the kernel took it; it does not when one of them is not there any more."""
        messages = []
        for family in Family:
            chosen = [each for of, each in elements if of is family]
            messages += delete_keys(TABLES[family], layout.AFFINITY, [each[0] for each in chosen])
            messages += add_timed(TABLES[family], layout.AFFINITY, chosen)
        try:
            await self._nft.commit(Batch(messages))
        except NetlinkError as error:
            if not error.reasons or not set(error.reasons.values()) <= {errno.ENOENT, *_LEFT_OUT}:
                raise KernelError(f"remembering clients: {error}", outcome_known=error.outcome_known) from error
            return False
        return True

    async def _read(self, family: Family, before: Remembered | None = None, passed_ms: int = 0) -> Remembered:
        found = Remembered(family)

        def read() -> None:
            for elements in self._nft.read_timed(TABLES[family], layout.AFFINITY, LOOK_CLIENTS_MAX):
                found.include(elements)
            if before is not None:
                found.carry(before, passed_ms)

        try:
            async with self._reading:
                await asyncio.to_thread(read)
        except (NetlinkError, OSError) as error:
            raise KernelError(f"reading the memory of clients: {error}") from error
        return found

    def _is_disturbed(self) -> bool:
        return self._monitor is not None and is_touched(self._monitor.peek(), Family)

    async def _add(self, elements: Iterable[tuple[Family, Timed]]) -> int:
        """Add who is not there yet and has room; how many were added.

        One message for many, unless one of them is refused: then one for each, and those refused are left out.

        Raises:
            KernelError: refused for another reason.
        """
        waiting = iter(elements)
        added = 0
        while some := list(islice(waiting, _CLIENTS_PER_BATCH)):
            together = [
                message
                for family in Family
                for message in add_timed(TABLES[family], layout.AFFINITY, [each for of, each in some if of is family])
            ]
            try:
                await self._nft.commit(Batch(together))
                added += len(some)
            except NetlinkError as error:
                _only_left_out(error)
                added += await self._add_singly(some)
        return added

    async def _add_singly(self, elements: Iterable[tuple[Family, Timed]]) -> int:
        batch = [each for family, one in elements for each in add_timed(TABLES[family], layout.AFFINITY, [one])]
        while batch:
            try:
                await self._nft.commit(Batch(batch))
            except NetlinkError as error:
                _only_left_out(error)
                batch = [each for index, each in enumerate(batch) if index not in error.reasons]
            else:
                break
        return len(batch)


def _only_left_out(error: NetlinkError) -> None:
    """Go on if nothing is wrong but that some clients cannot be taken."""
    if not error.reasons or not set(error.reasons.values()) <= set(_LEFT_OUT):
        raise KernelError(f"remembering clients: {error}", outcome_known=error.outcome_known) from error


def is_touched(touched: Touched, families: Iterable[Family]) -> bool:
    """Whether somebody else may have taken clients from the memory of one of these families."""
    return touched.is_lost or any(
        family in touched.deleted or (family, layout.AFFINITY.name) in touched.sets for family in families
    )
