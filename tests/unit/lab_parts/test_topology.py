# SPDX-License-Identifier: Apache-2.0
"""Addresses of nodes and pods."""

import ipaddress

import pytest

from pointsman_lab.errors import LabUsageError
from pointsman_lab.net.fabric import link_name
from pointsman_lab.net.layout import link_address, outside_route_line, port_name
from pointsman_lab.net.topology import (
    CLUSTER_CIDRS,
    MEMBERS_MAX,
    NODES_MAX,
    DualStack,
    PodAddresses,
    build_topology,
    place_name,
    pod_place,
)

INTERFACE_NAME_MAX = 15


def test_nodes_take_the_zones_in_turn() -> None:
    topology = build_topology(nodes=4, zones=2)
    assert [(node.name, node.zone) for node in topology.nodes] == [
        ("node-1", "zone-a"),
        ("node-2", "zone-b"),
        ("node-3", "zone-a"),
        ("node-4", "zone-b"),
    ]


def test_no_address_or_prefix_of_the_largest_lab_is_used_twice() -> None:
    topology = build_topology(nodes=NODES_MAX, zones=3, watchers=MEMBERS_MAX, planners=MEMBERS_MAX)
    addresses = [ip for node in topology.nodes for ip in (*node.address, *node.secondary_address)]
    addresses += [*topology.control_address, *topology.outside_address]
    addresses += [ip for member in topology.members for ip in member.address]
    assert len(set(addresses)) == len(addresses)
    cidrs = [ipaddress.ip_network(cidr) for node in topology.nodes for cidr in node.pod_cidr]
    assert len(set(cidrs)) == len(cidrs)
    clusters = [ipaddress.ip_network(cidr) for cidr in CLUSTER_CIDRS]
    for cidr in cidrs:
        assert any(cidr.version == whole.version and cidr.subnet_of(whole) for whole in clusters)  # type: ignore[arg-type]  # same version


@pytest.mark.parametrize(("nodes", "zones"), [(0, 1), (NODES_MAX + 1, 1), (2, 3), (2, 0)])
def test_impossible_sizes_are_refused(nodes: int, zones: int) -> None:
    with pytest.raises(LabUsageError, match="must be between"):
        build_topology(nodes=nodes, zones=zones)


@pytest.mark.parametrize(("watchers", "planners"), [(0, 1), (1, 0), (MEMBERS_MAX + 1, 1), (1, MEMBERS_MAX + 1)])
def test_a_control_plane_of_impossible_size_is_refused(watchers: int, planners: int) -> None:
    with pytest.raises(LabUsageError, match="must be between"):
        build_topology(nodes=1, zones=1, watchers=watchers, planners=planners)


def test_the_only_one_of_a_kind_has_no_number() -> None:
    small, large = build_topology(nodes=1, zones=1), build_topology(nodes=1, zones=1, watchers=2, planners=3)
    assert [place.name for place in small.members] == ["watcher", "planner", "redis"]
    assert [place.name for place in large.members] == [
        "watcher-1", "watcher-2", "planner-1", "planner-2", "planner-3", "redis"
    ]  # fmt: skip


def test_everything_on_the_underlay_has_an_address_and_nothing_else() -> None:
    topology = build_topology(nodes=2, zones=1, watchers=2)
    assert topology.address_of("watcher-2") == topology.watchers[1].address
    assert topology.address_of("node-2") == topology.nodes[1].address
    assert topology.address_of("control") == topology.control_address
    with pytest.raises(LabUsageError, match="no place 'watcher-3'"):
        topology.address_of("watcher-3")


def test_a_released_pod_address_is_reused_last() -> None:
    addresses = PodAddresses(DualStack(ipv4="10.244.1.0/29", ipv6="fd00::/64"))
    first = [addresses.allocate() for _ in range(3)]
    addresses.release(first[0])
    assert [addresses.allocate().ipv4 for _ in range(3)] == ["10.244.1.5", "10.244.1.6", first[0].ipv4]
    with pytest.raises(ValueError, match="in use"):
        addresses.allocate()


def test_interface_names_fit_the_kernel() -> None:
    long_name = pod_place("a" * 60, "b" * 60)
    assert len(link_name(long_name)) <= INTERFACE_NAME_MAX
    assert len(port_name(f"node-{NODES_MAX}")) <= INTERFACE_NAME_MAX


def test_places_are_named_as_people_do() -> None:
    assert place_name("node-1") == "node-1"
    assert place_name("shop/cart") == pod_place("shop", "cart")


def test_a_link_address_is_local_and_of_one_pod() -> None:
    address = DualStack(ipv4="10.244.1.7", ipv6="fd00::7")
    assert link_address(address) == "0a:58:0a:f4:01:07"


def test_routes_from_outside_share_over_nodes_of_the_same_family() -> None:
    topology = build_topology(nodes=2, zones=1)
    nodes, source = topology.nodes, topology.outside_address
    assert outside_route_line("198.51.100.1", nodes, source) == (
        "route replace 198.51.100.1/32 src 172.18.0.100 nexthop via 172.18.0.11 nexthop via 172.18.0.12"
    )
    assert outside_route_line("2001:db8:1b::1", nodes[:1], source) == (
        "route replace 2001:db8:1b::1/128 src fd00:172:18::100 nexthop via fd00:172:18::11"
    )
    assert "unreachable" in outside_route_line("198.51.100.1", [], source)
