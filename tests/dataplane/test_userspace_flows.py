# SPDX-License-Identifier: Apache-2.0
"""UDP clients that never pause, through rules that lead to a proxy: no entry of the kernel keeps them at a closed port.

What is moved from one endpoint to another inside the proxy needs no word to the kernel.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pointsman_enforcer.dataplane.base import Dataplane
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.userspace.backend import UserspaceDataplane
from pointsman_enforcer.dataplane.userspace.limits import ProxyLimits
from pointsman_model.names import Protocol, parse_address, parse_prefix
from pointsman_model.plan import NodeFacts, ServicePlan
from support.enforcer_plans import cluster_ip, endpoints, key
from support.flow_node import FlowNode, Sender
from support.nft_world import ECHO_PORT, World

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
DNS = key("dns")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(Family.IPV4) as made:
        yield made


def open_userspace(settings: NodeSettings) -> Dataplane[Any]:
    return UserspaceDataplane(node_settings=settings, limits=ProxyLimits(udp_idle_seconds=30.0))


@pytest.fixture
async def node(world: World) -> AsyncIterator[FlowNode]:
    world.node.run("conntrack", "-F")
    facts = NodeFacts(name="node-1", addresses=(parse_address(world.at.node),))
    settings = NodeSettings(cluster_cidrs=(parse_prefix(world.at.pods),))
    async with FlowNode(world.node, settings, facts, open_dataplane=open_userspace) as made:
        yield made


def dns(world: World, *pods: str) -> ServicePlan:
    return ServicePlan(ports=(cluster_ip(world.at.cluster_ip, 53, endpoints(*pods, port=ECHO_PORT), Protocol.UDP),))


async def test_a_client_is_refused_without_endpoints_and_served_again_at_another_listener(
    world: World, node: FlowNode
) -> None:
    await node.program({DNS: dns(world, world.at.pod1)})
    with Sender(world.pod, world.at.cluster_ip, 53) as sender:
        await sender.until("pod1")
        await node.program({DNS: dns(world)})
        await sender.until("REJECT")
        await node.program({DNS: dns(world, world.at.pod2)})
        await sender.until("pod2")


async def test_a_client_moves_with_its_endpoint_without_a_word_to_the_kernel(world: World, node: FlowNode) -> None:
    await node.program({DNS: dns(world, world.at.pod1)})
    with Sender(world.pod, world.at.cluster_ip, 53) as sender:
        await sender.until("pod1")
        await node.looked()
        deletions = node.deletions
        await node.program({DNS: dns(world, world.at.pod2)})
        await sender.until("pod2")
        await node.looked()
        assert node.deletions == deletions


async def test_a_client_finds_the_listener_of_a_new_process(world: World, node: FlowNode) -> None:
    await node.program({DNS: dns(world, world.at.pod1)})
    with Sender(world.pod, world.at.cluster_ip, 53) as sender:
        await sender.until("pod1")
        await node.restart()
        assert await sender.answer() != "pod1"
        await node.program()
        await sender.until("pod1")


async def test_flows_that_nftables_mode_led_straight_to_their_endpoint_go_on(world: World, node: FlowNode) -> None:
    userspace, node.open_dataplane = (
        node.open_dataplane,
        FlowNode(node.namespace, node.settings, node.facts).open_dataplane,
    )
    await node.restart()
    await node.program({DNS: dns(world, world.at.pod1)})
    with Sender(world.pod, world.at.cluster_ip, 53) as sender:
        await sender.until("pod1")
        node.open_dataplane = userspace
        await node.restart()
        await node.program()
        await node.looked()
        assert {await sender.answer() for _ in range(5)} == {"pod1"}
        assert node.dataplane.proxy.counters.flows_begun == 0
        await node.program({DNS: dns(world, world.at.pod2)})
        await sender.until("pod2")
        assert node.dataplane.proxy.counters.flows_begun == 1


async def test_a_client_goes_straight_to_its_endpoint_once_the_process_parts(world: World, node: FlowNode) -> None:
    await node.program({DNS: dns(world, world.at.pod1)})
    with Sender(world.pod, world.at.cluster_ip, 53) as sender:
        await sender.until("pod1")
        node.dataplane.part()
        node.reconciler.mark_all()
        await node.program()
        await node.looked()
        await sender.until("pod1")
        passed_on = node.dataplane.proxy.counters.bytes
        assert {await sender.answer() for _ in range(5)} == {"pod1"}
        assert node.dataplane.proxy.counters.bytes == passed_on
