# SPDX-License-Identifier: Apache-2.0
"""Session affinity between nodes, the enforcer's side over real gRPC: exceptions go out, those of others go in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.apply import TABLES
from pointsman_enforcer.dataplane.nftables.elements import Element, add_timed, delete_keys
from pointsman_enforcer.dataplane.nftables.message import Batch, Family
from pointsman_model.affinity import pick
from pointsman_model.names import Protocol, ServicePortName, parse_address
from pointsman_model.plan import Frontend, FrontendKind, PlanEndpoint, ServicePlan
from pointsman_model.remembered import ClientKey, RememberedClient
from pointsman_model.wire.plan import encode_service_plan
from pointsman_model.wire.remembered import memory_from_pb, memory_to_pb
from support.enforcer_node import Node
from support.enforcer_plans import cluster_ip, endpoints, forward, key
from support.scripted_planner import ScriptedStream, eventually, scripted_planner

TWO, THREE = endpoints("10.1.0.1", "10.1.0.2"), endpoints("10.1.0.1", "10.1.0.2", "10.1.0.3")
PORT = ServicePortName(key(1), "", Protocol.TCP)
TIMEOUT = 20
"""Short, so that a client is told of again as soon as it has connected again."""


def service(chosen: tuple[PlanEndpoint, ...], *, is_shared: bool = True) -> bytes:
    port = cluster_ip("172.30.0.1", 80, chosen)
    if is_shared:
        node_port = Frontend(FrontendKind.NODE_PORT, b"", 30080, forward(), forward(), forward(masquerade=True))
        port = replace(port, frontends=(*port.frontends, node_port))
    return encode_service_plan(ServicePlan(ports=(port,), affinity_timeout_seconds=TIMEOUT))


def moved_client() -> tuple[bytes, tuple[bytes, int]]:
    """A client whose pick is another with three endpoints than with two, and the one of two."""
    for number in range(1, 255):
        client = bytes((203, 0, 113, number))
        before = pick(client, TWO)
        if pick(client, THREE)[:2] != before[:2]:
            return client, before[:2]
    raise AssertionError("the third endpoint takes no client")


CLIENT, KEPT = moved_client()


def remembered(
    endpoint: tuple[bytes, int] = KEPT, *, seconds: int = TIMEOUT, client: bytes = CLIENT
) -> RememberedClient:
    return RememberedClient(ClientKey(PORT, client), endpoint, seconds * 1000)


def in_kernel(node: Node) -> dict[bytes, Element]:
    """Who is remembered."""
    found = node.kernel.elements().get((Family.IPV4, "pointsman", layout.AFFINITY.name), frozenset())
    return {element.key[4:]: element for element in found}


def connects(node: Node, client: bytes, endpoint: tuple[bytes, int]) -> None:
    """The client makes a connection, and gets this endpoint: what the kernel's rules then do."""
    elements = node.kernel.elements()
    (port,) = elements[Family.IPV4, "pointsman", layout.AFFINITY_IDS.name]
    value = layout.endpoint_value(*endpoint)
    members = elements[Family.IPV4, "pointsman", layout.AFFINITY_ENDPOINTS.name]
    member = next(each.key[4:] for each in members if each.data == value)
    place, table = port.data + client, TABLES[Family.IPV4]
    gone = delete_keys(table, layout.AFFINITY, [place]) if client in in_kernel(node) else []
    timed = add_timed(table, layout.AFFINITY, [(place, member, TIMEOUT * 1000, TIMEOUT * 1000)])
    node.kernel.commit_blocking(Batch([*gone, *timed]))


async def begin(stream: ScriptedStream, plan: bytes, capabilities: Sequence[str] = ("affinity",)) -> None:
    await stream.welcome(capabilities=capabilities)
    await stream.send(1, {key(1): plan})
    await stream.receive("ack")


async def told(stream: ScriptedStream) -> list[RememberedClient]:
    message = await stream.receive("affinity", passing=("ack",))
    return memory_from_pb(message.affinity)


async def tell(stream: ScriptedStream, *clients: RememberedClient) -> None:
    await stream.write(pb.StreamNodePlanResponse(affinity=memory_to_pb(clients)))


async def test_an_endpoint_that_is_added_makes_an_exception_and_the_planner_hears_of_it(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await begin(stream, service(TWO))
        connects(node, CLIENT, KEPT)
        await stream.send(2, {key(1): service(THREE)})
        (exception,) = await told(stream)
        assert exception[:2] == remembered()[:2]
        assert 0 < exception.left_ms <= TIMEOUT * 1000


async def test_a_planner_that_does_not_share_them_is_told_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await begin(stream, service(TWO), capabilities=("conditions",))
        connects(node, CLIENT, KEPT)
        await stream.send(2, {key(1): service(THREE)})
        await stream.receive("ack")
        stream.end()
        again = await planner.stream()
        again.held = dict(stream.held)
        await again.welcome(capabilities=("affinity",))
        await again.send(1, {})
        assert [each.key for each in await told(again)] == [remembered().key]


async def test_clients_of_a_cluster_ip_alone_are_nobody_elses_business(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await begin(stream, service(TWO, is_shared=False))
        connects(node, CLIENT, KEPT)
        await stream.send(2, {key(1): service(THREE, is_shared=False)})
        await stream.receive("ack")
        await stream.send(3, {key(1): service(TWO)})
        await stream.receive("ack")
        connects(node, CLIENT, KEPT)
        await stream.send(4, {key(1): service(THREE)})
        message = await stream.next()
        assert message.ack.nonce == 4, "the client of the cluster IP was told of"
        assert [each.key for each in await told(stream)] == [remembered().key]


async def test_the_kernel_is_made_to_remember_what_the_planner_tells(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await begin(stream, service(THREE))
        await tell(stream, remembered(seconds=15))
        await eventually(lambda: CLIENT in in_kernel(node), "the client is remembered")
        assert 0 < in_kernel(node)[CLIENT].expiration_ms <= 15_000
        await tell(stream, remembered(seconds=19))
        await eventually(lambda: in_kernel(node)[CLIENT].expiration_ms > 15_000, "it is remembered for longer")
        connects(node, CLIENT, KEPT)
        other = next(each[:2] for each in THREE if each[:2] != KEPT)
        neighbour = bytes((203, 0, 114, 1))
        await tell(stream, remembered(other), remembered(client=neighbour))
        await eventually(lambda: neighbour in in_kernel(node), "the other client is remembered")
        members = {address: element.data for address, element in in_kernel(node).items()}
        assert members[CLIENT] == members[neighbour], "it was moved to another endpoint"


async def test_what_came_from_the_planner_goes_back_only_when_the_client_has_connected_here(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await begin(stream, service(THREE))
        await tell(stream, remembered(seconds=15))
        await eventually(lambda: CLIENT in in_kernel(node), "the client is remembered")
        await stream.send(2, {key(1): service(TWO)})
        await stream.send(3, {key(1): service(THREE)})
        connects(node, CLIENT, KEPT)
        (exception,) = await told(stream)
        assert exception.left_ms > 15_000


async def test_clients_that_come_before_the_plan_of_their_service_are_not_lost(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await stream.welcome(capabilities=("affinity",))
        await tell(stream, remembered())
        await stream.send(1, {key(1): service(THREE)})
        await eventually(lambda: CLIENT in in_kernel(node), "the client is remembered")


async def test_an_endpoint_of_no_set_is_not_remembered_whoever_says_so(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with scripted_planner() as planner, node.enforcer(planner.address):
        stream = await planner.stream()
        await begin(stream, service(THREE))
        foreign = (parse_address("8.8.8.8"), 53)
        odd = pb.AffinityEntry(client=b"123", endpoint_port=70_000)
        message = memory_to_pb([remembered(foreign), remembered(client=bytes((203, 0, 114, 1)))])
        await stream.write(pb.StreamNodePlanResponse(affinity=pb.AffinityMemory(entries=[odd, *message.entries])))
        await eventually(lambda: bool(in_kernel(node)), "the good one is remembered")
        assert set(in_kernel(node)) == {bytes((203, 0, 114, 1))}
