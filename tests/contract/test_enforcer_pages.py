# SPDX-License-Identifier: Apache-2.0
"""healthzBindAddress and metricsBindAddress over real HTTP: who answers what, and what happens when a port is taken."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.conditions import ServiceConditions
from pointsman_enforcer.core.status import Health
from pointsman_enforcer.health.pages import RETRY_SECONDS
from pointsman_enforcer.health.serving import Serving
from pointsman_enforcer.metrics import EnforcerMetrics
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.names import Family, Protocol, parse_prefix
from pointsman_model.plan import (
    DROP,
    Frontend,
    FrontendKind,
    HealthCheck,
    NodeFacts,
    ServicePlan,
    ServicePortPlan,
)
from support.enforcer_plans import key

DEADLINE_SECONDS = 20.0
ELIGIBLE = NodeFacts(name="n")
CONDEMNED = NodeFacts(name="n", eligible=False)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def get(port: int, path: str, host: str = "127.0.0.1") -> Answer:
    def ask() -> Answer:
        connection = http.client.HTTPConnection(host, port, timeout=DEADLINE_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read().decode())
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not holds():
            await asyncio.sleep(0.005)


class World:
    """The servers of one enforcer, without the enforcer."""

    def __init__(self, *, hard_fail: bool = False, healthz: str | None = None, metrics: str | None = None) -> None:
        self.healthz_port, self.metrics_port = free_port(), free_port()
        self.clock, self.registry = VirtualClock(), Registry(process=False)
        self.health = Health(timeout_seconds=60)
        config = EnforcerConfiguration(
            healthz_bind_address=f"127.0.0.1:{self.healthz_port}" if healthz is None else healthz,
            metrics_bind_address=f"127.0.0.1:{self.metrics_port}" if metrics is None else metrics,
            bind_address_hard_fail=hard_fail,
        )
        self.serving = Serving(
            config=config,
            health=self.health,
            registry=self.registry,
            metrics=EnforcerMetrics(self.registry),
            clock=self.clock,
            describe=lambda: {"node": "n"},
            conditions=ServiceConditions(),
            on_conditions=lambda: None,
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.serving.open()
        self.tasks = [asyncio.create_task(each) for each in self.serving.work().values()]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.serving.close()

    async def healthz(self) -> Answer:
        return await get(self.healthz_port, "/healthz")

    async def livez(self) -> Answer:
        return await get(self.healthz_port, "/livez")


async def test_row_145_healthz_follows_updates_that_wait_and_has_kube_proxys_fields() -> None:
    async with World() as world:
        world.health.learn(ELIGIBLE)
        started = await world.healthz()
        assert started.status == 200
        assert set(started.document) == {"lastUpdated", "currentTime", "nodeEligible", "healthy", "status"}
        assert set(started.document["status"]) == {"IPv4", "IPv6"}
        assert started.document["lastUpdated"] == started.document["currentTime"] == "2023-11-14T22:13:20Z"
        assert started.document["status"]["IPv4"] == {"lastUpdated": "2023-11-14T22:13:20Z", "healthy": True}
        world.health.queued(world.clock.monotonic())
        world.health.synced(world.clock.monotonic())
        await world.clock.advance(1000)
        assert (await world.healthz()).status == 200, "idle is healthy"
        world.health.queued(world.clock.monotonic())
        await world.clock.advance(59)
        assert (await world.healthz()).status == 200, "not late yet"
        await world.clock.advance(1)
        late = await world.healthz()
        assert (late.status, late.document["healthy"], late.document["nodeEligible"]) == (503, False, True)
        assert late.document["lastUpdated"] == "2023-11-14T22:13:20Z", "when it was last up to date"
        assert late.document["currentTime"] == "2023-11-14T22:31:00Z"
        assert late.document["status"]["IPv6"]["healthy"] is False
        world.health.synced(world.clock.monotonic())
        assert (await world.healthz()).status == 200
        assert world.registry.value("kubeproxy_proxy_healthz_total", {"code": "200"}) == 4
        assert world.registry.value("kubeproxy_proxy_healthz_total", {"code": "503"}) == 1


async def test_row_146_a_node_about_to_go_fails_healthz_and_not_livez() -> None:
    async with World() as world:
        world.health.learn(CONDEMNED)
        answer = await world.healthz()
        assert (answer.status, answer.document["nodeEligible"], answer.document["healthy"]) == (503, False, True)
        alive = await world.livez()
        assert (alive.status, alive.document["healthy"]) == (200, True)
        assert "nodeEligible" not in alive.document
        world.health.learn(ELIGIBLE)
        assert (await world.healthz()).status == 200
        assert world.registry.value("kubeproxy_proxy_livez_total", {"code": "200"}) == 1


async def test_before_anything_is_known_of_the_node_only_livez_is_good() -> None:
    async with World() as world:
        assert (await world.healthz()).status == 503
        assert (await world.livez()).status == 200


async def test_headers_are_kube_proxys() -> None:
    async with World() as world:
        for answer in (await world.healthz(), await world.livez()):
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert (await get(world.healthz_port, "/metrics")).status == 404


async def test_the_pages_for_operators() -> None:
    async with World() as world:
        assert (await get(world.metrics_port, "/proxyMode")).body == "nftables"
        assert (await get(world.metrics_port, "/healthz")).body == "ok"
        config = (await get(world.metrics_port, "/configz")).document["enforcer.config.pointsman.io"]
        assert config["metricsBindAddress"] == f"127.0.0.1:{world.metrics_port}"
        assert config["conntrack"]["tcpEstablishedTimeout"] == "24h"
        metrics = (await get(world.metrics_port, "/metrics")).body
        for policy in ("internal", "external"):
            for family in ("IPv4", "IPv6"):
                labels = f'ip_family="{family}",traffic_policy="{policy}"'
                assert f"kubeproxy_sync_proxy_rules_no_local_endpoints_total{{{labels}}} 0.0" in metrics
        assert (await get(world.metrics_port, "/statusz")).document == {
            "node": "n",
            "notServed": [],
            "healthChecksNotServed": {},
        }


async def test_all_addresses_means_those_of_both_families() -> None:
    port = free_port("127.0.0.1")
    async with World(healthz=f"0.0.0.0:{port}"):
        assert (await get(port, "/livez")).status == 200
        assert (await get(port, "/livez", host="::1")).status == 200


async def test_an_empty_address_serves_nothing() -> None:
    async with World(healthz="", metrics="") as world:
        for port in (world.healthz_port, world.metrics_port):
            with pytest.raises(ConnectionRefusedError):
                await get(port, "/livez")


async def test_a_port_that_is_taken_is_tried_again_until_it_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        world = World(healthz=f"127.0.0.1:{port}")
        async with world:
            status = (await get(world.metrics_port, "/statusz")).document
            assert status["notServed"] == ["healthzBindAddress"]
            await world.clock.advance(RETRY_SECONDS)
            failures = world.registry.value("pointsman_enforcer_bind_failures_total", {"field": "healthzBindAddress"})
            assert failures == 2
            occupied.close()
            await world.clock.advance(RETRY_SECONDS)
            assert (await get(port, "/livez")).status == 200


async def test_hard_fail_ends_the_process_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        world = World(metrics=f"127.0.0.1:{port}", hard_fail=True)
        with pytest.raises(ConfigError, match=f"metricsBindAddress: cannot listen on 127.0.0.1:{port}"):
            await world.serving.open()
        await world.serving.close()


async def test_a_programmed_service_is_served_and_counted() -> None:
    port = free_port()
    frontends = (Frontend(FrontendKind.NODE_PORT, b"", 3001, DROP, DROP, DROP),)
    local = ServicePortPlan(name="", protocol=Protocol.TCP, family=Family.IPV4, frontends=frontends)
    plan = ServicePlan(ports=(local,), health_check=HealthCheck(node_port=port, local_endpoints=2))
    async with World() as world:
        world.serving.programmed(key(1), plan)
        world.serving.synced((parse_prefix("127.0.0.1/32"),))
        labels = {"traffic_policy": "external", "ip_family": "IPv4"}
        name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
        assert world.registry.value(name, labels) == 1
        opened = ("pointsman_enforcer_health_check_listeners", {"state": "open"})
        await eventually(lambda: world.registry.value(*opened) == 1)
        assert (await get(port, "/")).status == 200
        world.serving.programmed(key(1), ServicePlan())
        world.serving.synced((parse_prefix("127.0.0.1/32"),))
        assert world.registry.value(name, labels) == 0
        await eventually(lambda: world.registry.value(*opened) == 0)


async def test_a_health_check_port_that_is_taken_is_counted_and_shown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        async with World() as world:
            plan = ServicePlan(health_check=HealthCheck(node_port=port, local_endpoints=2))
            world.serving.programmed(key(1), plan)
            world.serving.synced((parse_prefix("127.0.0.1/32"),))
            failed = ("pointsman_enforcer_health_check_listeners", {"state": "failed"})
            await eventually(lambda: world.registry.value(*failed) == 1)
            assert world.registry.value("pointsman_enforcer_health_check_bind_failures_total") == 1
            status = (await get(world.metrics_port, "/statusz")).document
            assert status["healthChecksNotServed"] == {
                f"default/svc-1 at 127.0.0.1 port {port}": "Address already in use"
            }
