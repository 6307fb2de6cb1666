# SPDX-License-Identifier: Apache-2.0
"""Keeps healthzBindAddress and metricsBindAddress served.

An address that is taken does not concern Services: with bindAddressHardFail the process ends, otherwise it is said,
counted, and tried again every few seconds until the port is free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.http import Handler, HttpServer
from pointsman_enforcer.health.bind_address import BindAddress
from pointsman_enforcer.health.sockets import listen_everywhere_or_on
from pointsman_model.names import parse_address

RETRY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Routes that one field of the configuration says where to serve."""

    field: str
    address: BindAddress | None
    """None = nowhere."""
    routes: Mapping[str, Handler]


class PageServers:
    """The servers of some pages."""

    def __init__(
        self, pages: Sequence[Page], *, is_hard_fail: bool, clock: Clock, on_failure: Callable[[str], None]
    ) -> None:
        """`on_failure` is told the field after each attempt that failed."""
        self._waiting = [page for page in pages if page.address is not None]
        self._is_hard_fail = is_hard_fail
        self._clock = clock
        self._on_failure = on_failure
        self._servers: list[HttpServer] = []

    @property
    def waiting(self) -> list[str]:
        """Fields whose address is not served yet."""
        return [page.field for page in self._waiting]

    async def open(self) -> None:
        """Try each address that is not served yet.

        Raises:
            ConfigError: one cannot be bound, and bindAddressHardFail is set.
        """
        for page in list(self._waiting):
            if await self._try_open(page):
                self._waiting.remove(page)

    async def run(self) -> None:
        """Go on trying until everything is served."""
        while self._waiting:
            await self._clock.sleep(RETRY_SECONDS)
            await self.open()

    async def close(self) -> None:
        """Stop serving. May be called twice."""
        for server in self._servers:
            await server.close()
        self._servers.clear()

    async def _try_open(self, page: Page) -> bool:
        if page.address is None:
            return True
        server = HttpServer(page.routes)
        try:
            for listener in listen_everywhere_or_on(parse_address(page.address.host), page.address.port):
                await server.serve(listener)
        except OSError as error:
            self._fail(page, page.address, error)
            return False
        self._servers.append(server)
        return True

    def _fail(self, page: Page, address: BindAddress, error: OSError) -> None:
        self._on_failure(page.field)
        where, reason = f"{address.host}:{address.port}", error.strerror or str(error)
        if self._is_hard_fail:
            raise ConfigError(
                f"{page.field}: cannot listen on {where}: {reason}; free the port, choose another, or unset "
                "bindAddressHardFail"
            ) from error
        structlog.get_logger("health").warning(
            "not listening; services are not affected",
            field=page.field,
            address=where,
            error=reason,
            retry_seconds=RETRY_SECONDS,
        )
