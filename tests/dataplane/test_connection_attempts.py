# SPDX-License-Identifier: Apache-2.0
"""Connections begun while the table was away, in a real kernel: they get through once it is back, others are let be."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_model import names
from pointsman_model.names import Protocol, parse_address, parse_prefix
from pointsman_model.plan import Frontend, FrontendKind, NodeFacts, ServicePlan, ServicePortPlan
from support.enforcer_plans import endpoints, forward, key
from support.flow_node import FlowNode, eventually
from support.flow_table import flows, inject, udp
from support.nft_world import ECHO_PORT, World
from support.traffic import EchoServer, parse_reply

pytestmark = pytest.mark.root

WEB = key("web")
PORT, NODE_PORT = 80, 30080
UNRELATED = 20_000
TRACK = "table inet others { chain forward { type filter hook forward priority 0; ct state established accept; }; }"
"""Without a rule of anybody that asks for it, the kernel tracks no connections."""


@pytest.fixture(scope="module", params=Family, ids=lambda family: family.name)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param) as made:
        made.node.run("nft", TRACK)
        yield made


@pytest.fixture
async def node(world: World) -> AsyncIterator[FlowNode]:
    world.node.run("conntrack", "-F")
    facts = NodeFacts(
        name="node-1",
        addresses=(parse_address(world.at.node),),
        service_cidrs=(parse_prefix(world.at.service_cidr),),
    )
    async with FlowNode(world.node, NodeSettings(cluster_cidrs=(parse_prefix(world.at.pods),)), facts) as made:
        yield made


def web(world: World) -> ServicePlan:
    """TCP and UDP by cluster IP, external IP and node port."""
    family = names.Family.IPV4 if world.family is Family.IPV4 else names.Family.IPV6
    plain, masked = forward(), forward(masquerade=True)
    tcp = ServicePortPlan(
        name="tcp",
        protocol=Protocol.TCP,
        family=family,
        frontends=(
            Frontend(FrontendKind.CLUSTER_IP, parse_address(world.at.cluster_ip), PORT, plain, masked, masked),
            Frontend(FrontendKind.EXTERNAL_IP, parse_address(world.at.load_balancer), PORT, masked, masked, masked),
            Frontend(FrontendKind.NODE_PORT, b"", NODE_PORT, masked, masked, masked),
        ),
        endpoint_sets=(endpoints(world.at.pod1, port=ECHO_PORT),),
    )
    return ServicePlan(ports=(tcp, replace(tcp, name="udp", protocol=Protocol.UDP)))


def begin(world: World, address: str, port: int = PORT) -> socket.socket:
    """A TCP connection whose first packet is on its way."""
    opened = world.pod.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    opened.setblocking(False)
    assert opened.connect_ex((address, port)) == errno.EINPROGRESS
    return opened


async def answer(connection: socket.socket) -> str:
    """Who is at the other end; within the time in which the first packet is repeated twice."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(8):
        await eventually(lambda: connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 and is_open(connection))
        await loop.sock_sendall(connection, b"who?")
        return parse_reply(await loop.sock_recv(connection, 128)).name


def is_open(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True


def entries(world: World, destination: str, protocol: str = "tcp") -> set[str]:
    """Who answers the entries to a destination."""
    family = "ipv4" if world.family is Family.IPV4 else "ipv6"
    return {each.answering for each in flows(world.node, protocol, family) if each.destination == destination}


@asynccontextmanager
async def away(world: World, node: FlowNode, damage: str = "") -> AsyncIterator[None]:
    """Somebody removes our table; afterwards the enforcer hears of it."""
    world.node.run("nft", damage or f"delete table {world.family.keyword} pointsman")
    yield
    node.reconciler.drift.notice()
    await eventually(lambda: node.reconciler.drift.is_due)
    await node.reconciler.run()


@pytest.mark.parametrize(
    "damage", ["", "flush chain {family} pointsman services", "flush map {family} pointsman service_ips"]
)
async def test_a_connection_begun_while_rules_were_missing_gets_through(
    world: World, node: FlowNode, damage: str
) -> None:
    await node.program({WEB: web(world)})
    vip = world.at.load_balancer
    async with away(world, node, damage.format(family=world.family.keyword)):
        with_sockets = [begin(world, vip) for _ in range(3)]
        await eventually(lambda: entries(world, vip))
        assert entries(world, vip) == {vip}, "nobody translates"
    for connection in with_sockets:
        with connection:
            assert await answer(connection) == "pod1"
    assert entries(world, vip) == {world.at.pod1}


async def test_a_connection_begun_before_a_start_without_tables_gets_through_without_a_planner(
    world: World, node: FlowNode
) -> None:
    with begin(world, world.at.cluster_ip) as connection:
        await eventually(lambda: entries(world, world.at.cluster_ip))
        await node.program({WEB: web(world)}, is_confirmed=False)
        assert await answer(connection) == "pod1"


async def test_a_connection_that_somebody_answered_meanwhile_goes_on(world: World, node: FlowNode) -> None:
    vip = world.at.load_balancer
    world.client.run("ip", "address", "replace", f"{vip}/{world.family.address_bytes * 8}", "dev", "lo")
    await node.program({WEB: web(world)})
    with EchoServer(world.client, "elsewhere", PORT):
        async with away(world, node):
            connection = begin(world, vip)
            assert await answer(connection) == "elsewhere"
        await node.looked()
        with connection:
            assert await answer(connection) == "elsewhere"
    world.client.run("ip", "address", "delete", f"{vip}/{world.family.address_bytes * 8}", "dev", "lo")


async def test_only_attempts_at_places_of_ours_are_ended(world: World, node: FlowNode) -> None:
    """Untranslated, unanswered entries: to our places, to others, to a node port elsewhere, and translated ones."""
    await node.program({WEB: web(world)})
    at, protocol = world.at, 6
    source = at.pod
    ours = [
        udp(at.cluster_ip, PORT, source=source, number=1),
        udp(at.load_balancer, PORT, source=source, number=2),
        udp(at.node, NODE_PORT, source=source, number=3),
    ]
    others = [
        udp(at.cluster_ip, PORT + 1, source=source, number=4),
        udp(at.client, NODE_PORT, source=source, number=5),
        udp(at.client, PORT, source=source, number=6),
        udp(at.secondary, NODE_PORT, source=source, number=7),
        udp(at.cluster_ip, PORT, at.pod1, ECHO_PORT, source=source, number=8),
    ]
    family = "ipv4" if world.family is Family.IPV4 else "ipv6"
    async with away(world, node):
        inject(world.node, [*ours, *others], protocol)
    await node.looked()
    left = flows(world.node, "tcp", family)
    assert left & {*ours, *others} == set(others)


async def test_udp_attempts_begin_anew_without_a_planner(world: World, node: FlowNode) -> None:
    await node.program({WEB: web(world)}, is_confirmed=False)
    async with away(world, node):
        inject(world.node, [udp(world.at.cluster_ip, PORT, source=world.at.pod)])
    await node.looked()
    assert entries(world, world.at.cluster_ip, "udp") == set()
    assert node.registry.value("pointsman_enforcer_conntrack_attempts_ended_total") == 1


async def test_a_repair_costs_one_walk_of_the_table_whatever_is_in_it(world: World, node: FlowNode) -> None:
    tcp_only = replace(web(world), ports=web(world).ports[:1])
    await node.program({WEB: tcp_only})
    await node.looked()
    away_to = world.at.client
    inject(world.node, (udp(away_to, 443, source=world.at.pod, number=each) for each in range(UNRELATED)), 6)
    dumps, deletions = node.dumps, node.deletions
    async with away(world, node):
        inject(world.node, [udp(world.at.cluster_ip, PORT, source=world.at.pod)], 6)
    await node.looked()
    assert (node.dumps - dumps, node.deletions - deletions) == (1, 1)
    world.node.run("conntrack", "-F")


async def test_while_nothing_of_ours_was_missing_the_table_is_not_walked(world: World, node: FlowNode) -> None:
    tcp_only = replace(web(world), ports=web(world).ports[:1])
    await node.program({WEB: tcp_only})
    await node.looked()
    dumps = node.dumps
    changed = replace(tcp_only.ports[0], endpoint_sets=(endpoints(world.at.pod2, port=ECHO_PORT),))
    await node.program({WEB: ServicePlan(ports=(changed,))})
    await node.looked()
    assert node.dumps == dumps
