# SPDX-License-Identifier: Apache-2.0
"""The kernel's memory of clients as sets, one for each endpoint: read, told in the words of plans, and added to.

Whoever was seen by the last look, has time left and is in no set any more was taken out by somebody else, as rules move
clients from set to set and never only out of one: the next look puts them back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pointsman_chassis.clock import Clock
from pointsman_enforcer.dataplane.affinity import LOOK_CLIENTS_MAX, AffinityClient, Look
from pointsman_enforcer.dataplane.base import KernelError
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.iptables import layout
from pointsman_enforcer.dataplane.xtables.ipset import IpsetReader
from pointsman_enforcer.dataplane.xtables.tools import Tools
from pointsman_model.names import Family, format_address
from pointsman_model.plan import ServicePlan, ServicePortPlan

Clients = Mapping[bytes, int]
"""Seconds left by client."""
SECOND_MS: Final = 1000
_MARGIN_SECONDS: Final = 2
"""Whoever has no more than this left may have been forgotten in the meantime."""


class _Seed(NamedTuple):
    """A client to be remembered: in which set, and for how long."""

    name: str
    client: bytes
    seconds: int

    @property
    def line(self) -> str:
        return f"add {self.name} {format_address(self.client)} timeout {self.seconds}"


class SetMemory:
    """Implements `dataplane.affinity.AffinityMemory`."""

    def __init__(self, tools: Tools, clock: Clock, names: Callable[[], set[str]]) -> None:
        """`names` gives the sets of clients that are programmed."""
        self._tools = tools
        self._clock = clock
        self._names = names
        self._reader = tools.inside(IpsetReader)
        self._changed: Callable[[], None] = lambda: None
        self._seen: dict[str, Clients] = {}
        self._looked_at = 0.0
        self._writing = asyncio.Lock()

    @property
    def is_wanted(self) -> bool:
        """See `AffinityMemory`."""
        return bool(self._names())

    def watch(self, changed: Callable[[], None]) -> None:
        """See `AffinityMemory`."""
        self._changed = changed

    def changed(self) -> None:
        """Sets came or went."""
        self._changed()

    def close(self) -> None:
        """Close the socket."""
        self._reader.close()

    async def look(self) -> Look | None:
        """See `AffinityMemory`."""
        async with self._writing:
            started, passed = self._clock.monotonic(), self._passed_seconds()
            found, is_whole = await self._read(sorted(self._names()))
            lost = set(_lost(self._seen, found, passed)) if is_whole else set()
            if lost:  # or they moved while their sets were being read: who is lost, is so in a second read as well
                found, is_whole = await self._read(sorted(self._names()))
                lost &= set(_lost(self._seen, found, passed))
                await self._write(seed.line for seed in lost)
                for seed in lost:
                    found[seed.name] = {**found[seed.name], seed.client: seed.seconds}
            self._seen, self._looked_at = found, started
        return Look(clients=sum(map(len, found.values())), is_whole=is_whole)

    def clients(self, plan: ServicePlan, _rendering: bytes) -> Iterator[AffinityClient]:
        """See `AffinityMemory`. Endpoints are asked in the order of the rules, so the first that knows a client counts.

        The first endpoint is drawn by lot here, so no client is where another node would send it for certain.
        """
        passed = self._passed_seconds()
        for port in plan.ports:
            known: set[bytes] = set()
            for name, endpoint in _sets_of(port).items():
                for client, seconds in self._seen.get(name, {}).items():
                    if seconds > passed and client not in known:
                        known.add(client)
                        left_ms = round((seconds - passed) * SECOND_MS)
                        yield AffinityClient(port.name, port.protocol, client, endpoint, left_ms)

    async def seed(self, plan: ServicePlan, _rendering: bytes, clients: Sequence[AffinityClient]) -> int:
        """See `AffinityMemory`."""
        taken = 0
        for port in plan.ports:
            mine = [
                each
                for each in clients
                if (each.name, each.protocol, len(each.client)) == (port.name, port.protocol, port.family.address_bytes)
            ]
            if mine and plan.affinity_timeout_seconds:
                async with self._writing:
                    taken += await self._seed_port(_sets_of(port), mine, plan.affinity_timeout_seconds)
        return taken

    async def _seed_port(
        self, sets: Mapping[str, tuple[bytes, int]], clients: Sequence[AffinityClient], seconds: int
    ) -> int:
        """Add who is in no set of the port, or for longer to the same one.

        A client may connect between reading and adding: it is taken out again then, as what it drew itself counts.
        """
        names = {endpoint: name for name, endpoint in sets.items() if name in self._names()}
        known = _places(await self._read_all(names.values()))
        seeds = []
        for each in clients:
            name, left = names.get(each.endpoint), min(round(each.left_ms / SECOND_MS), seconds)
            held = known.get(each.client, {})
            if name is None or left <= 0 or (held and held.get(name, left) + 1 >= left):
                continue
            seeds.append(_Seed(name, each.client, left))
        await self._write(seed.line for seed in seeds)
        twice = await self._in_another(seeds, known, names.values())
        await self._write(f"del {seed.name} {format_address(seed.client)}" for seed in twice)
        return len(seeds) - len(twice)

    async def _in_another(
        self, seeds: Sequence[_Seed], known: Mapping[bytes, Clients | Mapping[str, int]], names: Iterable[str]
    ) -> list[_Seed]:
        new = [seed for seed in seeds if seed.client not in known]
        if not new:
            return []
        now = _places(await self._read_all(names))
        return [seed for seed in new if len(now.get(seed.client, {})) > 1]

    async def _read_all(self, names: Iterable[str]) -> dict[str, Clients]:
        return (await self._read(sorted(names)))[0]

    async def _read(self, names: Sequence[str]) -> tuple[dict[str, Clients], bool]:
        """Clients of these sets, and whether that is all of them."""

        def read() -> tuple[dict[str, Clients], bool]:
            found: dict[str, Clients] = {}
            left = dict.fromkeys(Family, LOOK_CLIENTS_MAX)
            for name in names:
                family = layout.memory_family(name)
                if left[family] > 0:
                    found[name] = dict(self._reader.addresses(name, family))
                    left[family] -= len(found[name])
            return found, min(left.values()) > 0

        try:
            return await asyncio.wrap_future(self._tools.look(read))
        except (OSError, ValueError) as error:
            raise KernelError(f"reading the memory of clients: {error}") from error

    async def _write(self, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        if not text:
            return
        try:
            await self._tools.ipset(text)
        except CommandError as error:
            raise KernelError(f"remembering clients: {error}") from error

    def _passed_seconds(self) -> float:
        return self._clock.monotonic() - self._looked_at


def _sets_of(port: ServicePortPlan) -> dict[str, tuple[bytes, int]]:
    """The endpoint of each set of a port, in the order of the rules."""
    if not port.frontends:
        return {}
    first = port.frontends[0]
    key = layout.frontend_key(first.address, port.protocol, first.port)
    return {
        layout.memory_name(port.family, key, each.address + each.port.to_bytes(2)): (each.address, each.port)
        for endpoints in port.endpoint_sets
        for each in endpoints
    }


def _places(found: Mapping[str, Clients]) -> dict[bytes, dict[str, int]]:
    """In which sets each client is, and for how long."""
    places: dict[bytes, dict[str, int]] = {}
    for name, clients in found.items():
        for client, seconds in clients.items():
            places.setdefault(client, {})[name] = seconds
    return places


def _lost(before: Mapping[str, Clients], now: Mapping[str, Clients], passed: float) -> Iterator[_Seed]:
    """Who was there, has time left, and was not seen to move to another set since."""
    moved = {client for name, clients in now.items() for client in clients if client not in before.get(name, {})}
    for name in before.keys() & now.keys():
        for client, seconds in before[name].items():
            left = seconds - passed
            if left > _MARGIN_SECONDS and client not in now[name] and client not in moved:
                yield _Seed(name, client, int(left))
