# SPDX-License-Identifier: Apache-2.0
"""A listing of nft is read as the kernel would look things up, and what is wrong in it shows."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from chaos.kernel_tables import KernelTables
from conformance.model import Expectation, Origin, Outcome, Probe, Target

VIP, NODE = "10.96.0.10", "172.18.0.11"
NAMES = ("service_ips", "service_nodeports")
MAPS: dict[str, list[Any]] = {
    **{f"{name}{who}": [] for name in NAMES for who in ("", "_from_pod", "_from_host")},
    "service_ips": [
        [{"concat": [VIP, "tcp", 80]}, {"goto": {"target": "cluster-2"}}],
        [{"concat": [VIP, "udp", 53]}, {"goto": {"target": "drop-traffic"}}],
        [{"concat": [VIP, "tcp", 81]}, {"goto": {"target": "cluster-251-affinity-10800"}}],
    ],
    "service_ips_from_pod": [[{"concat": [VIP, "udp", 53]}, {"goto": {"target": "local-1"}}]],
    "service_nodeports": [[{"concat": ["tcp", 30080]}, {"goto": {"target": "nodeport-cluster-1-masq"}}]],
    "endpoints": [
        [{"concat": [VIP, "tcp", 80, 0]}, {"concat": ["10.244.1.2", 8080]}],
        [{"concat": [VIP, "tcp", 80, 1]}, {"concat": ["10.244.2.2", 8080]}],
        [{"concat": [VIP, "udp", 53, 65536]}, {"concat": ["10.244.1.2", 5353]}],
    ],
    "nodeport_endpoints": [[{"concat": ["tcp", 30080, 0]}, {"concat": ["10.244.2.2", 8080]}]],
    "affinity_ids": [[{"concat": [VIP, "tcp", 81]}, "f7e9:0"]],
    "affinity_nodeport_ids": [],
    "affinity_endpoints": [[{"concat": ["tcp", "f7e9:bf8b"]}, {"concat": ["10.244.2.2", 8080]}]],
    "affinity_local_endpoints": [],
    "affinity": [[{"elem": {"val": {"concat": ["f7e9:0", "10.244.1.9"]}, "timeout": 10800}}, "f7e9:bf8b"]],
}
SETS: dict[str, list[Any]] = {
    "cluster_ips": [VIP],
    "service_cidrs": [{"prefix": {"addr": "10.96.0.0", "len": 12}}],
    "nodeport_addresses": [NODE],
}


def tables(**maps: list[Any]) -> KernelTables:
    listed = [{"map": {"name": name, "elem": elements}} for name, elements in (copy.deepcopy(MAPS) | maps).items()]
    listed += [{"set": {"name": name, "elem": elements}} for name, elements in SETS.items()]
    return KernelTables(json.dumps({"nftables": listed}))


def fate(held: KernelTables, destination: str, port: int, protocol: str, origin: Origin) -> Expectation:
    return held.fate(Probe("10.244.1.9", destination, port, protocol, origin, Expectation(Outcome.NONE)))


def to(*targets: tuple[str, int], masquerade: bool = False) -> Expectation:
    return Expectation(Outcome.FORWARD, tuple(Target(ip, port, masquerade) for ip, port in targets))


@pytest.mark.parametrize(
    ("destination", "port", "protocol", "origin", "wanted"),
    [
        (VIP, 80, "TCP", Origin.POD, to(("10.244.1.2", 8080), ("10.244.2.2", 8080))),
        (VIP, 80, "TCP", Origin.HOST, to(("10.244.1.2", 8080), ("10.244.2.2", 8080), masquerade=True)),
        (VIP, 53, "UDP", Origin.POD, to(("10.244.1.2", 5353))),
        (VIP, 53, "UDP", Origin.OUTSIDE, Expectation(Outcome.DROP)),
        (VIP, 81, "TCP", Origin.POD, to(("10.244.2.2", 8080))),
        (VIP, 82, "TCP", Origin.POD, Expectation(Outcome.REJECT)),
        ("10.96.0.11", 80, "TCP", Origin.POD, Expectation(Outcome.DROP)),
        (NODE, 30080, "TCP", Origin.OUTSIDE, to(("10.244.2.2", 8080), masquerade=True)),
        (NODE, 30081, "TCP", Origin.OUTSIDE, Expectation(Outcome.NONE)),
        ("192.168.50.11", 30080, "TCP", Origin.OUTSIDE, Expectation(Outcome.NONE)),
    ],
)
def test_a_packet_goes_where_the_elements_send_it(
    destination: str, port: int, protocol: str, origin: Origin, wanted: Expectation
) -> None:
    assert fate(tables(), destination, port, protocol, origin) == wanted


def test_a_slot_that_is_missing_shows() -> None:
    seen = fate(tables(endpoints=MAPS["endpoints"][:1]), VIP, 80, "TCP", Origin.POD)
    assert seen == to(("10.244.1.2", 8080), ("missing", 1))


def test_every_place_with_a_verdict_is_a_frontend() -> None:
    assert tables().frontends == {(VIP, "tcp", 80), (VIP, "udp", 53), (VIP, "tcp", 81), ("tcp", 30080)}


def test_a_verdict_to_a_chain_that_is_not_ours_is_an_error() -> None:
    foreign = tables(service_ips=[[{"concat": [VIP, "tcp", 80]}, {"goto": {"target": "somewhere"}}]])
    with pytest.raises(ValueError, match="somewhere"):
        fate(foreign, VIP, 80, "TCP", Origin.POD)
