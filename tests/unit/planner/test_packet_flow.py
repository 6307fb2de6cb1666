# SPDX-License-Identifier: Apache-2.0
"""Sections 1 to 7 of the packet-flow catalogue through plan and tracer; the numbers in the ids are the catalogue's."""

import pytest

from pointsman_model.cluster import EndpointSlice, Service
from pointsman_model.names import Protocol
from pointsman_model.plan import TrafficClass
from support.cluster_objects import endpoint, endpoint_slice, service, service_cidr
from support.planner_world import (
    BLOCKED,
    DROPPED,
    HOST,
    OUTSIDE,
    POD,
    REJECTED,
    UNTOUCHED,
    Seen,
    World,
    dataplane_settings,
    to,
    to_masked,
)
from support.planner_world import NODE as L

R = "other-node"
TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP
CIDRS = service_cidr("kubernetes", "172.30.0.0/16", "fd00:10:96::/112")


def basics() -> World:
    return World(
        CIDRS,
        service("s1", "172.30.0.41", ports=["http:80"]),
        endpoint_slice("s1-a", "s1", [endpoint("10.180.0.1", node=L)], ["http:80"]),
        service(
            "s2",
            "172.30.0.42",
            ports=["http:80", "https:443", "dns-udp:53/UDP", "dns-tcp:53/TCP", "dns-sctp:53/SCTP"],
        ),
        endpoint_slice(
            "s2-a",
            "s2",
            [endpoint("10.180.0.1", node=L), endpoint("10.180.2.1", node=R)],
            ["http:80", "https:8443", "dns-udp:53/UDP", "dns-tcp:5353/TCP", "dns-sctp:53/SCTP"],
        ),
    )


@pytest.mark.parametrize(
    ("destination", "port", "protocol", "expected"),
    [
        pytest.param("172.30.0.41", 80, TCP, to("10.180.0.1"), id="1"),
        pytest.param("172.30.0.42", 80, TCP, to("10.180.0.1", "10.180.2.1"), id="3"),
        pytest.param("172.30.0.42", 443, TCP, to("10.180.0.1:8443", "10.180.2.1:8443"), id="4"),
        pytest.param("172.30.0.42", 53, TCP, to("10.180.0.1:5353", "10.180.2.1:5353"), id="5"),
        pytest.param("172.30.0.42", 53, UDP, to("10.180.0.1:53", "10.180.2.1:53"), id="6"),
        pytest.param("172.30.0.42", 53, SCTP, to("10.180.0.1:53", "10.180.2.1:53"), id="7"),
        pytest.param("172.30.0.42", 80, UDP, REJECTED, id="8"),
        pytest.param("172.30.0.50", 80, TCP, DROPPED, id="10"),
        pytest.param("10.0.0.3", 80, TCP, UNTOUCHED, id="11"),
    ],
)
def test_cluster_ip(destination: str, port: int, protocol: Protocol, expected: Seen) -> None:
    assert basics().probe(POD, destination, port, protocol) == expected


def test_hairpin_masquerades_only_the_sender_itself() -> None:
    seen = basics().probe("10.180.0.1", "172.30.0.42")
    assert seen.plain == frozenset({"10.180.2.1:80"})
    assert seen.masqueraded == frozenset({"10.180.0.1:80"})


EXTERNAL = ("192.168.99.11", 80), ("1.2.3.4", 80), ("192.168.0.2", 3001)


@pytest.mark.parametrize("source", [POD, OUTSIDE])
@pytest.mark.parametrize("target", [("172.30.0.41", 80), *EXTERNAL])
@pytest.mark.parametrize(
    "endpoints",
    [[], [endpoint("10.180.0.1", node=L, ready=False)], [endpoint("10.180.0.1", node=R, ready=False, serving=True)]],
)
def test_without_usable_endpoints_everything_is_rejected(
    source: str, target: tuple[str, int], endpoints: list[object]
) -> None:
    world = World(
        service(
            "s1",
            "172.30.0.41",
            ports=["p:80"],
            node_ports={"p": 3001},
            external_ips=["192.168.99.11"],
            load_balancer_ips=["1.2.3.4"],
        ),
        endpoint_slice("s1-a", "s1", endpoints, ["p:80"]),  # type: ignore[arg-type] # what the builder takes
    )
    assert world.probe(source, *target) == REJECTED


def load_balancer(*ranges: str, **more: object) -> World:
    return World(
        service(
            "s1",
            "172.30.0.41",
            ports=["p:80"],
            node_ports={"p": 3001},
            load_balancer_ips=["1.2.3.4", "5.6.7.8"],
            source_ranges=ranges,
            **more,  # type: ignore[arg-type] # keywords of the builder
        ),
        endpoint_slice("s1-a", "s1", [endpoint("10.180.0.1", node=L)], ["p:80"]),
    )


EP, EP_M = to("10.180.0.1"), to_masked("10.180.0.1")


@pytest.mark.parametrize(
    ("source", "destination", "port", "expected"),
    [
        pytest.param(POD, "172.30.0.41", 80, EP, id="25"),
        pytest.param(OUTSIDE, "192.168.0.2", 3001, EP_M, id="26"),
        pytest.param(OUTSIDE, "1.2.3.4", 80, EP_M, id="28"),
        pytest.param(OUTSIDE, "5.6.7.8", 80, EP_M, id="29"),
        pytest.param(BLOCKED, "1.2.3.4", 80, DROPPED, id="30"),
        pytest.param(BLOCKED, "5.6.7.8", 80, DROPPED, id="31"),
        pytest.param(POD, "5.6.7.8", 80, DROPPED, id="33"),
        pytest.param(HOST, "1.2.3.4", 80, EP_M, id="34"),
        pytest.param(HOST, "5.6.7.8", 80, EP_M, id="35"),
        pytest.param("5.6.7.8", "5.6.7.8", 80, EP_M, id="37"),
        pytest.param("1.2.3.4", "5.6.7.8", 80, EP_M, id="37-other-vip"),
        pytest.param(BLOCKED, "192.168.0.2", 3001, EP_M, id="node-port-is-not-filtered"),
    ],
)
def test_source_ranges(source: str, destination: str, port: int, expected: Seen) -> None:
    assert load_balancer("192.168.0.0/24", " 203.0.113.0/25").probe(source, destination, port) == expected


def test_source_ranges_without_the_node_refuse_the_vip_as_source() -> None:  # 38
    assert load_balancer("203.0.113.0/25").probe("1.2.3.4", "1.2.3.4") == DROPPED


@pytest.mark.parametrize("ranges", [["10.9.0.0/16", "0.0.0.0/0"], ["2001:db8::/32"]], ids=["39", "40"])
def test_source_ranges_that_filter_nothing(ranges: list[str]) -> None:
    assert load_balancer(*ranges).probe(BLOCKED, "1.2.3.4") == EP_M


def test_proxied_load_balancer_ip_is_not_captured() -> None:  # 41
    world = World(
        service(
            "s1",
            "172.30.0.41",
            ports=["p:80"],
            node_ports={"p": 3001},
            load_balancer_ips=["5.6.7.8"],
            proxied_load_balancer_ips=["1.2.3.4"],
        ),
        endpoint_slice("s1-a", "s1", [endpoint("10.180.0.1", node=L)], ["p:80"]),
    )
    assert world.probe(POD, "1.2.3.4") == UNTOUCHED
    assert world.probe(POD, "5.6.7.8") == EP_M
    assert world.probe(POD, "172.30.0.41") == EP


def test_sloppy_addresses_mean_the_canonical_ones() -> None:  # 42
    world = World(
        service(
            "s1",
            "172.30.0.041",
            ports=["p:80"],
            load_balancer_ips=["1.2.3.004"],
            external_ips=["192.168.099.022"],
            source_ranges=["203.0.113.000/025"],
        ),
        endpoint_slice("s1-a", "s1", [endpoint("10.180.00.001", node=L)], ["p:80"]),
    )
    assert world.probe(POD, "172.30.0.41") == EP
    assert world.probe(OUTSIDE, "1.2.3.4") == EP_M
    assert world.probe(BLOCKED, "1.2.3.4") == DROPPED
    assert world.probe(OUTSIDE, "192.168.99.22") == EP_M


def node_port_objects() -> tuple[Service | EndpointSlice, ...]:
    return (
        service("s1", "172.30.0.41", "fd00:10:96::41", ports=["p:80"], node_ports={"p": 3001}),
        endpoint_slice("s1-4", "s1", ["10.180.0.1", endpoint("10.180.2.1", node=L)], ["p:80"]),
        endpoint_slice("s1-6", "s1", ["fd00:10:180::1", endpoint("fd00:10:180::2:1", node=L)], ["p:80"]),
    )


BOTH, BOTH6 = ("10.180.0.1", "10.180.2.1"), ("[fd00:10:180::1]:80", "[fd00:10:180::2:1]:80")
X6 = "2001:db9::9"


@pytest.mark.parametrize(
    ("node_ports", "source", "destination", "port", "expected"),
    [
        pytest.param(["0.0.0.0/0"], POD, "172.30.0.41", 80, to(*BOTH), id="43"),
        pytest.param(["0.0.0.0/0"], OUTSIDE, "192.168.0.2", 3001, to_masked(*BOTH), id="44"),
        pytest.param(["0.0.0.0/0"], HOST, "192.168.0.2", 3001, to_masked(*BOTH), id="45"),
        pytest.param(["0.0.0.0/0"], OUTSIDE, "192.168.1.2", 3001, to_masked(*BOTH), id="46"),
        pytest.param(["192.168.0.2/32"], OUTSIDE, "192.168.1.2", 3001, UNTOUCHED, id="47"),
        pytest.param(["192.168.1.0/24", "2001:db8::/64"], OUTSIDE, "192.168.1.2", 3001, to_masked(*BOTH), id="48-v4"),
        pytest.param(["192.168.1.0/24", "2001:db8::/64"], X6, "2001:db8::1", 3001, to_masked(*BOTH6), id="48-v6"),
        pytest.param(["192.168.1.0/24", "2001:db8::/64"], X6, "2001:db8:1::2", 3001, UNTOUCHED, id="48-v6-outside"),
        pytest.param(["2001:db8:1::2/128"], X6, "2001:db8:1::2", 3001, to_masked(*BOTH6), id="48-v6-added"),
        pytest.param(["192.168.0.0/24", "127.0.0.1/32"], OUTSIDE, "192.168.1.2", 3001, UNTOUCHED, id="49"),
        pytest.param(["0.0.0.0/0"], "127.0.0.1", "127.0.0.1", 3001, UNTOUCHED, id="52"),
        pytest.param(["::/0"], "::1", "::1", 3001, UNTOUCHED, id="52-v6"),
        pytest.param(["0.0.0.0/0"], OUTSIDE, "203.0.113.9", 3001, UNTOUCHED, id="56"),
    ],
)
def test_node_port_addresses(node_ports: list[str], source: str, destination: str, port: int, expected: Seen) -> None:
    world = World(*node_port_objects(), settings=dataplane_settings(node_ports=node_ports))
    assert world.probe(source, destination, port) == expected


def external_policy(*, is_local: bool, endpoints: tuple[str, ...] = ("A", "B")) -> World:
    known = {"A": endpoint("10.180.0.1", node=R), "B": endpoint("10.180.2.1", node=L)}
    return World(
        service(
            "s1",
            "172.30.0.41",
            ports=["p:80"],
            node_ports={"p": 3001},
            external_ips=["192.168.99.11"],
            load_balancer_ips=["1.2.3.4"],
            external_local=is_local,
            health_check_node_port=30000,
        ),
        endpoint_slice("s1-a", "s1", [known[name] for name in endpoints], ["p:80"]),
    )


@pytest.mark.parametrize("target", EXTERNAL)
@pytest.mark.parametrize(
    ("is_local", "source", "expected"),
    [
        pytest.param(True, POD, to(*BOTH), id="58-60-62"),
        pytest.param(True, HOST, to_masked(*BOTH), id="E7"),
        pytest.param(True, OUTSIDE, to("10.180.2.1"), id="59-61-63"),
        pytest.param(False, POD, to_masked(*BOTH), id="65-67-69"),
        pytest.param(False, HOST, to_masked(*BOTH), id="E3"),
        pytest.param(False, OUTSIDE, to_masked(*BOTH), id="66-68-70"),
    ],
)
def test_external_traffic_policy(is_local: bool, source: str, target: tuple[str, int], expected: Seen) -> None:
    world = external_policy(is_local=is_local)
    assert world.probe(source, *target) == expected
    assert world.probe(POD, "172.30.0.41") == to(*BOTH)  # 57, 64


@pytest.mark.parametrize("target", EXTERNAL)
def test_external_local_with_only_remote_endpoints_drops_outsiders(target: tuple[str, int]) -> None:  # 71, 73
    world = external_policy(is_local=True, endpoints=("A",))
    assert world.probe(OUTSIDE, *target) == DROPPED
    assert world.probe(POD, *target) == to("10.180.0.1")


def test_external_local_without_external_access_is_ignored() -> None:  # 75
    world = World(
        service("s1", "172.30.0.41", ports=["p:80"], external_local=True),
        endpoint_slice("s1-a", "s1", [endpoint("10.180.0.1", node=R)], ["p:80"]),
    )
    assert world.probe(POD, "172.30.0.41") == EP


@pytest.mark.parametrize(
    ("is_local", "locals_", "remotes", "expected"),
    [
        pytest.param(False, ["10.0.1.1"], ["10.0.1.2", "10.0.1.3"], to("10.0.1.1", "10.0.1.2", "10.0.1.3"), id="77"),
        pytest.param(True, ["10.0.1.1"], ["10.0.1.2", "10.0.1.3"], to("10.0.1.1"), id="78"),
        pytest.param(True, ["10.0.1.1", "10.0.1.2"], ["10.0.1.3"], to("10.0.1.1", "10.0.1.2"), id="79"),
        pytest.param(True, [], ["10.0.1.3"], DROPPED, id="80"),
        pytest.param(True, [], [], REJECTED, id="81"),
    ],
)
def test_internal_traffic_policy(is_local: bool, locals_: list[str], remotes: list[str], expected: Seen) -> None:
    endpoints = [endpoint(ip, node=L) for ip in locals_] + [endpoint(ip, node=R) for ip in remotes]
    world = World(
        service("s1", "172.30.1.1", ports=["p:80"], internal_local=is_local),
        endpoint_slice("s1-a", "s1", endpoints, ["p:80"]),
    )
    assert world.probe(POD, "172.30.1.1") == expected


MATRIX = {
    # source: for svc1, svc2, svc3 the (set, masqueraded) of ClusterIP, NodePort, LB; cases 83 to 85
    POD: [("LR", 0), ("LR", 1), ("LR", 1), ("LR", 0), ("LR", 0), ("LR", 0), ("L", 0), ("LR", 1), ("LR", 1)],
    HOST: [("LR", 1), ("LR", 1), ("LR", 1), ("LR", 1), ("LR", 1), ("LR", 1), ("L", 1), ("LR", 1), ("LR", 1)],
    OUTSIDE: [("LR", 1), ("LR", 1), ("LR", 1), ("LR", 1), ("L", 0), ("L", 0), ("L", 1), ("LR", 1), ("LR", 1)],
}
NO_DETECTOR = {
    POD: [("LR", 0), ("LR", 1), ("LR", 1), ("LR", 0), ("L", 0), ("L", 0), ("L", 0), ("LR", 1), ("LR", 1)],
    HOST: [("LR", 0), ("LR", 1), ("LR", 1), ("LR", 0), ("LR", 1), ("LR", 1), ("L", 0), ("LR", 1), ("LR", 1)],
    OUTSIDE: [("LR", 0), ("LR", 1), ("LR", 1), ("LR", 0), ("L", 0), ("L", 0), ("L", 0), ("LR", 1), ("LR", 1)],
}


def matrix_world(*, detector: bool = True, masquerade_all: bool = False) -> World:
    objects: list[Service | EndpointSlice] = []
    for number, balancer in (1, "1.2.3.4"), (2, "5.6.7.8"), (3, "9.10.11.12"):
        objects += [
            service(
                f"s{number}",
                f"172.30.0.4{number}",
                ports=["p:80"],
                node_ports={"p": 3000 + number},
                load_balancer_ips=[balancer],
                external_local=number == 2,
                internal_local=number == 3,
            ),
            endpoint_slice(
                f"s{number}-a",
                f"s{number}",
                [endpoint(f"10.180.0.{number}", node=L), endpoint(f"10.180.1.{number}", node=R)],
                ["p:80"],
            ),
        ]
    return World(*objects, settings=dataplane_settings(detector=detector, masquerade_all=masquerade_all))


def check_matrix(world: World, matrix: dict[str, list[tuple[str, int]]], *, cluster_ip_masked: bool = False) -> None:
    for source, row in matrix.items():
        for column, (endpoints, masked) in enumerate(row):
            number, kind = column // 3 + 1, column % 3
            balancer = {1: "1.2.3.4", 2: "5.6.7.8", 3: "9.10.11.12"}[number]
            target = [(f"172.30.0.4{number}", 80), ("192.168.0.2", 3000 + number), (balancer, 80)][kind]
            names = {"L": f"10.180.0.{number}", "R": f"10.180.1.{number}"}
            is_masked = bool(masked) or (cluster_ip_masked and kind == 0)
            expected = (to_masked if is_masked else to)(*(names[letter] for letter in endpoints))
            sender = TrafficClass.POD if source == POD else None
            assert world.probe(source, *target, sender=sender) == expected, (source, target)


def test_policy_source_masquerade_matrix() -> None:
    check_matrix(matrix_world(), MATRIX)


def test_matrix_with_masquerade_all() -> None:
    check_matrix(matrix_world(masquerade_all=True), MATRIX, cluster_ip_masked=True)


def test_matrix_without_detector() -> None:
    check_matrix(matrix_world(detector=False), NO_DETECTOR)


def test_matrix_without_detector_with_masquerade_all() -> None:  # 88
    check_matrix(matrix_world(detector=False, masquerade_all=True), NO_DETECTOR, cluster_ip_masked=True)
