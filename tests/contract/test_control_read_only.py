# SPDX-License-Identifier: Apache-2.0
"""ControlService on a real loopback server: lists and pages, one service, node status, node plans, explanations."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock, patch

import grpc
import grpc.aio
import pytest

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1 import control_service_pb2_grpc as pb_grpc
from pointsman.types.v1 import types_pb2
from pointsman_model.names import ServiceKey, format_address, parse_address
from pointsman_planner.core.status import NodeState, NodeStatus
from support.cluster_objects import endpoint, endpoint_slice, node, service, service_cidr
from support.model_enforcer import ModelEnforcer
from support.plan_server import PlanServer, enforcer_client, eventually, plan_server

OBJECTS = (
    node("node-a", "192.168.0.2", zone="a"),
    node("node-b", "192.168.0.3", zone="b"),
    service_cidr("kubernetes", "10.96.0.0/16"),
    service(
        "shop/web",
        "10.96.0.1",
        ports=["p:80"],
        node_ports={"p": 30080},
        load_balancer_ips=["1.2.3.4"],
        external_local=True,
    ),
    endpoint_slice(
        "shop/web-x",
        "web",
        [
            endpoint("10.1.0.1", node="node-a", zone_hints=["a"]),
            endpoint("10.1.0.2", node="node-b", zone_hints=["b"]),
            endpoint("10.1.0.3", node="node-b", ready=False, zone_hints=["b"]),
            endpoint("10.1.0.4", node="node-a", ready=False, serving=True, terminating=True, zone_hints=["a"]),
        ],
        ["p:8080"],
    ),
    service("shop/api", "10.96.0.2", external_ips=["10.96.0.1"]),
)


@asynccontextmanager
async def controlled(*, seeded: bool = True) -> AsyncIterator[tuple[PlanServer, Any]]:
    async with plan_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        if seeded:
            server.put(*OBJECTS)
        yield server, pb_grpc.ControlServiceStub(channel)


def packet(sender: str, destination: str, port: int, **more: object) -> pb.ExplainPacketRequest:
    words: dict[str, object] = {"node_name": "node-a", "protocol": types_pb2.PROTOCOL_TCP, **more}
    return pb.ExplainPacketRequest(
        source_address=parse_address(sender),
        destination_address=parse_address(destination),
        destination_port=port,
        **words,  # type: ignore[arg-type] # keywords of the message
    )


async def test_everything_fails_before_the_planner_is_in_sync() -> None:
    async with controlled(seeded=False) as (_, stub):
        for call, request in (
            (stub.ListServices, pb.ListServicesRequest()),
            (stub.GetService, pb.GetServiceRequest()),
            (stub.ListNodes, pb.ListNodesRequest()),
            (stub.GetNodePlan, pb.GetNodePlanRequest(node_name="node-a")),
            (stub.ExplainPacket, packet("10.1.0.9", "10.96.0.1", 80)),
            (stub.GetNode, pb.GetNodeRequest(node_name="node-a")),
            (stub.GetEndpoints, pb.GetEndpointsRequest()),
            (stub.WaitConverged, pb.WaitConvergedRequest(now=pb.Now())),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call(request)
            assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_services_are_listed_in_pages_with_counts_and_conflicts() -> None:
    async with controlled() as (server, stub):
        first = await stub.ListServices(pb.ListServicesRequest(page_size=1))
        second = await stub.ListServices(pb.ListServicesRequest(page_size=1, page_token=first.next_page_token))
        assert [first.services[0].service.name.name, second.services[0].service.name.name] == ["api", "web"]
        assert (first.next_page_token != "", second.next_page_token) == (True, "")
        assert (second.services[0].endpoints, second.services[0].ready_endpoints) == (4, 2)
        assert list(first.services[0].conflicts) == ["10.96.0.1 TCP 80 is held by shop/web (cluster ip)"]
        assert first.position.revision == server.revision
        other = await stub.ListServices(pb.ListServicesRequest(namespace="nowhere"))
        assert not other.services


@pytest.mark.parametrize("request_", [{"page_size": -1}, {"page_token": "???"}])
async def test_a_wrong_page_is_an_invalid_argument(request_: dict[str, object]) -> None:
    async with controlled() as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.ListServices(pb.ListServicesRequest(**request_))  # type: ignore[arg-type] # keywords
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_one_service_has_raw_facts_and_the_plan_of_a_node() -> None:
    async with controlled() as (_, stub):
        request = pb.GetServiceRequest(node_name="node-a")
        request.name.namespace, request.name.name = "shop", "web"
        answer = await stub.GetService(request)
        assert len(answer.endpoint_slices[0].endpoints) == 4
        (port,) = answer.plan.ports
        assert {len(item.ports) for item in port.endpoint_sets} == {1}
        request.name.name = "missing"
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.GetService(request)
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_nodes_show_how_far_each_has_come() -> None:
    async with controlled() as (server, stub), enforcer_client(server, ModelEnforcer("node-a"), acks=False) as client:
        await eventually(lambda: len(client.transactions) == 1, "first transaction")
        states = {item.name: item.state for item in (await stub.ListNodes(pb.ListNodesRequest())).nodes}
        assert states == {"node-a": pb.NodeStatus.STATE_STALE, "node-b": pb.NodeStatus.STATE_DISCONNECTED}
        await client.send(client.enforcer.ack(1))
        await eventually(lambda: server.is_converged("node-a"), "the ack")
        listed = await stub.ListNodes(pb.ListNodesRequest())
        first = listed.nodes[0]
        assert (first.state, first.programmed) == (pb.NodeStatus.STATE_SYNCED, listed.position)
        assert first.desired_digest == first.programmed_digest == client.enforcer.digest
        await client.send(client.enforcer.nack(1, ServiceKey("shop", "web"), "no such thing"))
        await eventually(lambda: bool(server.planner.sessions["node-a"].failures), "the nack")
        failed = (await stub.ListNodes(pb.ListNodesRequest())).nodes[0]
        assert (failed.state, failed.failures[0].message) == (pb.NodeStatus.STATE_NACKED, "no such thing")


async def test_what_an_earlier_planner_recorded_does_not_count_as_converged() -> None:
    recorded = NodeStatus(name="node-a", state=NodeState.SYNCED, desired_digest=7, programmed_digest=7, age_ns=10**12)
    async with controlled() as (server, stub):
        with patch.object(server.store, "read", AsyncMock(return_value={"node-a": recorded})):
            first = (await stub.ListNodes(pb.ListNodesRequest())).nodes[0]
    assert (first.name, first.state) == ("node-a", pb.NodeStatus.STATE_DISCONNECTED)
    assert first.programmed_digest == 7 != first.desired_digest
    assert "has not reported it" in first.reason


async def test_the_plan_of_a_node_is_what_its_enforcer_holds() -> None:
    async with controlled() as (server, stub), enforcer_client(server, ModelEnforcer("node-a")) as client:
        await eventually(lambda: server.is_converged("node-a"), "first sync")
        answer = await stub.GetNodePlan(pb.GetNodePlanRequest(node_name="node-a"))
        held = {(p.name.namespace, p.name.name): p.plan.SerializeToString() for p in answer.services}
        assert held == {tuple(key): plan for key, plan in client.enforcer.plans.items()}
        assert answer.digest == client.enforcer.digest
        assert answer.node == client.enforcer.facts
        other = await stub.GetNodePlan(pb.GetNodePlanRequest(node_name="node-b"))
        assert other.digest != answer.digest
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.GetNodePlan(pb.GetNodePlanRequest(node_name="node-x"))
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_forwarded_packet_is_explained_with_every_exclusion() -> None:
    async with controlled() as (_, stub):
        answer = await stub.ExplainPacket(
            packet("10.1.0.9", "10.96.0.1", 80, source=pb.ExplainPacketRequest.SOURCE_POD)
        )
        assert answer.outcome == pb.ExplainPacketResponse.OUTCOME_FORWARD
        assert (answer.service.name, answer.port_name) == ("web", "p")
        assert [format_address(item.address) for item in answer.endpoints] == ["10.1.0.1"]
        reasons = {format_address(item.address): item.reason for item in answer.exclusions}
        assert reasons == {
            "10.1.0.2": "its zone hints (b) do not name zone a",
            "10.1.0.3": "not ready",
            "10.1.0.4": "terminating, and there are ready endpoints",
        }
        assert any("cluster ip of shop/web" in step for step in answer.steps)
        assert any("no enforcer is connected" in step for step in answer.steps)


async def test_local_policy_is_the_reason_for_remote_endpoints() -> None:
    async with controlled() as (_, stub):
        answer = await stub.ExplainPacket(
            packet("203.0.113.2", "1.2.3.4", 80, source=pb.ExplainPacketRequest.SOURCE_OUTSIDE)
        )
        reasons = {format_address(item.address): item.reason for item in answer.exclusions}
        assert reasons["10.1.0.2"] == "traffic policy is Local, and the endpoint is on node node-b"
        assert reasons["10.1.0.4"] == "terminating, and there are ready endpoints"


@pytest.mark.parametrize(
    ("destination", "port", "outcome"),
    [
        ("10.96.0.1", 81, pb.ExplainPacketResponse.OUTCOME_REJECT),
        ("10.96.0.2", 80, pb.ExplainPacketResponse.OUTCOME_REJECT),
        ("10.96.7.7", 80, pb.ExplainPacketResponse.OUTCOME_DROP),
        ("8.8.8.8", 80, pb.ExplainPacketResponse.OUTCOME_NONE),
        ("192.168.0.2", 30080, pb.ExplainPacketResponse.OUTCOME_FORWARD),
    ],
)
async def test_other_outcomes(destination: str, port: int, outcome: int) -> None:
    async with controlled() as (_, stub):
        answer = await stub.ExplainPacket(packet("203.0.113.2", destination, port))
        assert answer.outcome == outcome
        assert answer.steps


@pytest.mark.parametrize("change", [{"protocol": 0}, {"node_name": "nope"}, {"source_address": bytes(16)}])
async def test_a_packet_that_cannot_be_is_an_invalid_argument(change: dict[str, object]) -> None:
    async with controlled() as (_, stub):
        request = packet("203.0.113.2", "10.96.0.1", 80)
        for name, value in change.items():
            setattr(request, name, value)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub.ExplainPacket(request)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_page_of_large_plans_is_shorter_and_nothing_is_left_out() -> None:
    """A client that was told nothing else takes messages of 4 MiB."""
    names = [f"big/s{number:02}" for number in range(40)]
    addresses = [f"10.1.{third}.{last}" for third in range(20) for last in range(1, 251)]
    async with controlled() as (server, stub):
        for number, name in enumerate(names):
            server.put(service(name, f"10.96.1.{number + 1}", ports=["p:80"]))
            slices = name.partition("/")[2]
            server.put(endpoint_slice(f"{name}-x", slices, [endpoint(each) for each in addresses], ["p:8080"]))
        found: list[str] = []
        token, pages = "", 0
        while pages == 0 or token:
            answer = await stub.GetNodePlan(pb.GetNodePlanRequest(node_name="node-a", page_token=token))
            assert answer.ByteSize() < 2 << 20
            found += [f"{each.name.namespace}/{each.name.name}" for each in answer.services]
            token, pages = answer.next_page_token, pages + 1
        assert pages > 1
        assert found == [*names, "shop/api", "shop/web"]
