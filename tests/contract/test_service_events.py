# SPDX-License-Identifier: Apache-2.0
"""A health check node port that a node cannot bind, as an Event on the Service at the API server."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from structlog.testing import capture_logs

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.lifecycle import Stop
from pointsman_chassis.tls import TransportSecurity
from pointsman_enforcer.app import Enforcer
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_lab.apiserver import ApiClient, ApiServer
from pointsman_lab.apiserver.encoding import Json
from pointsman_lab.apiserver.resources import CORE_EVENTS, NAMESPACES, SERVICES
from pointsman_model.names import ServiceKey
from pointsman_planner.access.reviews import api_access
from pointsman_planner.access.settings import AccessSettings
from pointsman_planner.core.messages import Condition
from pointsman_planner.event_writer import EventMetrics, EventWriter
from support.cluster_objects import node, service, service_json
from support.fake_nftables import FakeNftables
from support.guarded_planner import reviewing_api_server
from support.plan_server import PlanServer, eventually, plan_server

METRIC = "pointsman_planner_events_total"


class World:
    """An API server with the Service shop/web, and a planner that writes Events there."""

    def __init__(self, api: ApiServer, kubeconfig: Path, server: PlanServer, client: ApiClient) -> None:
        self.api, self.server, self.client = api, server, client
        self.settings = AccessSettings(events=True, kubeconfig=str(kubeconfig))
        self.writer = self.make_writer("planner-1")
        server.plans.on_trouble = self.writer.begun

    def make_writer(self, planner_id: str) -> EventWriter:
        return EventWriter(
            open_access=lambda: api_access(self.settings),
            planner_id=planner_id,
            knows=lambda key: key in self.server.planner.cluster.services,
            metrics=EventMetrics(self.server.registry) if planner_id == "planner-1" else self.writer._metrics,
            clock=SystemClock(),
        )

    async def events(self) -> list[Json]:
        return list((await self.client.list(CORE_EVENTS, "shop"))["items"])

    def outcome(self, outcome: str) -> float:
        return self.server.registry.value(METRIC, {"outcome": outcome}) or 0.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "api").mkdir()
    async with reviewing_api_server(tmp_path / "api") as (api, kubeconfig), plan_server() as server:
        context = ssl.create_default_context(cafile=str(next((tmp_path / "api").glob("*ca*"))))
        context.check_hostname = False
        async with ApiClient(api.url, tls=context, token="planner-token") as client:  # noqa: S106 - the test server's
            body = service_json("shop/web", "10.96.0.10")
            for name in ("uid", "resourceVersion"):
                body["metadata"].pop(name)
            await client.create(NAMESPACES, {"metadata": {"name": "shop"}})
            await client.create(SERVICES, body, "shop")
            made = World(api, kubeconfig, server, client)
            task = asyncio.create_task(made.writer.run())
            try:
                yield made
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def enforcer(directory: Path, address: str) -> AsyncIterator[None]:
    config = EnforcerConfiguration(
        planner_addresses=(address,),
        state_directory=str(directory),
        cluster_cidr="10.0.0.0/8",
        node_port_addresses=("127.0.0.1/32",),
        healthz_bind_address="",
        metrics_bind_address="",
        security=TransportSecurity(insecure=True),
    )
    dataplane = NftablesDataplane(node_settings=config.node_settings(), kernel=FakeNftables())
    stop = Stop()
    task = asyncio.create_task(Enforcer(config, "node-a", dataplane=dataplane).run(stop))
    try:
        yield
    finally:
        stop.set("the test is over")
        await task


def trouble(message: str = "port 32100 is taken", *, name: str = "web", since_ns: int = 1) -> Condition:
    return Condition(service=ServiceKey("shop", name), kind=1, message=message, since_ns=since_ns)


async def test_a_port_that_a_node_cannot_bind_is_an_event_on_the_service(world: World, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        lb = {"load_balancer_ips": ["192.0.2.1"], "external_local": True, "health_check_node_port": port}
        world.server.put(node("node-a", "192.168.0.2"), service("shop/web", **lb))  # type: ignore[arg-type] # words of the builder
        async with enforcer(tmp_path, world.server.address):
            await eventually(lambda: world.outcome("written") == 1, "the Event")
    [event] = await world.events()
    uid = (await world.client.get(SERVICES, "web", "shop"))["metadata"]["uid"]
    assert event["reason"] == "FailedToStartServiceHealthcheck"
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "shop",
        "name": "web",
        "uid": uid,
    }
    assert event["type"] == "Warning"
    assert event["message"].startswith(f"node node-a: health check node port {port} cannot be served")
    assert event["related"]["name"] == event["source"]["host"] == "node-a"
    assert event["reportingInstance"] == "planner-1"
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Event", **event}, "1.36", strict=True)


async def test_two_planners_that_hear_of_it_write_one_event(world: World) -> None:
    world.server.put(service("shop/web"))
    other = world.make_writer("planner-2")
    task = asyncio.create_task(other.run())
    world.writer.begun("node-a", [trouble()])
    other.begun("node-a", [trouble()])
    await eventually(lambda: world.outcome("written") == 2, "both have it written")
    task.cancel()
    assert len(await world.events()) == 1


async def test_an_api_server_that_is_away_for_a_moment_is_asked_again(world: World) -> None:
    world.server.put(service("shop/web"))
    world.api.faults.refuse(count=1, code=503, resource="services", verb="get")
    world.writer.begun("node-a", [trouble()])
    await eventually(lambda: world.outcome("written") == 1, "the Event")
    assert len(await world.events()) == 1


async def test_missing_rights_are_said_once_for_each_event_and_harm_nothing(world: World) -> None:
    world.server.put(service("shop/web"))
    world.api.faults.refuse(count=1, code=403, resource="events", verb="create")
    with capture_logs() as logs:
        world.writer.begun("node-a", [trouble()])
        await eventually(lambda: world.outcome("refused") == 1, "it is given up")
    [line] = [each for each in logs if each["event"] == "an Event was not written"]
    assert (line["service"], line["node"]) == ("shop/web", "node-a")
    assert "deploy/components/events" in line["error"]
    world.writer.begun("node-a", [trouble(since_ns=2)])
    await eventually(lambda: world.outcome("written") == 1, "the next one is written")


async def test_a_node_that_names_services_at_will_makes_no_requests(world: World) -> None:
    world.server.put(service("shop/web"))
    world.writer.begun("node-a", [trouble(name=f"made-up-{number}") for number in range(1000)])
    assert world.outcome("unknown") == 1000
    assert await world.events() == []


async def test_an_event_of_a_service_that_is_gone_by_now_is_given_up(world: World) -> None:
    world.server.put(service("shop/gone"))
    world.writer.begun("node-a", [trouble(name="gone")])
    await eventually(lambda: world.outcome("refused") == 1, "nothing to write it on")


async def test_begun_returns_at_once_whatever_comes(world: World) -> None:
    world.server.put(*(service(f"shop/svc-{number}", f"10.96.1.{number}") for number in range(250)))
    conditions: list[Any] = [trouble(name=f"svc-{number}") for number in range(250)]
    world.writer.begun("node-a", conditions)
    assert world.outcome("overflowed") == 50
