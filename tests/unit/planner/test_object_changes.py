# SPDX-License-Identifier: Apache-2.0
"""Section 11 of the packet-flow catalogue, health checks and conflicts: events in, probes after."""

import pytest

from pointsman_model.cluster import Change, ClusterObject, key_of
from pointsman_model.names import ServiceKey
from support.cluster_objects import endpoint, endpoint_slice, service, service_cidr
from support.planner_world import (
    BLOCKED,
    DROPPED,
    NODE,
    OUTSIDE,
    POD,
    REJECTED,
    UNTOUCHED,
    World,
    node_under_test,
    to,
    to_masked,
)

VIP = "172.30.1.1"
SERVICE = service("s1", VIP, ports=["p:80"])
SLICE = endpoint_slice("s1-a", "s1", [endpoint("10.0.1.1", node=NODE)], ["p:80"])


def put(world: World, *objects: ClusterObject) -> None:
    world.cluster.apply(Change(key=key_of(value), value=value) for value in objects)


def remove(world: World, *objects: ClusterObject) -> None:
    world.cluster.apply(Change(key=key_of(value), value=None) for value in objects)


def test_slice_before_service() -> None:  # 120
    world = World(SLICE)
    assert world.probe(POD, VIP) == UNTOUCHED
    put(world, SERVICE)
    assert world.probe(POD, VIP) == to("10.0.1.1")


def test_service_before_slice() -> None:  # 121
    world = World(SERVICE)
    assert world.probe(POD, VIP) == REJECTED
    put(world, SLICE)
    assert world.probe(POD, VIP) == to("10.0.1.1")


@pytest.mark.parametrize("order", [(SERVICE, SLICE), (SLICE, SERVICE)])
def test_everything_removed(order: tuple[ClusterObject, ...]) -> None:  # 122
    world = World(SERVICE, SLICE, service_cidr("kubernetes", "172.30.0.0/16"))
    for value in order:
        remove(world, value)
    assert world.probe(POD, VIP) == DROPPED
    assert not world.cluster.services


def test_endpoint_replaced_added_emptied_and_refilled() -> None:  # 123, 124, 125
    world = World(SERVICE, SLICE)
    for ips in (["10.0.1.2"], ["10.0.1.2", "10.0.1.3"], [], ["10.0.1.4"]):
        put(world, endpoint_slice("s1-a", "s1", ips, ["p:80"]))
        assert world.probe(POD, VIP) == (to(*ips) if ips else REJECTED)


def test_port_renamed_in_the_slice_stops_matching() -> None:  # 126
    world = World(SERVICE, endpoint_slice("s1-a", "s1", ["10.0.1.1"], ["q:80"]))
    assert world.probe(POD, VIP) == REJECTED


def test_overlapping_slices_are_a_union_without_double_weight() -> None:  # 127
    second = endpoint_slice("s1-b", "s1", ["10.0.1.1", "10.0.1.2"], ["p:80"])
    world = World(SERVICE, SLICE, second)
    assert world.probe(POD, VIP) == to("10.0.1.1", "10.0.1.2")
    (port,) = world.plan.services[ServiceKey("default", "s1")].ports
    assert [(e.weight, len(port.endpoint_sets)) for e in port.endpoint_sets[0]] == [(1, 1), (1, 1)]
    remove(world, second)
    assert world.probe(POD, VIP) == to("10.0.1.1")


def test_ports_of_two_slices_with_one_name_are_both_used() -> None:  # 129
    world = World(SERVICE, SLICE, endpoint_slice("s1-b", "s1", ["10.0.1.1"], ["p:8080"]))
    assert world.probe(POD, VIP) == to("10.0.1.1:80", "10.0.1.1:8080")


def test_type_changes_add_and_remove_frontends() -> None:  # 130
    world = World(SERVICE, SLICE)
    put(world, service("s1", VIP, ports=["p:80"], node_ports={"p": 3001}, load_balancer_ips=["1.2.3.4"]))
    assert world.probe(OUTSIDE, "1.2.3.4") == world.probe(OUTSIDE, "192.168.0.2", 3001) == to_masked("10.0.1.1")
    put(world, SERVICE)
    assert world.probe(OUTSIDE, "1.2.3.4") == world.probe(OUTSIDE, "192.168.0.2", 3001) == UNTOUCHED
    assert world.probe(POD, VIP) == to("10.0.1.1")


def test_families_are_independent() -> None:  # 131
    world = World(service("s1", VIP, "fd00:10:96::41", ports=["p:80"]), SLICE)
    assert world.probe(POD, VIP) == to("10.0.1.1")
    assert world.probe("fd00:10::2", "fd00:10:96::41") == REJECTED


def test_slice_that_moves_to_another_service() -> None:
    world = World(SERVICE, service("s2", "172.30.1.2", ports=["p:80"]), SLICE)
    put(world, endpoint_slice("s1-a", "s2", ["10.0.1.9"], ["p:80"]))
    assert world.probe(POD, VIP) == REJECTED
    assert world.probe(POD, "172.30.1.2") == to("10.0.1.9")


def test_zone_of_the_node_changes() -> None:  # 114
    hinted = [endpoint("10.0.1.1", zone_hints=["a"]), endpoint("10.0.1.2", zone_hints=["b"])]
    world = World(SERVICE, endpoint_slice("s1-a", "s1", hinted, ["p:80"]), node=node_under_test("a"))
    assert world.probe(POD, VIP) == to("10.0.1.1")
    put(world, node_under_test("b"))
    assert world.probe(POD, VIP) == to("10.0.1.2")


def health(**flags: object) -> tuple[int, int] | None:
    endpoints = [
        endpoint("10.0.1.1", node=NODE),
        endpoint("10.0.1.2", node=NODE, ready=False, serving=True, terminating=True),
        endpoint("10.0.1.3", node=NODE),
        endpoint("10.0.1.4", node="other"),
    ]
    words = {"type": "LoadBalancer", "external_local": True, "health_check_node_port": 30000, **flags}
    world = World(
        service("s1", VIP, "fd00:10:96::41", ports=["p:80", "q:81"], **words),  # type: ignore[arg-type] # keywords
        endpoint_slice("s1-4", "s1", endpoints, ["p:80", "q:81"]),
        endpoint_slice("s1-6", "s1", [endpoint("fd00:10::1", node=NODE)], ["p:80", "q:81"]),
    )
    found = world.plan.services[ServiceKey("default", "s1")].health_check
    return (found.node_port, found.local_endpoints) if found is not None else None


def test_health_check_counts_distinct_ready_local_addresses() -> None:  # J5, 144
    assert health() == (30000, 2)


@pytest.mark.parametrize("flags", [{"type": "NodePort"}, {"external_local": False}, {"health_check_node_port": 0}])
def test_health_check_only_for_local_load_balancers(flags: dict[str, object]) -> None:  # B12
    assert health(**flags) is None


def test_external_ip_cannot_take_a_cluster_ip() -> None:
    thief = service("a-thief", "172.30.9.9", ports=["p:80"], external_ips=[VIP])
    world = World(SERVICE, SLICE, thief, endpoint_slice("t", "a-thief", ["10.66.6.6"], ["p:80"]))
    assert world.probe(POD, VIP) == to("10.0.1.1")
    remove(world, SERVICE)
    assert world.probe(OUTSIDE, VIP) == to_masked("10.66.6.6")
    put(world, SERVICE)
    assert world.probe(POD, VIP) == to("10.0.1.1")


def test_lowest_name_owns_a_contested_external_ip_and_passes_it_on() -> None:
    rivals = [service(name, f"172.30.2.{n}", ports=["p:80"], external_ips=["9.9.9.9"]) for n, name in enumerate("cab")]
    slices = [endpoint_slice(name, name, [f"10.5.0.{n}"], ["p:80"]) for n, name in enumerate("cab")]
    world = World(*rivals, *slices)
    assert world.probe(OUTSIDE, "9.9.9.9") == to_masked("10.5.0.1")
    remove(world, rivals[1])
    assert world.probe(OUTSIDE, "9.9.9.9") == to_masked("10.5.0.2")


def test_load_balancer_ip_that_is_also_an_external_ip_keeps_its_source_ranges() -> None:
    both = service(
        "s1",
        VIP,
        ports=["p:80"],
        external_ips=["1.2.3.4"],
        load_balancer_ips=["1.2.3.4"],
        source_ranges=["10.0.0.0/8"],
    )
    world = World(both, SLICE)
    assert world.probe(BLOCKED, "1.2.3.4") == DROPPED
    assert world.probe(POD, "1.2.3.4") == to_masked("10.0.1.1")
