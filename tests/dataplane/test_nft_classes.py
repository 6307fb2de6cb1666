# SPDX-License-Identifier: Apache-2.0
"""Verdicts per class of traffic, masquerade by verdict, and node ports: real sockets, both families."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.elements import flush_set
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.settings import SkeletonSettings
from support.nft_world import TCP, UDP, World
from support.traffic import DROP, EchoServer, answered, probe, seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman_enforcer.dataplane.nftables.message import Message

pytestmark = pytest.mark.root
PORT = 80


@pytest.fixture(scope="module", params=[Family.IPV4, Family.IPV6], ids=["ip", "ip6"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param) as made:
        yield made


def external(world: World) -> list[list[Message]]:
    """A load balancer address with policy Local: pod1 is the local endpoint."""
    key = world.key(world.at.load_balancer)
    return [
        world.verdict(layout.SERVICE_IPS, key, "local-1"),
        world.verdict(layout.SERVICE_IPS_FROM_POD, key, "cluster-2"),
        world.verdict(layout.SERVICE_IPS_FROM_HOST, key, "cluster-2-masq"),
        world.endpoints(layout.ENDPOINTS, key, world.at.pod1, world.at.pod2),
        world.endpoints(layout.ENDPOINTS, key, world.at.pod1, base=layout.LOCAL_SLOT_BASE),
    ]


def test_each_class_of_traffic_gets_its_own_verdict(world: World) -> None:
    world.install(*external(world))
    gateways = {world.at.gateway1, world.at.gateway2}
    assert seen(world.client, world.at.load_balancer) == ({"pod1"}, {world.at.client})
    assert seen(world.pod, world.at.load_balancer) == ({"pod1", "pod2"}, {world.at.pod})
    assert seen(world.node, world.at.load_balancer) == ({"pod1", "pod2"}, gateways)


def test_without_a_detector_pods_are_outside(world: World) -> None:
    world.install(*external(world), settings=SkeletonSettings())
    assert seen(world.pod, world.at.load_balancer) == ({"pod1"}, {world.at.pod})
    assert seen(world.node, world.at.load_balancer)[0] == {"pod1", "pod2"}


def test_a_masquerading_verdict_hides_every_client_and_clears_its_mark_bit(world: World) -> None:
    key = world.key(world.at.load_balancer)
    world.install(
        world.verdict(layout.SERVICE_IPS, key, "cluster-2-masq"),
        world.endpoints(layout.ENDPOINTS, key, world.at.pod1, world.at.pod2),
    )
    family = world.family.keyword
    world.node.run("nft", "-f", "-", stdin=f"""
        table {family} foreign {{
            counter ours {{ }}
            counter theirs {{ }}
            chain before {{ type filter hook prerouting priority -200; meta mark set 0x3; }}
            chain after {{ type filter hook postrouting priority 300;
                meta mark and 0x4000 != 0 counter name ours
                meta mark 0x3 counter name theirs; }}
        }}""")  # fmt: skip
    try:
        gateways = {world.at.gateway1, world.at.gateway2}
        assert seen(world.client, world.at.load_balancer) == ({"pod1", "pod2"}, gateways)
        assert seen(world.pod, world.at.load_balancer) == ({"pod1", "pod2"}, gateways)
        listing = world.node.run("nft", "list", "counters", "table", family, "foreign")
    finally:
        world.node.run("nft", "delete", "table", family, "foreign")
    ours, theirs = listing.split("counter theirs")
    assert "packets 0 " in ours
    assert "packets 0 " not in theirs


def nodeport(world: World, chain: str = "nodeport-cluster-2-masq", port: int = 3001) -> list[list[Message]]:
    messages: list[list[Message]] = []
    for protocol in (TCP, UDP):
        key = layout.nodeport_key(protocol, port)
        messages.append(world.verdict(layout.NODEPORTS, key, chain))
        messages.append(world.endpoints(layout.NODEPORT_ENDPOINTS, key, world.at.pod1, world.at.pod2))
    return messages


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
@pytest.mark.parametrize("who", ["pod", "client", "node"])
def test_a_node_port_answers_everybody_on_the_chosen_address(world: World, who: str, udp: bool) -> None:
    world.install(*nodeport(world))
    gateways = {world.at.gateway1, world.at.gateway2}
    assert seen(getattr(world, who), world.at.node, 3001, udp=udp) == ({"pod1", "pod2"}, gateways)


def test_node_ports_keep_off_other_addresses_loopback_and_forwarded_traffic(world: World) -> None:
    world.install(*nodeport(world))
    at = world.at
    with EchoServer(world.node, "node", 3001), EchoServer(world.client, "client", 3001):
        assert answered(world.client, at.secondary, 3001).name == "node"
        world.commit(
            [flush_set(world.table, layout.NODEPORT_ADDRESSES)], world.ranges(layout.NODEPORT_ADDRESSES, at.anywhere)
        )
        assert answered(world.client, at.secondary, 3001).name in {"pod1", "pod2"}
        assert answered(world.node, at.loopback, 3001).name == "node"
        assert answered(world.pod, at.client, 3001).name == "client"


def test_a_node_port_has_verdicts_per_class_too(world: World) -> None:
    key = layout.nodeport_key(TCP, 3002)
    world.install(
        world.verdict(layout.NODEPORTS, key, "drop-traffic"),
        world.verdict(layout.NODEPORTS_FROM_POD, key, "nodeport-cluster-1"),
        world.verdict(layout.NODEPORTS_FROM_HOST, key, "nodeport-local-1-masq"),
        world.endpoints(layout.NODEPORT_ENDPOINTS, key, world.at.pod1),
        world.endpoints(layout.NODEPORT_ENDPOINTS, key, world.at.pod2, base=layout.LOCAL_SLOT_BASE),
    )
    assert probe(world.client, world.at.node, 3002, silent=True) == DROP
    assert seen(world.pod, world.at.node, 3002) == ({"pod1"}, {world.at.pod})
    assert seen(world.node, world.at.node, 3002) == ({"pod2"}, {world.at.gateway2})
