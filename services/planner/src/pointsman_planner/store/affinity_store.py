# SPDX-License-Identifier: Apache-2.0
"""Remembered clients of session affinity in the store: one record each, which ends when the client is forgotten.

The first word on a client counts: a node that remembers another endpoint for it changes nothing, as long as the
endpoint is one. Whoever connects again is remembered for longer, by a record of another value (`renewals`), so that all
planners hear of it. Bounds: `EXCEPTIONS_MAX` records in all and `OF_SERVICE_MAX` of one service; those that would end
first make room. Writes wait for nobody and nobody for them: without the store nodes fall back to picks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec
import structlog

from pointsman_chassis.clock import Clock
from pointsman_model.names import Protocol, ServiceKey, ServicePortName, format_address, parse_address
from pointsman_model.remembered import ClientKey, RememberedClient
from pointsman_planner.affinity_metrics import AffinityMetrics
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.store.hostile_values import HostileValues
from pointsman_planner.store.port import (
    KEY_CHARACTERS_MAX,
    Area,
    Committed,
    OutcomeKind,
    Record,
    Store,
    Write,
)
from pointsman_planner.store.replica import Changes
from pointsman_planner.store.replicas import Replicas
from pointsman_planner.store.write_behind import WriteBehind

EXCEPTIONS_MAX = 50_000
OF_SERVICE_MAX = 10_000
AREA = Area(name="affinity", records_max=EXCEPTIONS_MAX, evicts=True)
SLACK_SECONDS = 1.0
"""Times that differ by less are equal: what is said three times takes its time three times."""
_TRIM_SHARE = 20
"""A service that is full loses so much more, one part in this, that not each new client costs a search."""
_WAITING_MAX = 20_000
_FLUSH_SECONDS = 0.02
_PORT_MAX = 65535

Endpoint = tuple[bytes, int]


class SharedClient(NamedTuple):
    """A client as the store has it."""

    endpoint: Endpoint
    ends_at: float
    """When it is forgotten, on this process's monotonic clock."""
    version: int
    renewals: int = 0


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """The JSON of a record."""

    address: str
    port: int
    renewals: int = 0

    def __post_init__(self) -> None:
        """Refuse what no planner writes."""
        if format_address(parse_address(self.address)) != self.address or not 0 < self.port <= _PORT_MAX:
            raise ValueError(f"{self.address[:50]!r}, {self.port}: no endpoint")
        if not 0 <= self.renewals < 1 << 53:
            raise ValueError("renewals: not a number of them")


class _Wish(NamedTuple):
    """What is to be written: a client, or None for one that is to be forgotten."""

    client: Endpoint | None
    ends_at: float
    since: float


class AffinityStore:
    """The repository: clients as this planner knows them, and the writes."""

    def __init__(
        self,
        *,
        store: Store,
        replicas: Replicas,
        metrics: AffinityMetrics,
        store_metrics: StoreMetrics,
        clock: Clock,
        is_usable: Callable[[ClientKey, Endpoint], bool],
        on_change: Callable[[Iterable[ClientKey]], None],
    ) -> None:
        """`on_change` is called in the loop with the clients of which something is different, and must not raise."""
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._is_usable = is_usable
        self._on_change = on_change
        self._hostile = HostileValues(store_metrics)
        self._held: dict[ClientKey, SharedClient] = {}
        self._by_service: dict[ServiceKey, dict[ClientKey, None]] = {}
        self._full: set[ServiceKey] = set()
        self.evicted = 0
        """Clients that made room for others, since the start."""
        self._behind: WriteBehind[_Wish] = WriteBehind(
            write=self._write,
            keys_max=_WAITING_MAX,
            on_dropped=metrics.reported.labels("full").inc,
            flush_seconds=_FLUSH_SECONDS,
        )
        replicas.add(AREA, self._take)

    @property
    def held(self) -> Mapping[ClientKey, SharedClient]:
        """Every client that is known here. Not to be changed by the caller."""
        return self._held

    @property
    def waiting(self) -> int:
        """Writes that the store has not taken yet."""
        return len(self._behind)

    @property
    def full_services(self) -> int:
        """Services that have as many clients as one may have."""
        return len(self._full)

    def of_service(self, service: ServiceKey) -> tuple[ClientKey, ...]:
        """Clients of a service."""
        return tuple(self._by_service.get(service, ()))

    def report(self, clients: Iterable[RememberedClient]) -> None:
        """A node remembers these. Never waits and never fails."""
        now = self._clock.monotonic()
        for client in clients:
            text = text_of(client.key)
            if text is None or not self._is_usable(client.key, client.endpoint):
                self._metrics.reported.labels("unusable").inc()
                continue
            wish = _Wish(client.endpoint, now + client.left_ms / 1000, now)
            if self._outcome(client.key, wish) == "taken":
                self._behind.put(text, wish)
            else:
                self._metrics.reported.labels(self._outcome(client.key, wish)).inc()

    def remove(self, keys: Iterable[ClientKey]) -> None:
        """These are remembered no more. Never waits and never fails."""
        now = self._clock.monotonic()
        for key in keys:
            text = text_of(key)
            if text is not None:
                self._behind.put(text, _Wish(None, now, now))

    async def run(self) -> None:
        """Write what was reported, for ever."""
        await self._behind.run()

    def _outcome(self, key: ClientKey, wish: _Wish) -> str:
        """What becomes of a node's word on a client."""
        held = self._held.get(key)
        if held is None or held.ends_at <= self._clock.monotonic():
            return "taken"
        if held.endpoint == wish.client:
            return "taken" if wish.ends_at > held.ends_at + SLACK_SECONDS else "known"
        return "other" if self._is_usable(key, held.endpoint) else "taken"

    async def _write(self, batch: Mapping[str, _Wish]) -> None:
        writes = [write for text, wish in batch.items() if (write := self._write_of(text, wish)) is not None]
        if writes:
            self._count(batch, writes, await self._store.commit(AREA, writes))

    def _write_of(self, text: str, wish: _Wish) -> Write | None:
        key = key_of(text)
        if key is None:
            return None
        held = self._held.get(key)
        if wish.client is None:
            return Write(key=text, value=None, if_version=held.version) if held is not None else None
        lives = wish.ends_at - self._clock.monotonic()
        if lives <= 0 or self._outcome(key, wish) != "taken":
            return None
        is_same = held is not None and held.endpoint == wish.client
        value = encode(wish.client, renewals=held.renewals + 1 if held is not None and is_same else 0)
        is_there = held is not None and held.ends_at > self._clock.monotonic()
        return Write(key=text, value=value, lives_seconds=lives, if_version=held.version if held and is_there else 0)

    def _count(self, batch: Mapping[str, _Wish], writes: Iterable[Write], done: Committed) -> None:
        now = self._clock.monotonic()
        for write, outcome in zip(writes, done.outcomes, strict=True):
            if write.value is None:
                continue
            is_written = outcome.kind is OutcomeKind.WRITTEN
            self._metrics.reported.labels("taken" if is_written else "other").inc()
            if is_written:
                self._metrics.shared_after.observe(now - batch[write.key].since)
        if done.evicted:
            self._metrics.evicted.labels("store").inc(len(done.evicted))
            if not self.evicted:
                structlog.get_logger("affinity").warning(
                    "the store has all the remembered clients it may have; those that would end first make room",
                    most=EXCEPTIONS_MAX,
                )
            self.evicted += len(done.evicted)

    # -- what the store has ------------------------------------------------------------------------------------------

    def _take(self, changes: Changes) -> None:
        changed: list[ClientKey] = []
        for text, record in changes.items():
            key = key_of(text)
            if key is None:
                if record is not None:
                    self._hostile.leave_out(AREA, text, ValueError("the key names no client"))
                continue
            client = self._decoded(key, record) if record is not None else None
            if client is not None:
                self._held[key] = client
                self._by_service.setdefault(key.port.service, {})[key] = None
            elif self._held.pop(key, None) is None:
                continue
            else:
                self._forget(key)
            changed.append(key)
        self._metrics.exceptions.set(len(self._held))
        if changed:
            self._on_change(changed)
        for service in {key.port.service for key in changed}:
            self._trim(service)

    def _forget(self, key: ClientKey) -> None:
        clients = self._by_service[key.port.service]
        del clients[key]
        if not clients:
            del self._by_service[key.port.service]

    def _decoded(self, key: ClientKey, record: Record) -> SharedClient | None:
        stored = self._hostile.decoded(AREA, record, _Stored)
        if stored is None:
            return None
        endpoint = parse_address(stored.address), stored.port
        if len(endpoint[0]) != len(key.client) or record.expires_at is None:
            self._hostile.leave_out(AREA, record.key, ValueError("of another family, or without an end"))
            return None
        return SharedClient(endpoint, record.expires_at, record.version, stored.renewals)

    def _trim(self, service: ServiceKey) -> None:
        """Let a service that is full go on with the clients that will be remembered longest."""
        clients = self.of_service(service)
        surplus = len(clients) - OF_SERVICE_MAX
        if surplus <= 0:
            self._full.discard(service)
            return
        if service not in self._full:
            self._full.add(service)
            structlog.get_logger("affinity").warning(
                "a service has all the remembered clients it may have; those that would end first make room",
                service=str(service),
                most=OF_SERVICE_MAX,
            )
        chosen = sorted(clients, key=lambda key: self._held[key].ends_at)[: surplus + OF_SERVICE_MAX // _TRIM_SHARE]
        waiting = [key for key in chosen if (text_of(key) or "") not in self._behind]
        self._metrics.evicted.labels("service").inc(len(waiting))
        self.evicted += len(waiting)
        self.remove(waiting)


def encode(endpoint: Endpoint, *, renewals: int) -> bytes:
    """The value of a record."""
    return msgspec.json.encode(_Stored(format_address(endpoint[0]), endpoint[1], renewals))


def text_of(key: ClientKey) -> str | None:
    """The key of a record; None for names that Kubernetes would not allow."""
    (namespace, name), port, protocol = key.port
    parts = namespace, name, port, protocol.name, format_address(key.client)
    text = "/".join(parts)
    return text if len(text) <= KEY_CHARACTERS_MAX and text.count("/") == len(parts) - 1 else None


def key_of(text: str) -> ClientKey | None:
    """Who a record is of; None for a text that `text_of` would not make."""
    try:
        namespace, name, port, protocol, client = text.split("/")
        key = ClientKey(ServicePortName(ServiceKey(namespace, name), port, Protocol[protocol]), parse_address(client))
    except (ValueError, KeyError):
        return None
    return key if namespace and name and text_of(key) == text else None
