# SPDX-License-Identifier: Apache-2.0
"""One node with everything that is known of it, and one Service with the fate of every endpoint, over real gRPC."""

import asyncio
from typing import Any
from unittest.mock import AsyncMock, patch

import grpc
import grpc.aio
import pytest

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1 import control_service_pb2_grpc as pb_grpc
from pointsman.plan.v1 import plan_service_pb2
from pointsman.types.v1 import types_pb2
from pointsman_model.names import format_address
from pointsman_planner.core.status import NodeState, NodeStatus
from pointsman_planner.store.memory_store import MemoryStore
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import DEADLINE_SECONDS, enforcer_client, eventually, plan_server

OBJECTS = (
    node("node-a", "192.168.0.2", zone="a", labels={"pool": "edge"}),
    node("node-b", "192.168.0.3"),
    service("shop/web", "10.96.0.1", ports=["p:80"], node_ports={"p": 30080}, external_local=True),
    endpoint_slice(
        "shop/web-x", "web", [endpoint("10.1.0.1", node="node-a"), endpoint("10.1.0.2", node="node-b")], ["p:8080"]
    ),
)


def stub_of(channel: grpc.aio.Channel) -> Any:
    return pb_grpc.ControlServiceStub(channel)


async def get_node(stub: Any, name: str) -> pb.GetNodeResponse:
    answer = await stub.GetNode(pb.GetNodeRequest(node_name=name))
    assert isinstance(answer, pb.GetNodeResponse)
    return answer


async def test_one_node_has_its_levels_its_planner_and_what_the_api_server_says() -> None:
    async with plan_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        server.put(*OBJECTS)
        stub = stub_of(channel)
        async with enforcer_client(server, ModelEnforcer("node-a"), acks=False) as client:
            await eventually(lambda: len(client.transactions) == 1, "first transaction")
            received = client.enforcer.ack(1)
            received.ack.level = plan_service_pb2.ACK_LEVEL_RECEIVED
            await client.send(received)
            await eventually(lambda: len(tuple(server.planner.sessions["node-a"].reached)) == 1, "received")
            waiting = (await get_node(stub, "node-a")).status
            assert waiting.state == pb.NodeStatus.STATE_STALE
            assert waiting.reason.endswith("ago is received and not programmed yet")
            await client.send(client.enforcer.ack(1))
            await eventually(lambda: server.is_converged("node-a"), "programmed")
            answer = await get_node(stub, "node-a")
            status = answer.status
            assert (status.state, status.reason, status.planner_id) == (
                pb.NodeStatus.STATE_SYNCED,
                "",
                "planner-under-test",
            )
            levels = {each.level: (each.digest, each.position.revision) for each in status.reached}
            expected = (client.enforcer.digest, server.revision)
            assert levels == dict.fromkeys(
                (plan_service_pb2.ACK_LEVEL_RECEIVED, plan_service_pb2.ACK_LEVEL_PROGRAMMED), expected
            )
            assert status.since.seconds > 0
            assert (answer.node.labels["pool"], answer.position.revision) == ("edge", server.revision)


async def test_a_node_that_never_was_is_not_found_and_one_that_never_came_says_so() -> None:
    async with plan_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        server.put(*OBJECTS)
        stub = stub_of(channel)
        status = (await get_node(stub, "node-b")).status
        assert (status.state, status.reason) == (pb.NodeStatus.STATE_DISCONNECTED, "never connected")
        assert status.desired_digest == server.planner.desired_digest("node-b")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await get_node(stub, "node-x")
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_node_names_the_services_that_differ_and_why() -> None:
    async with plan_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        server.put(*OBJECTS)
        stub = stub_of(channel)
        async with enforcer_client(server, ModelEnforcer("node-a")) as client:
            await eventually(lambda: server.is_converged("node-a"), "first sync")
            settled = await get_node(stub, "node-a")
            assert (list(settled.differences), settled.has_stream) == ([], True)
            client.acks = False
            for name in ("a", "b", "c"):
                server.put(service(f"shop/{name}", f"10.96.1.{ord(name)}", ports=["p:80"]))
                await eventually(lambda name=name: name == "c" or len(client.transactions) > ord(name) - 96, "sent")
            standings = {each.service.name: each.standing for each in (await get_node(stub, "node-a")).differences}
            sent, waiting = pb.ServiceDifference.STANDING_SENT, pb.ServiceDifference.STANDING_WAITING
            assert standings == {"a": sent, "b": sent, "c": waiting}
            failure = plan_service_pb2.ServiceFailure(
                service=types_pb2.NamespacedName(namespace="shop", name="a"),
                stage=plan_service_pb2.ServiceFailure.STAGE_APPLY,
                message="no room",
            )
            nack = plan_service_pb2.Nack(nonce=2, failures=[failure])
            await client.send(plan_service_pb2.StreamNodePlanRequest(nack=nack))
            for nonce in (3, 4):
                await eventually(lambda nonce=nonce: len(client.transactions) >= nonce, "what waited is sent")
                ack = client.enforcer.ack(nonce)
                ack.ack.programmed_digest = settled.status.programmed_digest
                await client.send(ack)
            await eventually(lambda: not server.planner.sessions["node-a"].in_flight, "all acknowledged")
            (found,) = (await get_node(stub, "node-a")).differences
    assert (found.service.name, found.reason) == ("a", "apply: no room")
    assert found.standing == pb.ServiceDifference.STANDING_REFUSED


async def test_any_planner_judges_every_node_by_its_own_plan_of_it() -> None:
    shared = MemoryStore()
    async with (
        plan_server(planner_id="p1", shared=shared, heartbeat_seconds=0.2) as owner,
        plan_server(planner_id="p2", shared=shared, heartbeat_seconds=0.2) as other,
        grpc.aio.insecure_channel(other.address) as channel,
    ):
        for server in (owner, other):
            server.put(*OBJECTS)
        stub = stub_of(channel)
        async with enforcer_client(owner, ModelEnforcer("node-a")) as client:

            async def is_now(state: Any) -> None:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    while (await get_node(stub, "node-a")).status.state != state:
                        await client.send(client.enforcer.heartbeat())
                        await asyncio.sleep(0.02)

            await is_now(pb.NodeStatus.STATE_SYNCED)
            assert (await get_node(stub, "node-a")).status.planner_id == "p1"
            other.put(service("shop/new", "10.96.0.9", ports=["p:80"]))
            stale = (await get_node(stub, "node-a")).status
            assert stale.state == pb.NodeStatus.STATE_STALE
            assert stale.reason.startswith("p1 calls it synced at test/1, and at test/2 ")
            owner.put(service("shop/new", "10.96.0.9", ports=["p:80"]))
            await is_now(pb.NodeStatus.STATE_SYNCED)
            listed = await stub.ListNodes(pb.ListNodesRequest(nodes=pb.NodeSelector(label_selector="pool=edge")))
            assert [(each.name, each.state) for each in listed.nodes] == [("node-a", pb.NodeStatus.STATE_SYNCED)]
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not (await get_node(stub, "node-a")).status.reason.startswith("disconnected: "):
                await asyncio.sleep(0.02)


async def test_a_planner_that_no_longer_reports_leaves_its_nodes_unknown() -> None:
    async with plan_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        server.put(*OBJECTS)
        hour_ns = 3600 * 10**9
        record = NodeStatus(name="node-a", state=NodeState.SYNCED, planner_id="p1", age_ns=hour_ns)
        with patch.object(server.store, "read", AsyncMock(return_value={"node-a": record})):
            status = (await get_node(stub_of(channel), "node-a")).status
        assert status.state == pb.NodeStatus.STATE_DISCONNECTED
        assert status.reason == "unknown: p1 has not reported it for 3600 s"


async def test_every_endpoint_has_its_sets_and_the_reason_for_each_absence() -> None:
    async with plan_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        server.put(*OBJECTS)
        stub = stub_of(channel)
        name = types_pb2.NamespacedName(namespace="shop", name="web")
        answer = await stub.GetEndpoints(pb.GetEndpointsRequest(service=name, node_name="node-a"))
        (port,) = answer.endpoints.ports
        assert list(port.used_sets) == [pb.EndpointState.SET_CLUSTER, pb.EndpointState.SET_LOCAL]
        mine, other = port.endpoints
        assert (format_address(mine.facts.address), list(mine.sets), mine.weight) == ("10.1.0.1", [1, 2], 1)
        (absence,) = other.absences
        assert (absence.set, absence.cause) == (pb.EndpointState.SET_LOCAL, pb.Exclusion.CAUSE_POLICY_LOCAL)
        assert absence.reason == "traffic policy is Local, and the endpoint is on node node-b"
        assert other.endpoint_slice.name == "web-x"
        assert answer.position.revision == server.revision


@pytest.mark.parametrize(
    ("name", "node_name", "code"),
    [
        ("ghost", "", grpc.StatusCode.NOT_FOUND),
        ("web", "node-x", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_endpoints_of_what_does_not_exist(name: str, node_name: str, code: grpc.StatusCode) -> None:
    async with plan_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        server.put(*OBJECTS)
        request = pb.GetEndpointsRequest(
            service=types_pb2.NamespacedName(namespace="shop", name=name), node_name=node_name
        )
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub_of(channel).GetEndpoints(request)
        assert failure.value.code() is code
