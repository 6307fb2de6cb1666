# SPDX-License-Identifier: Apache-2.0
"""Sections 8 to 10 of the packet-flow catalogue: terminating endpoints, topology hints, combined policies."""

import pytest

from pointsman_model.cluster import Endpoint
from support.cluster_objects import endpoint, endpoint_slice, service
from support.planner_world import (
    DROPPED,
    OUTSIDE,
    POD,
    REJECTED,
    Seen,
    World,
    node_under_test,
    to,
    to_masked,
)
from support.planner_world import NODE as L

R = "other-node"
VIP = "172.30.1.1"


def made(flags: str) -> list[Endpoint]:
    """`"1@L 3@LT 4@RTX 6@RU"`: 10.0.1.n here or remote; T terminating, TX no longer serving, U unready."""
    found = []
    for item in flags.split():
        number, _, rest = item.partition("@")
        found.append(
            endpoint(
                f"10.0.1.{number}",
                node=L if rest[0] == "L" else R,
                ready=len(rest) == 1,
                serving=rest[1:] in {"", "T"},
                terminating="T" in rest,
            )
        )
    return found


def addresses(numbers: str) -> list[str]:
    return [f"10.0.1.{number}" for number in numbers.split()]


def world(flags: str, *, internal_local: bool = False, external_local: bool = False) -> World:
    return World(
        service(
            "s1",
            VIP,
            ports=["p:80"],
            node_ports={"p": 3001},
            load_balancer_ips=["1.2.3.4"],
            internal_local=internal_local,
            external_local=external_local,
        ),
        endpoint_slice("s1-a", "s1", made(flags), ["p:80"]),
    )


@pytest.mark.parametrize(
    ("external_local", "flags", "cluster_ip", "balancer"),
    [
        pytest.param(True, "1@L 2@L 3@LT 4@LTX 5@R", to(*addresses("1 2 5")), to(*addresses("1 2")), id="89"),
        pytest.param(True, "2@LT 3@LT 4@LTX 5@RT", to(*addresses("2 3 5")), to(*addresses("2 3")), id="90-fallback"),
        pytest.param(True, "1@LT 5@R", to(*addresses("5")), to(*addresses("1")), id="91-independent-fallback"),
        pytest.param(True, "5@LTX 5@RTX", REJECTED, REJECTED, id="92"),
        pytest.param(True, "", REJECTED, REJECTED, id="93"),
        pytest.param(False, "1@L 2@L 3@RT 4@RTX 5@R", to(*addresses("1 2 5")), to_masked(*addresses("1 2 5")), id="94"),
        pytest.param(False, "2@LT 3@LT 4@RTX 5@RT", to(*addresses("2 3 5")), to_masked(*addresses("2 3 5")), id="95"),
        pytest.param(False, "5@RT", to(*addresses("5")), to_masked(*addresses("5")), id="96"),
        pytest.param(False, "4@RTX", REJECTED, REJECTED, id="97"),
        pytest.param(True, "1@R 2@LU 3@LTX", to(*addresses("1")), DROPPED, id="only-remote-usable"),
    ],
)
def test_terminating_endpoints(external_local: bool, flags: str, cluster_ip: Seen, balancer: Seen) -> None:
    tested = world(flags, external_local=external_local)
    assert tested.probe(POD, VIP) == cluster_ip
    assert tested.probe(OUTSIDE, "1.2.3.4") == balancer


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_duplicate_endpoint_is_ready_whichever_slice_says_so(names: tuple[str, str]) -> None:  # 99
    tested = World(
        service("s1", VIP, ports=["p:80"]),
        endpoint_slice(f"s1-{names[0]}", "s1", made("1@LT"), ["p:80"]),
        endpoint_slice(f"s1-{names[1]}", "s1", [*made("1@L"), *made("2@RT")], ["p:80"]),
    )
    assert tested.probe(POD, VIP) == to("10.0.1.1")


HINTED = [("3", "a", "1"), ("4", "b", "2"), ("5", "c", "3"), ("6", "a", "4")]


def topology(
    endpoints: list[Endpoint], *, zone: str = "zone-a", node: str = "node-1", internal_local: bool = False
) -> World:
    return World(
        service("s1", VIP, ports=["p:80"], node_ports={"p": 3001}, internal_local=internal_local),
        endpoint_slice("s1-a", "s1", endpoints, ["p:80"]),
        node=node_under_test(zone, node),
    )


def hinted(changes: dict[str, dict[str, object]], *, with_nodes: bool) -> list[Endpoint]:
    found = []
    for number, zone, host in HINTED:
        words: dict[str, object] = {"node": f"node-{host}", "zone_hints": [f"zone-{zone}"]}
        if with_nodes:
            words["node_hints"] = [f"node-{host}"]
        words |= changes.get(f"e{number}", {})
        found.append(endpoint(f"10.1.2.{number}", **words))  # type: ignore[arg-type] # keywords of the builder
    return found


def zone_hinted(**changes: dict[str, object]) -> list[Endpoint]:
    return hinted(changes, with_nodes=False)


def node_hinted(**changes: dict[str, object]) -> list[Endpoint]:
    return hinted(changes, with_nodes=True)


def picked(numbers: str) -> Seen:
    return to(*(f"10.1.2.{number}" for number in numbers.split()))


ALL = "3 4 5 6"
UNHINTED: dict[str, object] = {"zone_hints": [], "node_hints": []}
UNREADY: dict[str, object] = {"ready": False}


@pytest.mark.parametrize(
    ("endpoints", "zone", "node", "expected"),
    [
        pytest.param(zone_hinted(), "zone-a", "node-1", "3 6", id="101"),
        pytest.param(zone_hinted(), "", "node-1", ALL, id="102"),
        pytest.param([zone_hinted()[0]], "zone-b", "node-1", "3", id="103"),
        pytest.param(zone_hinted(e6=UNREADY), "zone-a", "node-1", "3", id="104"),
        pytest.param(zone_hinted(e6=UNREADY | UNHINTED), "zone-a", "node-1", "3", id="105-unready-unhinted"),
        pytest.param(zone_hinted(e6=UNHINTED), "zone-a", "node-1", ALL, id="106-one-unhinted"),
        pytest.param(
            zone_hinted(e3={"zone_hints": ["zone-a", "zone-c"]}), "zone-c", "node-1", "3 5", id="107-several-zones"
        ),
        pytest.param(node_hinted(), "zone-a", "node-1", "3", id="108"),
        pytest.param(node_hinted(e5=UNHINTED), "zone-a", "node-1", ALL, id="109"),
        pytest.param(node_hinted(), "zone-a", "node-0", "3 6", id="110"),
        pytest.param(node_hinted(e5={"node_hints": []}), "zone-a", "node-1", "3 6", id="111-node-hint-missing"),
    ],
)
def test_topology(endpoints: list[Endpoint], zone: str, node: str, expected: str) -> None:
    assert topology(endpoints, zone=zone, node=node).probe(POD, VIP) == picked(expected)


def test_local_policy_ignores_hints_and_external_cluster_policy_follows_them() -> None:  # 112
    endpoints = zone_hinted(e4={"node": "node-1"})
    tested = topology(endpoints, internal_local=True)
    assert tested.probe(POD, VIP) == picked("3 4")
    assert tested.probe(OUTSIDE, "192.168.0.2", 3001) == to_masked("10.1.2.3", "10.1.2.6")


def test_hints_do_not_narrow_the_terminating_fallback() -> None:
    terminating: dict[str, object] = {"ready": False, "serving": True, "terminating": True}
    endpoints = zone_hinted(e3=terminating, e4=terminating, e5=terminating, e6=terminating)
    assert topology(endpoints).probe(POD, VIP) == picked(ALL)


@pytest.mark.parametrize(
    ("flags", "internal_local", "external_local", "cluster_ip", "node_port_outside", "node_port_pod"),
    [
        pytest.param("1@R 2@R", True, False, DROPPED, to_masked(*addresses("1 2")), None, id="115"),
        pytest.param("", True, False, REJECTED, REJECTED, REJECTED, id="116"),
        pytest.param("1@R 2@R", True, True, DROPPED, DROPPED, to(*addresses("1 2")), id="117"),
        pytest.param("1@RT 2@RT", True, True, DROPPED, DROPPED, to(*addresses("1 2")), id="118"),
        pytest.param(
            "7@R 1@LU 2@LT 3@RT",
            False,
            True,
            to(*addresses("7")),
            to(*addresses("2")),
            to(*addresses("7")),
            id="119",
        ),
    ],
)
def test_combined_policies(  # noqa: PLR0917 - one argument for each column of the table
    flags: str,
    internal_local: bool,
    external_local: bool,
    cluster_ip: Seen,
    node_port_outside: Seen,
    node_port_pod: Seen | None,
) -> None:
    tested = world(flags, internal_local=internal_local, external_local=external_local)
    assert tested.probe(POD, VIP) == cluster_ip
    assert tested.probe(OUTSIDE, "192.168.0.2", 3001) == node_port_outside
    if node_port_pod is not None:
        assert tested.probe(POD, "192.168.0.2", 3001) == node_port_pod
