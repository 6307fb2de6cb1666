# SPDX-License-Identifier: Apache-2.0
"""Health check node ports over real HTTP. Packet-flow rows 140 to 143."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_enforcer.core.service_health import Listener
from pointsman_enforcer.health.local_addresses import AddressMonitor, local_addresses
from pointsman_enforcer.health.service_health import RETRY_SECONDS, HealthCheckEvents, ServiceHealthServers
from pointsman_model.names import ServiceKey, parse_address, parse_prefix
from pointsman_model.plan import HealthCheck

SERVICE = ServiceKey("ns", "svc")
OTHER = ServiceKey("ns", "other")
LOOPBACK = (parse_prefix("127.0.0.0/8"),)
DEADLINE_SECONDS = 20.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: dict[str, Any]


class World:
    """Servers, and what they reported."""

    def __init__(self, *addresses: str) -> None:
        self.clock = VirtualClock()
        self.is_healthy = True
        self.opened = self.failed = self.refusals = 0
        self.addresses = [parse_address(text) for text in addresses or ("127.0.0.1",)]
        events = HealthCheckEvents(opened=self._opened, failed=self._failed, refused=self._refused)
        self.servers = ServiceHealthServers(
            is_healthy=lambda: self.is_healthy, clock=self.clock, events=events, read_addresses=self.read_addresses
        )
        self.servers.configure(LOOPBACK)

    async def read_addresses(self) -> list[bytes]:
        return self.addresses

    def _opened(self, count: int) -> None:
        self.opened = count

    def _failed(self, failures: Mapping[Listener, str]) -> None:
        self.failed = len(failures)

    def _refused(self) -> None:
        self.refusals += 1

    async def eventually(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not holds():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(*addresses: str) -> AsyncIterator[World]:
    world = World(*addresses)
    task = asyncio.create_task(world.servers.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def ask(port: int, path: str = "/", host: str = "127.0.0.1") -> Answer | None:
    """What a load balancer gets; None when nobody listens."""

    def get() -> Answer | None:
        connection = http.client.HTTPConnection(host, port, timeout=DEADLINE_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), json.loads(response.read()))
        except ConnectionRefusedError:
            return None
        finally:
            connection.close()

    return await asyncio.to_thread(get)


async def answer(port: int, path: str = "/", host: str = "127.0.0.1") -> Answer:
    found = await ask(port, path, host)
    assert found is not None
    return found


def check(port: int, count: int = 0) -> HealthCheck:
    return HealthCheck(node_port=port, local_endpoints=count)


async def test_row_140_weight_follows_the_count_and_any_path_is_answered() -> None:
    async with running() as world:
        port = free_port()
        world.servers.update(SERVICE, check(port))
        await world.eventually(lambda: world.opened == 1)
        new = await answer(port)
        assert (new.status, new.headers["X-Load-Balancing-Endpoint-Weight"]) == (503, "0")
        world.servers.update(SERVICE, check(port, 18))
        full = await answer(port, "/any/path?at=all")
        assert (full.status, full.headers["X-Load-Balancing-Endpoint-Weight"]) == (200, "18")
        assert full.headers["Content-Type"] == "application/json"
        assert full.headers["X-Content-Type-Options"] == "nosniff"
        assert full.body["localEndpoints"] == 18
        world.servers.update(SERVICE, check(port, 0))
        assert (await answer(port)).status == 503


async def test_row_140_a_service_that_is_gone_or_has_no_check_is_not_served() -> None:
    async with running() as world:
        port = free_port()
        world.servers.update(OTHER, None)
        world.servers.update(SERVICE, check(port, 1))
        await world.eventually(lambda: world.opened == 1)
        world.servers.update(SERVICE, None)
        await world.eventually(lambda: world.opened == 0)
        assert await ask(port) is None


async def test_row_141_another_port_closes_the_old_one_and_leaves_other_services_alone() -> None:
    async with running() as world:
        first, second, unchanged = free_port(), free_port(), free_port()
        world.servers.update(SERVICE, check(first, 2))
        world.servers.update(OTHER, check(unchanged, 7))
        await world.eventually(lambda: world.opened == 2)
        world.servers.update(SERVICE, check(second, 0))
        await world.eventually(lambda: any(each.port == second for each in world.servers._open))
        assert await ask(first) is None
        assert (await answer(second)).status == 503
        assert (await answer(unchanged)).body["localEndpoints"] == 7


async def test_row_142_an_unhealthy_proxy_tells_the_true_count_and_503() -> None:
    async with running() as world:
        port = free_port()
        world.servers.update(SERVICE, check(port, 3))
        await world.eventually(lambda: world.opened == 1)
        world.is_healthy = False
        sick = await answer(port)
        assert (sick.status, sick.body["localEndpoints"], sick.body["serviceProxyHealthy"]) == (503, 3, False)
        assert sick.headers["X-Load-Balancing-Endpoint-Weight"] == "3"
        world.is_healthy = True
        assert (await answer(port)).status == 200


async def test_row_143_only_addresses_within_the_blocks_listen() -> None:
    async with running("127.0.0.1", "127.0.0.2", "::1") as world:
        port = free_port()
        world.servers.configure((parse_prefix("127.0.0.1/32"),))
        world.servers.update(SERVICE, check(port, 1))
        await world.eventually(lambda: world.opened == 1)
        assert await ask(port) is not None
        assert await ask(port, host="127.0.0.2") is None
        world.servers.configure((parse_prefix("127.0.0.2/32"), parse_prefix("::/0")))
        await world.eventually(lambda: world.opened == 2)
        assert await ask(port) is None
        assert await ask(port, host="127.0.0.2") is not None
        assert await ask(port, host="::1") is not None


async def test_row_143_a_port_that_is_taken_harms_nobody_else_and_is_tried_again() -> None:
    async with running() as world:
        port = free_port()
        with socket.create_server(("127.0.0.1", 0)) as occupied:
            taken = occupied.getsockname()[1]
            world.servers.update(SERVICE, check(taken, 1))
            world.servers.update(OTHER, check(port, 1))
            await world.eventually(lambda: world.opened == 1 and world.failed == 1)
            assert (await answer(port)).status == 200
            assert [(each.service, text) for each, text in world.servers.failures.items()] == [
                (SERVICE, "Address already in use")
            ]
            await world.clock.advance(RETRY_SECONDS)
            await world.eventually(lambda: world.refusals == 2)
        await world.clock.advance(RETRY_SECONDS)
        await world.eventually(lambda: world.opened == 2 and world.failed == 0)
        assert (await answer(taken)).body["service"] == {"namespace": "ns", "name": "svc"}
        assert not world.servers.failures


async def test_two_services_that_claim_one_port_end_with_one_of_them_served() -> None:
    async with running() as world:
        port = free_port()
        world.servers.update(SERVICE, check(port, 1))
        world.servers.update(OTHER, check(port, 1))
        await world.eventually(lambda: world.opened == 1 and world.failed == 1)
        assert (await answer(port)).body["service"]["name"] == "other"
        world.servers.update(OTHER, None)
        await world.eventually(lambda: world.opened == 1 and world.failed == 0)
        assert (await answer(port)).body["service"]["name"] == "svc"


async def test_addresses_that_cannot_be_read_leave_what_listens() -> None:
    async with running() as world:
        port, later = free_port(), free_port()
        world.servers.update(SERVICE, check(port, 1))
        await world.eventually(lambda: world.opened == 1)

        async def broken() -> list[bytes]:
            raise OSError(1, "no")

        world.servers._read_addresses = broken
        world.servers.update(OTHER, check(later, 1))
        await world.eventually(lambda: world.opened == 2)
        assert await ask(port) is not None


async def test_the_kernel_lists_the_loopback_address() -> None:
    assert parse_address("127.0.0.1") in await local_addresses()


@pytest.mark.root
async def test_an_address_that_comes_is_announced() -> None:
    from support.netns import NetNs  # noqa: PLC0415 - this test alone needs a namespace

    with NetNs("health") as namespace:
        namespace.run("ip", "link", "set", "lo", "up")
        told = 0

        def count() -> None:
            nonlocal told
            told += 1

        before = await asyncio.to_thread(namespace.call, lambda: asyncio.run(local_addresses()))
        made = namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        with AddressMonitor(count, open_socket=lambda: made):
            namespace.run("ip", "address", "add", "192.0.2.7/32", "dev", "lo")
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not told:
                    await asyncio.sleep(0.005)
        after = await asyncio.to_thread(namespace.call, lambda: asyncio.run(local_addresses()))
        assert after - before == {parse_address("192.0.2.7")}
