# SPDX-License-Identifier: Apache-2.0
"""Session affinity between nodes: takes what nodes report to the store, and tells the nodes here what the store has.

    reported --usable?--> AffinityStore --log--> AffinityStore of each planner --changed--> SeedLog --> nodes here

Both ways go through the store, also between two nodes of one planner: it alone decides whose word was first. A node
that has programmed its first transaction is told from the beginning of the log; then what changes, as fast as it reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from pointsman_chassis.clock import Clock
from pointsman_model.names import ServiceKey
from pointsman_model.remembered import ClientKey, RememberedClient
from pointsman_model.wire.remembered import ENTRIES_SENT_MAX
from pointsman_planner.affinity_metrics import AffinityMetrics
from pointsman_planner.api.plan_stream import PlanStream
from pointsman_planner.core import framing
from pointsman_planner.core.affinity import SeedLog, Usable, place_of, usable_endpoints
from pointsman_planner.core.planner import Planner
from pointsman_planner.store.affinity_store import AffinityStore, Endpoint

AFFINITY = "affinity"
"""Capability of an enforcer that takes the message of this name."""
_WAITING_MAX = 2
"""Messages that wait on a stream before it gets no more of ours."""
_GATHER_SECONDS = 0.01
_BUSY_SECONDS = 0.02
_IDLE_SECONDS = 0.25
"""How soon a stream that has become ready is noticed."""


class Streams(Protocol):
    """What is read of `PlanService`."""

    @property
    def streams(self) -> Mapping[str, PlanStream]:
        """Open streams by node."""


class AffinityDesk:
    """Owns who was told what. `records` is set once by whoever makes both."""

    def __init__(self, *, planner: Planner, streams: Streams, metrics: AffinityMetrics, clock: Clock) -> None:
        self._planner = planner
        self._streams = streams
        self._metrics = metrics
        self._clock = clock
        self._log = SeedLog()
        self._wake = asyncio.Event()
        self._possible: dict[ServiceKey, Usable] = {}
        """What `_usable` found, until the service changes."""
        self.records: AffinityStore

    def is_usable(self, key: ClientKey, endpoint: Endpoint) -> bool:
        """Whether new connections of this client may get this endpoint, on some node."""
        return endpoint in self._usable(key.port.service).get(place_of(key), ())

    def reported(self, clients: Collection[RememberedClient]) -> None:
        """A node remembers these."""
        self.records.report(clients)

    def changed(self, keys: Iterable[ClientKey]) -> None:
        """The store has something else about these clients."""
        for key in keys:
            held = self.records.held.get(key)
            if held is not None and self.is_usable(key, held.endpoint):
                self._log.put(key)
            else:
                self._log.drop(key)
        self._wake.set()

    def services_changed(self, services: Iterable[ServiceKey]) -> None:
        """Endpoints may have left these services, or joined."""
        for service in services:
            self._possible.pop(service, None)
            keys = self.records.of_service(service)
            if keys:
                self._revise(keys, self._usable(service))

    def _revise(self, keys: Collection[ClientKey], usable: Usable) -> None:
        """Forget clients whose endpoint left, everywhere; tell of those whose endpoint was not known here yet."""
        gone = []
        for key in keys:
            is_usable = self.records.held[key].endpoint in usable.get(place_of(key), ())
            if is_usable and key not in self._log:
                self._log.put(key)
                self._wake.set()
            elif not is_usable and key in self._log:
                self._log.drop(key)
                gone.append(key)
        self._metrics.removed.inc(len(gone))
        self.records.remove(gone)

    def _usable(self, service: ServiceKey) -> Usable:
        if service in self._possible:
            return self._possible[service]
        planned = self._planner.cluster.services.get(service)
        if planned is None:
            return {}
        found = self._possible[service] = usable_endpoints(planned.state)
        return found

    async def run(self) -> None:
        """Tell nodes, for ever."""
        wait_seconds = _IDLE_SECONDS
        while True:
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass
            else:
                await self._clock.sleep(_GATHER_SECONDS)
            self._wake.clear()
            wait_seconds = _BUSY_SECONDS if await self._tell() else _IDLE_SECONDS

    async def _tell(self) -> bool:
        """The next message for each node that has room; whether some are left behind. Equal places, equal bytes."""
        made: dict[int, tuple[bytes, int, int]] = {}
        is_behind = False
        for stream in list(self._streams.streams.values()):
            if not (stream.is_served and AFFINITY in stream.session.hello.capabilities):
                continue
            if stream.affinity_place < self._log.end and stream.waiting < _WAITING_MAX:
                if stream.affinity_place not in made:
                    made[stream.affinity_place] = self._message(stream.affinity_place)
                    await asyncio.sleep(0)
                message, count, place = made[stream.affinity_place]
                if count == 0 or stream.send(message):
                    stream.affinity_place = place
                    self._metrics.seeded.inc(count)
            is_behind = is_behind or stream.affinity_place < self._log.end
        return is_behind

    def _message(self, place: int) -> tuple[bytes, int, int]:
        """What a node at this place is told next: the message, how many clients, and its place afterwards."""
        keys, after = self._log.after(place, ENTRIES_SENT_MAX)
        now = self._clock.monotonic()
        clients = []
        for key in keys:
            held = self.records.held.get(key)
            left_ms = round((held.ends_at - now) * 1000) if held is not None else 0
            if held is not None and left_ms > 0:
                clients.append(RememberedClient(key, held.endpoint, left_ms))
        return framing.affinity(clients), len(clients), after
