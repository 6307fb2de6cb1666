# SPDX-License-Identifier: Apache-2.0
"""The servers behind healthCheckNodePort: one socket for each service and each address that accepts node ports.

What there should be is computed anew after every change and compared with what there is, so that a port that moves, an
address that comes or goes, and a bind that failed are all the same case. A failure concerns one socket: it is logged,
counted, shown by `failures`, and tried again every few seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from pointsman_chassis.clock import Clock
from pointsman_chassis.http import HttpServer, Request, Response
from pointsman_enforcer.core.service_health import Listener, health_answer, listen_addresses, wanted_listeners
from pointsman_enforcer.health.local_addresses import AddressMonitor, local_addresses
from pointsman_enforcer.health.sockets import listen_on
from pointsman_model.names import Prefix, ServiceKey, format_address
from pointsman_model.plan import HealthCheck

RETRY_SECONDS: Final = 5.0
_CONNECTIONS_MAX: Final = 16
"""For one socket: load balancers probe a node once in a few seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheckEvents:
    """Who is told."""

    opened: Callable[[int], None]
    """How many sockets listen now."""
    failed: Callable[[Mapping[Listener, str]], None]
    """Those that could not be opened, each with the reason, after each attempt."""
    refused: Callable[[], None]
    """An attempt to open a socket failed."""


class ServiceHealthServers:
    """Everything that listens on health check node ports."""

    def __init__(
        self,
        *,
        is_healthy: Callable[[], bool],
        clock: Clock,
        events: HealthCheckEvents,
        read_addresses: Callable[[], Awaitable[Iterable[bytes]]] = local_addresses,
    ) -> None:
        """`is_healthy` says whether the enforcer is, whatever becomes of the node."""
        self._is_healthy = is_healthy
        self._clock = clock
        self._events = events
        self._read_addresses = read_addresses
        self._checks: dict[ServiceKey, HealthCheck] = {}
        self._blocks: tuple[Prefix, ...] = ()
        self._open: dict[Listener, HttpServer] = {}
        self._wake = asyncio.Event()
        self.failures: dict[Listener, str] = {}
        """Sockets that should be there and are not, each with the reason."""

    def update(self, service: ServiceKey, check: HealthCheck | None) -> None:
        """The service is now programmed, with this health check or none. A new count is answered at once."""
        before = self._checks.get(service)
        if check is None:
            self._checks.pop(service, None)
        else:
            self._checks[service] = check
        if (before and before.node_port) != (check and check.node_port):
            self._wake.set()

    def configure(self, blocks: tuple[Prefix, ...]) -> None:
        """Node ports are accepted at local addresses within these blocks."""
        if blocks != self._blocks:
            self._blocks = blocks
            self._wake.set()

    async def run(self) -> None:
        """Open and close until cancelled; then close everything."""
        try:
            with AddressMonitor(self._wake.set):
                while True:
                    await self._wait()
                    self._wake.clear()
                    await self.reconcile()
        finally:
            for server in self._open.values():
                await server.close()
            self._open.clear()

    async def reconcile(self) -> None:
        """Make what listens equal to what should."""
        wanted = wanted_listeners(self._checks, await self._addresses()) if self._checks else frozenset()
        for listener in self._open.keys() - wanted:
            await self._open.pop(listener).close()
        self.failures = {listener: text for listener, text in self.failures.items() if listener in wanted}
        for listener in sorted(wanted - self._open.keys()):
            await self._try_open(listener)
        self._events.opened(len(self._open))
        self._events.failed(self.failures)

    async def _wait(self) -> None:
        """Until something changed or, if something failed, for a while."""
        if not self.failures:
            await self._wake.wait()
            return
        timer = self._clock.call_later(RETRY_SECONDS, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _addresses(self) -> tuple[bytes, ...]:
        try:
            local = tuple(await self._read_addresses())
        except OSError as error:
            structlog.get_logger("health").warning("cannot read the node's addresses", error=str(error))
            local = tuple(listener.address for listener in self._open)
        return listen_addresses(self._blocks, local)

    async def _try_open(self, listener: Listener) -> None:
        server = HttpServer({}, fallback=self._handler(listener.service), connections_max=_CONNECTIONS_MAX)
        try:
            await server.serve(listen_on(listener.address, listener.port))
        except OSError as error:
            self._fail(listener, error.strerror or str(error))
        else:
            self._open[listener] = server
            self.failures.pop(listener, None)

    def _fail(self, listener: Listener, reason: str) -> None:
        self._events.refused()
        if self.failures.get(listener) != reason:
            structlog.get_logger("health").warning(
                "health check node port not served: load balancers will take this node for one without endpoints",
                service=str(listener.service),
                address=format_address(listener.address),
                port=listener.port,
                error=reason,
                retry_seconds=RETRY_SECONDS,
            )
        self.failures[listener] = reason

    def _handler(self, service: ServiceKey) -> Callable[[Request], Response]:
        def handle(_: Request) -> Response:
            check = self._checks.get(service)
            count = 0 if check is None else check.local_endpoints
            answer = health_answer(service, count, is_healthy=self._is_healthy())
            return Response(
                body=answer.body,
                status=answer.status,
                content_type="application/json",
                headers=(("X-Load-Balancing-Endpoint-Weight", str(answer.weight)),),
            )

        return handle
