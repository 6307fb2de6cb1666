# SPDX-License-Identifier: Apache-2.0
"""Clients that the planner sent and the kernel does not remember yet: pure, bounded, `now` in seconds.

They may come before the plan that has their endpoint is programmed. So one that cannot be used waits a while, and is
tried whenever its service has been programmed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from pointsman_model.names import ServiceKey, ServicePortName
from pointsman_model.remembered import ClientKey, RememberedClient

SEEDS_MAX: Final = 60_000
PATIENCE_SECONDS: Final = 10.0

Endpoints = Mapping[tuple[ServicePortName, int], Collection[tuple[bytes, int]]]
"""Endpoints of each ServicePort by the length of their addresses."""


@dataclass(frozen=True, slots=True)
class _Seed:
    endpoint: tuple[bytes, int]
    ends_at: float
    arrived_at: float


class PendingSeeds:
    """Clients to be remembered, by service."""

    def __init__(self) -> None:
        self._by_service: dict[ServiceKey, dict[ClientKey, _Seed]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def services(self) -> tuple[ServiceKey, ...]:
        """Services with clients that wait."""
        return tuple(self._by_service)

    def put(self, clients: Iterable[RememberedClient], now: float) -> int:
        """Keep these; how many found no room."""
        left_out = 0
        for client in clients:
            waiting = self._by_service.get(client.key.port.service, {})
            if client.key not in waiting:
                if self._count >= SEEDS_MAX:
                    left_out += 1
                    continue
                self._count += 1
            waiting[client.key] = _Seed(client.endpoint, now + client.left_ms / 1000, now)
            self._by_service[client.key.port.service] = waiting
        return left_out

    def ready(self, service: ServiceKey, endpoints: Endpoints, now: float, most: int) -> list[RememberedClient]:
        """Up to `most` clients of a service whose endpoint it has. They wait until they are `done`, or expire."""
        found = (
            RememberedClient(key, seed.endpoint, round((seed.ends_at - now) * 1000))
            for key, seed in self._by_service.get(service, {}).items()
            if now < seed.ends_at and seed.endpoint in endpoints.get((key.port, len(key.client)), ())
        )
        return list(islice(found, most))

    def done(self, service: ServiceKey, clients: Iterable[RememberedClient]) -> None:
        """The kernel has these, or knows better. What came meanwhile with another endpoint waits on."""
        waiting = self._by_service.get(service, {})
        self._remove(
            service,
            [each.key for each in clients if each.key in waiting and waiting[each.key].endpoint == each.endpoint],
        )

    def expire(self, now: float) -> int:
        """Drop those that have waited for too long; how many that were."""
        dropped = 0
        for service, waiting in list(self._by_service.items()):
            old = [key for key, seed in waiting.items() if now >= min(seed.arrived_at + PATIENCE_SECONDS, seed.ends_at)]
            dropped += len(old)
            self._remove(service, old)
        return dropped

    def _remove(self, service: ServiceKey, keys: Collection[ClientKey]) -> None:
        waiting = self._by_service.get(service, {})
        for key in keys:
            del waiting[key]
        self._count -= len(keys)
        if not waiting:
            self._by_service.pop(service, None)
