# SPDX-License-Identifier: Apache-2.0
"""What load balancers are told over HTTP: from Kubernetes objects through the planner to the enforcer's servers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from conformance.addresses import events_in
from conformance.model import NODE, Event, Finding, IpFamily
from conformance.objects import Port, SlicePort, apply, delete, node, service, service_cidr, slice_of
from conformance.pipeline import Cluster

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.status import Health
from pointsman_enforcer.health.bind_address import parse_bind_address
from pointsman_enforcer.health.pages import Page, PageServers
from pointsman_enforcer.health.routes import health_routes
from pointsman_enforcer.health.service_health import HealthCheckEvents, ServiceHealthServers
from pointsman_enforcer.metrics import EnforcerMetrics
from pointsman_model.names import ServiceKey, parse_address, parse_prefix

DEADLINE_SECONDS = 20.0
_TIMEOUT_SECONDS = 60.0
"""How long an update may wait before the proxy calls itself unhealthy."""
_WEIGHT = "X-Load-Balancing-Endpoint-Weight"
_SAID = ("localEndpoints", "serviceProxyHealthy", "nodeEligible")
_LOOPBACK = {IpFamily.IPV4: "127.0.0.1", IpFamily.IPV6: "::1"}
_BLOCK = {IpFamily.IPV4: "127.0.0.0/8", IpFamily.IPV6: "::1/128"}
_BESIDE = {IpFamily.IPV4: "127.0.0.2", IpFamily.IPV6: "127.0.0.1"}
"""What a socket at all addresses would answer, too."""
Tale = Callable[["Balanced"], AsyncIterator[Finding]]


class Balanced:
    """A node behind load balancers: its planner, its enforcer's servers, and who asks them."""

    def __init__(self, family: IpFamily) -> None:
        self.family = family
        self.host = _LOOPBACK[family]
        self.clock = VirtualClock()
        self.health = Health(timeout_seconds=_TIMEOUT_SECONDS)
        self._cluster = Cluster()
        self._programmed: set[ServiceKey] = set()
        self._servers = ServiceHealthServers(
            is_healthy=lambda: self.health.status(self.clock.monotonic()).is_healthy,
            clock=self.clock,
            events=HealthCheckEvents(opened=lambda _: None, failed=lambda _: None, refused=lambda: None),
            read_addresses=self._addresses,
        )
        self._servers.configure((parse_prefix(_BLOCK[family]),))
        self.page_port = free_port(self.host)
        address = parse_bind_address(f"[{self.host}]:{self.page_port}", 0, "healthzBindAddress")
        routes = health_routes(self.health, EnforcerMetrics(Registry(process=False)), self.clock)
        self._pages = PageServers(
            (Page(field="healthzBindAddress", address=address, routes=routes),),
            is_hard_fail=True,
            clock=self.clock,
            on_failure=lambda _: None,
        )

    async def run(self, tale: Tale) -> list[Finding]:
        """Everything that a tale finds, told while the servers run."""
        await self._pages.open()
        tasks = [asyncio.create_task(each) for each in (self._pages.run(), self._servers.run())]
        try:
            self.happens(*apply(node(), service_cidr()))
            return [finding async for finding in tale(self)]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._pages.close()

    def happens(self, *events: Event) -> None:
        """Events, planned and programmed."""
        self._cluster.apply(events_in(self.family, events))
        plan = self._cluster.plan(NODE)
        self.health.learn(plan.facts)
        for key, found in plan.services.items():
            self._servers.update(key, found.health_check)
        for key in self._programmed - plan.services.keys():
            self._servers.update(key, None)
        self._programmed = set(plan.services)

    async def asked(self, port: int, path: str = "/", host: str = "") -> str:
        """What a load balancer gets: status, weight, count and health of the proxy; `refused` when nobody listens."""
        return await asyncio.to_thread(_ask, host or self.host, port, path)

    async def becomes(self, what: str, expected: str, ask: Callable[[], Awaitable[str]]) -> Finding:
        """What is found in the end: servers open and close a moment after they are told."""
        found = await ask()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_SECONDS):
                while found != expected:
                    await asyncio.sleep(0.01)
                    found = await ask()
        return Finding(what, expected, found)

    async def _addresses(self) -> list[bytes]:
        return [parse_address(self.host)]


def free_port(host: str) -> int:
    """A port that nobody listens on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as probe:
        return int(probe.getsockname()[1])


def _ask(host: str, port: int, path: str) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body: dict[str, Any] = json.loads(response.read())
        words = [str(response.status)]
        if response.getheader(_WEIGHT) is not None:
            words.append(f"weight {response.getheader(_WEIGHT)}")
        words += [
            f"{key} {body[key]}" for key in ("localEndpoints", "serviceProxyHealthy", "nodeEligible") if key in body
        ]
        return ", ".join(words)
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        return "reset"
    finally:
        connection.close()


def _answer(status: int, count: int, *, is_healthy: bool = True) -> str:
    return f"{status}, weight {count}, localEndpoints {count}, serviceProxyHealthy {is_healthy}"


def _service(port: int, name: str = "svc1", vip: str = "172.30.0.41", node_port: int = 3001) -> str:
    ports = [Port(80, node_port=node_port)]
    return service(name, vip, ports, load_balancer=["1.2.3.4"], etp="Local", health_check_node_port=port)


def _local(count: int) -> str:
    return " ".join(f"10.180.0.{number}@L" for number in range(1, count + 1))


def _told(tale: Tale) -> Callable[[object, IpFamily], Iterator[Finding]]:
    """A check that tells the tale."""

    def check(_: object, family: IpFamily) -> Iterator[Finding]:
        return iter(asyncio.run(Balanced(family).run(tale)))

    return check


async def _follows_the_count(node_: Balanced) -> AsyncIterator[Finding]:
    port = free_port(node_.host)
    node_.happens(*apply(slice_of("unknown", _local(3))))
    yield Finding("endpoints of a Service that is not there", "refused", await node_.asked(port))
    node_.happens(*apply(_service(port)))
    yield await node_.becomes("a new Service", _answer(503, 0), lambda: node_.asked(port))
    node_.happens(*apply(slice_of("svc1", _local(18))))
    yield Finding("18 endpoints here", _answer(200, 18), await node_.asked(port, "/any/path"))
    node_.happens(*apply(slice_of("svc1")))
    yield Finding("no endpoints any more", _answer(503, 0), await node_.asked(port))
    node_.happens(*apply(slice_of("svc1", _local(2))))
    yield Finding("two", _answer(200, 2), await node_.asked(port))
    node_.happens(*delete(slice_of("svc1")))
    yield Finding("the slice is gone", _answer(503, 0), await node_.asked(port))
    node_.happens(*delete(_service(port)))
    yield await node_.becomes("the Service is gone", "refused", lambda: node_.asked(port))


async def _moves_with_the_port(node_: Balanced) -> AsyncIterator[Finding]:
    old, new, other = (free_port(node_.host) for _ in range(3))
    unchanged = apply(_service(other, "svc2", "172.30.0.42", 3002), slice_of("svc2", _local(7)))
    node_.happens(*apply(_service(old), slice_of("svc1", _local(2))), *unchanged)
    yield await node_.becomes("at first", _answer(200, 2), lambda: node_.asked(old))
    node_.happens(*apply(_service(new)))
    yield await node_.becomes("at the new port", _answer(200, 2), lambda: node_.asked(new))
    yield await node_.becomes("at the old port", "refused", lambda: node_.asked(old))
    yield Finding("the other Service", _answer(200, 7), await node_.asked(other))


async def _follows_the_proxy(node_: Balanced) -> AsyncIterator[Finding]:
    port = free_port(node_.host)
    node_.happens(*apply(_service(port), slice_of("svc1", _local(3))))
    yield await node_.becomes("a healthy proxy", _answer(200, 3), lambda: node_.asked(port))
    node_.health.synced(node_.clock.monotonic())
    node_.health.queued(node_.clock.monotonic())
    await node_.clock.advance(_TIMEOUT_SECONDS + 1)
    yield Finding("an unhealthy one", _answer(503, 3, is_healthy=False), await node_.asked(port))
    node_.health.synced(node_.clock.monotonic())
    yield Finding("healthy again", _answer(200, 3), await node_.asked(port))


async def _listens_in_the_blocks(node_: Balanced) -> AsyncIterator[Finding]:
    port, taken = free_port(node_.host), free_port(node_.host)
    kind = socket.AF_INET6 if ":" in node_.host else socket.AF_INET
    with socket.create_server((node_.host, taken), family=kind):
        occupied = apply(_service(taken, "svc2", "172.30.0.42", 3002), slice_of("svc2", _local(1)))
        node_.happens(*occupied, *apply(_service(port), slice_of("svc1", _local(1))))
        yield await node_.becomes("beside a port that is taken", _answer(200, 1), lambda: node_.asked(port))
        beside = await node_.asked(port, host=_BESIDE[node_.family])
        yield Finding("at an address outside the blocks", "refused", beside)


async def _counts_addresses(node_: Balanced) -> AsyncIterator[Finding]:
    port = free_port(node_.host)
    two = (SlicePort(80, "http"), SlicePort(81, "https"))
    ports = [Port(80, "http", node_port=3001), Port(443, "https", node_port=3002)]
    balanced = service(
        "svc1", "172.30.0.41", ports, load_balancer=["1.2.3.4"], etp="Local", health_check_node_port=port
    )
    node_.happens(*apply(balanced, slice_of("svc1", "10.180.0.1@L", two)))
    yield await node_.becomes("one address with two ports", _answer(200, 1), lambda: node_.asked(port))
    node_.happens(*apply(slice_of("svc1", "10.180.0.1@L 10.180.0.2@R 10.180.0.3@L/U", two)))
    yield Finding("beside one elsewhere and one not ready", _answer(200, 1), await node_.asked(port))
    node_.happens(*apply(slice_of("svc1", "10.180.0.1@L 10.180.0.2@L", two, slice_name="more")))
    yield Finding("two slices that overlap", _answer(200, 2), await node_.asked(port))


_NODES: Sequence[tuple[str, bool, dict[str, Any]]] = (
    ("a node", True, {}),
    ("another taint", True, {"taints": ["example.com/other"]}),
    ("about to be removed", False, {"taints": ["ToBeDeletedByClusterAutoscaler"]}),
    ("no taint any more", True, {}),
    ("being deleted", False, {"deleted_at": "2026-01-01T00:00:00Z"}),
)


async def _tells_of_the_node(node_: Balanced) -> AsyncIterator[Finding]:
    page = node_.page_port
    for what, is_eligible, fields in _NODES:
        node_.happens(*apply(node(**fields)))
        expected = f"{200 if is_eligible else 503}, nodeEligible {is_eligible}"
        yield Finding(f"{what}: /healthz", expected, await node_.asked(page, "/healthz"))
        yield Finding(f"{what}: /livez", "200", await node_.asked(page, "/livez"))


follows_the_count = _told(_follows_the_count)
"""Row 140."""
moves_with_the_port = _told(_moves_with_the_port)
"""Row 141. The count belongs to the plan, so it is right at the new port at once."""
follows_the_proxy = _told(_follows_the_proxy)
"""Row 142."""
listens_in_the_blocks = _told(_listens_in_the_blocks)
"""Row 143."""
counts_addresses = _told(_counts_addresses)
"""Row 144."""
tells_of_the_node = _told(_tells_of_the_node)
"""Row 146."""
