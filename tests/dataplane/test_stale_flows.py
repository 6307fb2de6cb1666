# SPDX-License-Identifier: Apache-2.0
"""Real UDP flows through changes of a real kernel's rules: the stale ones end, the others never notice."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_model import names
from pointsman_model.names import Protocol, parse_address, parse_prefix
from pointsman_model.plan import REJECT, Frontend, FrontendKind, NodeFacts, ServicePlan, ServicePortPlan
from support.enforcer_plans import endpoints, forward, key
from support.flow_node import FlowNode, Sender
from support.flow_table import Seen, count, flows, inject, udp
from support.nft_world import ECHO_PORT, World
from support.traffic import answered

pytestmark = pytest.mark.root

DNS = key("dns")
UNRELATED = 50_000
FLUSH_AND_TRACK = """
flush ruleset
table inet others {
    chain forward { type filter hook forward priority 0; ct state established accept; }
}
"""
"""Without a rule of anybody that asks for it, the kernel tracks no connections."""


@pytest.fixture(scope="module", params=Family, ids=lambda family: family.name)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def world4() -> Iterator[World]:
    with World(Family.IPV4) as made:
        yield made


def flow_node(world: World) -> FlowNode:
    world.node.run("conntrack", "-F")
    facts = NodeFacts(
        name="node-1",
        addresses=(parse_address(world.at.node),),
        service_cidrs=(parse_prefix(world.at.service_cidr),),
    )
    return FlowNode(world.node, NodeSettings(cluster_cidrs=(parse_prefix(world.at.pods),)), facts)


@pytest.fixture
async def node(world: World) -> AsyncIterator[FlowNode]:
    async with flow_node(world) as made:
        yield made


@pytest.fixture
async def node4(world4: World) -> AsyncIterator[FlowNode]:
    async with flow_node(world4) as made:
        yield made


def dns(
    world: World, *pods: str, external: bool = False, node_port: bool = False, also: tuple[str, ...] = ()
) -> ServicePlan:
    """A service of UDP and TCP, port 53, whose endpoints are echo servers."""
    family = names.Family.IPV4 if world.family is Family.IPV4 else names.Family.IPV6
    chosen = endpoints(*pods, port=ECHO_PORT)
    plain, masked = (forward(), forward(masquerade=True)) if chosen else (REJECT, REJECT)
    found = [Frontend(FrontendKind.CLUSTER_IP, parse_address(world.at.cluster_ip), 53, plain, masked, masked)]
    if external:
        address = parse_address(world.at.load_balancer)
        found.append(Frontend(FrontendKind.EXTERNAL_IP, address, 53, masked, masked, masked))
    if node_port:
        found.append(Frontend(FrontendKind.NODE_PORT, b"", 30053, masked, masked, masked))
    port = ServicePortPlan(
        name="dns",
        protocol=Protocol.UDP,
        family=family,
        frontends=tuple(found),
        endpoint_sets=(chosen,) if chosen else (),
        also_serving=endpoints(*also, port=ECHO_PORT),
    )
    tcp = replace(port, name="dns-tcp", protocol=Protocol.TCP, also_serving=())
    return ServicePlan(ports=(port, tcp))


def answering(world: World) -> set[str]:
    """Who answers the UDP flows to the cluster IP."""
    family = "ipv4" if world.family is Family.IPV4 else "ipv6"
    return {flow.answering for flow in flows(world.node, family=family) if flow.destination == world.at.cluster_ip}


async def test_a_flow_moves_at_once_when_its_endpoint_is_replaced(world: World, node: FlowNode) -> None:
    await node.program({DNS: dns(world, world.at.pod1)})
    with Sender(world.pod, world.at.cluster_ip, 53) as sender:
        await sender.until("pod1")
        await node.program({DNS: dns(world, world.at.pod2)})
        await sender.until("pod2")
    assert answering(world) == {world.at.pod2}


async def test_without_ending_flows_it_would_go_on_for_ever(world: World, node: FlowNode) -> None:
    """The control of the test above: an unconfirmed plan ends no flow, and the kernel repeats itself."""
    await node.program({DNS: dns(world, world.at.pod1)}, is_confirmed=False)
    with Sender(world.pod, world.at.cluster_ip, 53) as sender:
        await sender.until("pod1")
        await node.looked()
        dumps = node.dumps
        await node.program({DNS: dns(world, world.at.pod2)}, is_confirmed=False)
        await node.looked()
        assert {await sender.answer() for _ in range(20)} == {"pod1"}
        assert node.dumps == dumps
        await node.program()
        await sender.until("pod2")


async def test_scaled_to_zero_and_back(world: World, node: FlowNode) -> None:
    await node.program({DNS: dns(world, world.at.pod1, node_port=True)})
    with (
        Sender(world.pod, world.at.cluster_ip, 53) as inside,
        Sender(world.client, world.at.node, 30053) as outside,
    ):
        await inside.until("pod1")
        await outside.until("pod1")
        await node.program({DNS: dns(world, node_port=True)})
        await inside.until("REJECT")
        await outside.until("REJECT")
        assert answering(world) == set()
        await node.program({DNS: dns(world, world.at.pod2, node_port=True)})
        await inside.until("pod2")
        await outside.until("pod2")


async def test_an_address_and_a_node_port_added_under_a_sending_client(world: World, node: FlowNode) -> None:
    await node.program({DNS: dns(world, world.at.pod1)})
    with (
        Sender(world.pod, world.at.load_balancer, 53) as to_address,
        Sender(world.client, world.at.node, 30053) as to_port,
    ):
        assert await to_address.answer() != "pod1"
        assert await to_port.answer() != "pod1"
        await node.program({DNS: dns(world, world.at.pod1, external=True, node_port=True)})
        await to_address.until("pod1")
        await to_port.until("pod1")


async def test_an_address_of_the_node_begins_to_accept_node_ports_under_a_sending_client(
    world: World, node: FlowNode
) -> None:
    await node.program({DNS: dns(world, world.at.pod1, node_port=True)})
    with Sender(world.client, world.at.secondary, 30053) as sender:
        assert await sender.answer() != "pod1"
        node.facts = replace(node.facts, addresses=(parse_address(world.at.secondary),))
        await node.program()
        await sender.until("pod1")


async def test_a_flow_that_began_while_somebody_had_flushed_the_rules(world: World, node: FlowNode) -> None:
    await node.program({DNS: dns(world, world.at.pod1)})
    await node.looked()
    world.node.run("nft", "-f", "-", stdin=FLUSH_AND_TRACK)
    with Sender(world.pod, world.at.cluster_ip, 53) as sender:
        assert await sender.answer() == "nobody"
        assert answering(world) == {world.at.cluster_ip}, "it passed, and will go on so"
        node.reconciler._must_observe = True
        await node.program()
        await sender.until("pod1")
    world.node.run("nft", "delete", "table", "inet", "others")


async def test_a_terminating_endpoint_keeps_its_flows_while_it_serves(world: World, node: FlowNode) -> None:
    await node.program({DNS: dns(world, world.at.pod1)})
    with Sender(world.pod, world.at.cluster_ip, 53) as sender:
        await sender.until("pod1")
        await node.program({DNS: dns(world, world.at.pod2, external=True, also=(world.at.pod1,))})
        await node.looked()
        assert node.dumps > 0
        assert {await sender.answer() for _ in range(10)} == {"pod1"}
        assert answered(world.pod, world.at.cluster_ip, 53, udp=True).name == "pod2"
        await node.program({DNS: dns(world, world.at.pod2, external=True)})
        await sender.until("pod2")


async def test_a_restart_ends_only_what_is_stale(world: World, node: FlowNode) -> None:
    await node.program({DNS: dns(world, world.at.pod1, world.at.pod2, node_port=True)})
    with Sender(world.pod, world.at.cluster_ip, 53) as one, Sender(world.client, world.at.node, 30053) as two:
        before = [await one.answer(), await two.answer()]
        assert set(before) <= {"pod1", "pod2"}
        await node.restart()
        await node.program()
        await node.looked()
        assert (node.dumps > 0, node.deletions) == (True, 0)
        dead = "10.0.7.7" if world.family is Family.IPV4 else "fd00:10:0:7::7"
        inject(world.node, [udp(world.at.cluster_ip, 53, dead, ECHO_PORT, source=world.at.pod)])
        await node.restart()
        await node.program()
        await node.looked()
        assert node.deletions == 1
        assert dead not in answering(world)
        assert [await one.answer(), await two.answer()] == before


async def test_a_removed_service_leaves_no_flow(world: World, node: FlowNode) -> None:
    await node.program({DNS: dns(world, world.at.pod1)})
    with Sender(world.pod, world.at.cluster_ip, 53) as sender:
        await sender.until("pod1")
        await node.program({}, DNS)
        await node.looked()
        assert answering(world) == set()
        assert await sender.answer() == "nobody"


async def test_tcp_connections_are_never_ended(world4: World, node4: FlowNode) -> None:
    await node4.program({DNS: dns(world4, world4.at.pod1)})
    with world4.pod.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect((world4.at.cluster_ip, 53))
        for plan in (dns(world4, world4.at.pod2), dns(world4)):
            await node4.program({DNS: plan})
            await node4.looked()
            connection.sendall(b"who?")
            assert connection.recv(64).startswith(b"pod1 ")
    assert len(flows(world4.node, "tcp")) == 1


async def test_sctp_flows_to_dead_endpoints_are_ended(world4: World, node4: FlowNode) -> None:
    plan = dns(world4, world4.at.pod1)
    sctp = replace(plan.ports[0], protocol=Protocol.SCTP)
    vip, alive, dead = world4.at.cluster_ip, world4.at.pod1, world4.at.pod2
    inject(world4.node, [udp(vip, 53, pod, ECHO_PORT, source=world4.at.pod, number=n) for n, pod in
                         enumerate((alive, dead))], protocol=132)  # fmt: skip
    await node4.program({DNS: ServicePlan(ports=(sctp,))})
    await node4.looked()
    assert {flow.answering for flow in flows(world4.node, "sctp")} == {alive}


async def test_many_unrelated_flows_cost_no_deletion(world4: World, node4: FlowNode) -> None:
    await node4.program({DNS: dns(world4, world4.at.pod1, world4.at.pod2)})
    await node4.looked()
    vip, alive, dead = world4.at.cluster_ip, world4.at.pod1, world4.at.pod2
    inject(world4.node, (udp("8.8.8.8", 53, source=f"10.1.{n >> 13}.1", number=n & 8191) for n in range(UNRELATED)))
    mine = {udp(vip, 53, pod, ECHO_PORT, source="10.0.3.9", number=n) for n, pod in enumerate((alive, dead) * 40)}
    inject(world4.node, mine)
    before, dumps = count(world4.node), node4.dumps
    await node4.program({DNS: dns(world4, alive)})
    await node4.looked()
    assert (node4.deletions, node4.dumps - dumps) == (40, 1)
    assert count(world4.node) == before - 40
    left: set[Seen] = {flow for flow in flows(world4.node) if flow.destination == vip}
    assert left == {flow for flow in mine if flow.answering == alive}


async def test_what_ended_is_counted_in_kube_proxys_words(world4: World, node4: FlowNode) -> None:
    await node4.program({DNS: dns(world4, world4.at.pod1)})
    inject(world4.node, [udp(world4.at.cluster_ip, 53, world4.at.pod1, ECHO_PORT, source=world4.at.pod)])
    await node4.program({DNS: dns(world4)})
    await node4.looked()
    prefix, labels = "kubeproxy_conntrack_reconciler", {"ip_family": "IPv4"}
    assert node4.registry.value(f"{prefix}_deleted_entries_total", labels) == 1
    assert (node4.registry.value(f"{prefix}_sync_duration_seconds_count", labels) or 0) >= 1
