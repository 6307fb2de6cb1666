# SPDX-License-Identifier: Apache-2.0
"""Facts about the node that change at run time take effect on a real kernel, without a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.node_settings import DetectLocalMode, NodeSettings
from pointsman_model import names
from pointsman_model.names import Protocol, parse_address, parse_prefix
from pointsman_model.plan import Frontend, FrontendKind, NodeFacts, ServicePlan, ServicePortPlan
from support.enforcer_plans import endpoints, forward, key
from support.flow_node import FlowNode
from support.nft_world import ECHO_PORT, World
from support.traffic import Reply, probe, seen

pytestmark = pytest.mark.root

NODE_PORT = 30080


@pytest.fixture(scope="module", params=Family, ids=lambda family: family.name)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param) as made:
        yield made


@pytest.fixture
async def node(world: World) -> AsyncIterator[FlowNode]:
    """Node ports on the primary addresses, and pods recognised by the node's pod CIDRs: both come from the facts."""
    facts = NodeFacts(
        name="node-1", addresses=(parse_address(world.at.node),), pod_cidrs=(parse_prefix(world.at.pods),)
    )
    settings = NodeSettings(detect_local_mode=DetectLocalMode.NODE_CIDR)
    async with FlowNode(world.node, settings, facts) as made:
        await made.program({key(1): service(world)})
        yield made


def service(world: World) -> ServicePlan:
    masked = forward(masquerade=True)
    frontends = (
        Frontend(FrontendKind.CLUSTER_IP, parse_address(world.at.cluster_ip), 80, forward(), masked, masked),
        Frontend(FrontendKind.NODE_PORT, b"", NODE_PORT, masked, masked, masked),
    )
    port = ServicePortPlan(
        name="",
        protocol=Protocol.TCP,
        family=names.Family.IPV4 if world.family is Family.IPV4 else names.Family.IPV6,
        frontends=frontends,
        endpoint_sets=(endpoints(world.at.pod1, port=ECHO_PORT),),
    )
    return ServicePlan(ports=(port,))


def accepts_node_ports(world: World, address: str) -> bool:
    return isinstance(probe(world.client, address, NODE_PORT, silent=True), Reply)


async def test_node_ports_move_with_the_primary_address(world: World, node: FlowNode) -> None:
    assert accepts_node_ports(world, world.at.node)
    assert not accepts_node_ports(world, world.at.secondary)
    node.facts = replace(node.facts, addresses=(parse_address(world.at.secondary), parse_address(world.at.node)))
    await node.program()
    assert accepts_node_ports(world, world.at.secondary)
    assert not accepts_node_ports(world, world.at.node)
    node.facts = replace(node.facts, addresses=())
    await node.program()
    assert not accepts_node_ports(world, world.at.secondary)


async def test_pods_are_those_of_the_new_pod_cidr(world: World, node: FlowNode) -> None:
    _, peers = seen(world.pod, world.at.cluster_ip)
    assert peers == {world.at.pod}, "a pod keeps its address"
    nowhere = "10.99.0.0/24" if world.family is Family.IPV4 else "fd00:99::/64"
    node.facts = replace(node.facts, pod_cidrs=(parse_prefix(nowhere),))
    await node.program()
    _, peers = seen(world.pod, world.at.cluster_ip)
    assert peers == {world.at.gateway1}, "who is no pod is masqueraded"
    node.facts = replace(node.facts, pod_cidrs=())
    await node.program()
    _, peers = seen(world.pod, world.at.cluster_ip)
    assert peers == {world.at.pod}, "without a detector everybody counts as a pod"
    node.facts = replace(node.facts, pod_cidrs=(parse_prefix(nowhere), parse_prefix(world.at.pods)))
    await node.program()
    _, peers = seen(world.pod, world.at.cluster_ip)
    assert peers == {world.at.gateway1}, "the first block of the family is the node's"
