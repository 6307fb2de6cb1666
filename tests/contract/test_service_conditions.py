# SPDX-License-Identifier: Apache-2.0
"""Trouble with a service that is no failure to program it, from the node to what operators look at."""

import asyncio
import socket
from pathlib import Path

import grpc.aio
from structlog.testing import capture_logs

from pointsman.control.v1 import control_service_pb2 as control
from pointsman.control.v1 import control_service_pb2_grpc as control_grpc
from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.lifecycle import Stop
from pointsman_chassis.tls import TransportSecurity
from pointsman_enforcer.app import Enforcer
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.plan import HealthCheck, ServicePlan
from pointsman_model.wire.plan import encode_service_plan
from support.cluster_objects import node
from support.enforcer_plans import key
from support.fake_nftables import FakeNftables
from support.model_enforcer import ModelEnforcer
from support.plan_server import PlanServer, enforcer_client, eventually, plan_server
from support.scripted_planner import ScriptedStream, scripted_planner

METRIC = "pointsman_planner_service_conditions"
PORT_KIND = {"kind": "health_check_node_port"}


def told(*names: str, kind: int = 1, total: int = 0) -> pb.StreamNodePlanRequest:
    request = pb.StreamNodePlanRequest(conditions=pb.Conditions(total=total or len(names)))
    for name in names:
        added = request.conditions.conditions.add(message="port 32100 is taken")
        added.kind = pb.ServiceCondition.Kind.ValueType(kind)
        added.service.namespace, added.service.name = "shop", name
        added.since.FromNanoseconds(1_700_000_000_000_000_000)
    return request


async def shown(server: PlanServer) -> control.NodeStatus:
    async with grpc.aio.insecure_channel(server.address) as channel:
        answer = await control_grpc.ControlServiceStub(channel).ListNodes(control.ListNodesRequest())  # type: ignore[misc] # grpc.aio
        found: control.NodeStatus = answer.nodes[0]
        return found


async def test_a_planner_shows_counts_and_logs_them_until_they_are_gone() -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-a")) as client:
        server.put(node("node-a", "192.168.0.2"))
        await eventually(lambda: server.is_converged("node-a"), "first sync")
        assert "conditions" in client.responses[0].welcome.capabilities
        session = server.planner.sessions["node-a"]
        with capture_logs() as logs:
            await client.send(told("web", "api"))
            await eventually(lambda: session.conditions.total == 2, "the conditions")
            await client.send(told("web"))
            await eventually(lambda: session.conditions.total == 1, "one of them is gone")
        assert [(line["service"], line["error"]) for line in logs if line["log_level"] == "warning"] == [
            ("shop/web", "port 32100 is taken"),
            ("shop/api", "port 32100 is taken"),
        ], "what goes on is not said again"
        assert server.registry.value(METRIC, PORT_KIND) == 1
        status = await shown(server)
        assert status.state == control.NodeStatus.STATE_SYNCED, "the kernel has everything as planned"
        (condition,) = status.conditions.conditions
        assert (condition.service.name, condition.kind) == ("web", pb.ServiceCondition.KIND_HEALTH_CHECK_NODE_PORT)
        assert condition.since.seconds == 1_700_000_000
        await client.send(told())
        await eventually(lambda: session.conditions.total == 0, "all are gone")
        assert server.registry.value(METRIC, PORT_KIND) == 0
        assert not (await shown(server)).HasField("conditions")


async def test_a_node_that_goes_away_no_longer_counts_and_is_still_shown() -> None:
    async with plan_server() as server:
        server.put(node("node-a", "192.168.0.2"))
        async with enforcer_client(server, ModelEnforcer("node-a")) as client:
            await client.send(told("web", kind=99, total=700))
            await eventually(lambda: server.registry.value(METRIC, {"kind": "unlisted"}) == 699, "the conditions")
            assert server.registry.value(METRIC, {"kind": "unknown"}) == 1
        await eventually(lambda: not server.planner.sessions, "the stream is gone")
        assert server.registry.value(METRIC, {"kind": "unlisted"}) == 0
        assert server.registry.value(METRIC, {"kind": "unknown"}) == 0
        status = await shown(server)
        assert (status.state, status.conditions.total) == (control.NodeStatus.STATE_DISCONNECTED, 700)


def enforcer(directory: Path, address: str) -> Enforcer:
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
    return Enforcer(config, "node-1", dataplane=dataplane)


def checked(port: int) -> bytes:
    return encode_service_plan(ServicePlan(health_check=HealthCheck(node_port=port, local_endpoints=1)))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def heard(stream: ScriptedStream) -> pb.Conditions:
    """The conditions that come with the next ack, before or after it."""
    kinds = {}
    while len(kinds) < 2:
        message = await stream.next()
        kinds[message.WhichOneof("message")] = message
    assert set(kinds) == {"ack", "conditions"}
    return kinds["conditions"].conditions


async def test_an_enforcer_tells_which_health_check_node_port_it_cannot_serve_and_when_it_can(tmp_path: Path) -> None:
    stop = Stop()
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        taken = occupied.getsockname()[1]
        async with scripted_planner() as planner:
            task = asyncio.create_task(enforcer(tmp_path, planner.address).run(stop))
            first = await planner.stream()
            await first.welcome(capabilities=["conditions"])
            await first.send(1, {key(1): checked(taken), key(2): checked(free_port())})
            message = await heard(first)
            (condition,) = message.conditions
            assert (condition.service.name, condition.kind, message.total) == ("svc-1", 1, 1)
            assert f"health check node port {taken} cannot be served at 127.0.0.1 (Address already in use)" in (
                condition.message
            )
            first.end()

            second = await planner.stream()
            await second.welcome(capabilities=["conditions"])
            again = (await second.receive("conditions")).conditions
            assert again == message, "the next stream hears of what goes on, with its beginning"
            second.held = dict(first.held)
            await second.send(1, {key(1): encode_service_plan(ServicePlan())})
            assert await heard(second) == pb.Conditions()
            second.end()

            third = await planner.stream()
            await third.welcome()
            third.held = dict(second.held)
            await third.send(1, {key(1): checked(taken)})
            await third.receive("ack")
            await third.send(2, {key(3): checked(free_port())})
            await third.receive("ack")  # and nothing else: this planner did not say that it takes conditions
            stop.set("the test is over")
            assert await task == 0
