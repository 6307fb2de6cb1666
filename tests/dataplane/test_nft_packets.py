# SPDX-License-Identifier: Apache-2.0
"""Cluster IPs, refusals, hairpins and source ranges in the kernel, given hand-built elements: both families."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.elements import add_keys, add_ranges, flush_set
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.settings import PodInterface, SkeletonSettings
from support.nft_world import ECHO_PORT, SCTP, TCP, World
from support.traffic import DROP, REJECT, EchoServer, answered, probe, seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.netns import NetNs

pytestmark = pytest.mark.root
CONNECTIONS = 40
PORT = 80


@pytest.fixture(scope="module", params=[Family.IPV4, Family.IPV6], ids=["ip", "ip6"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param) as made:
        yield made


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_a_pod_reaches_every_endpoint_of_a_cluster_ip_under_its_own_address(world: World, udp: bool) -> None:
    world.install(world.cluster_ip())
    names, peers = seen(world.pod, world.at.cluster_ip, udp=udp)
    assert names == {"pod1", "pod2"}
    assert peers == {world.at.pod}


def test_the_host_and_outsiders_are_masqueraded_to_a_cluster_ip(world: World) -> None:
    world.install(world.cluster_ip())
    gateways = {world.at.gateway1, world.at.gateway2}
    assert seen(world.client, world.at.cluster_ip) == ({"pod1", "pod2"}, gateways)
    assert seen(world.node, world.at.cluster_ip) == ({"pod1", "pod2"}, gateways)


def test_masquerade_all_includes_pods(world: World) -> None:
    world.install(world.cluster_ip(), settings=SkeletonSettings(pods=world.settings().pods, masquerade_all=True))
    assert seen(world.pod, world.at.cluster_ip)[1] == {world.at.gateway1, world.at.gateway2}


def test_without_a_detector_nobody_is_masqueraded_to_a_cluster_ip(world: World) -> None:
    world.install(world.cluster_ip(), settings=SkeletonSettings())
    assert seen(world.client, world.at.cluster_ip)[1] == {world.at.client}


@pytest.mark.parametrize("pods", [PodInterface(name="pod-", prefix=True), PodInterface(name="pod-3")], ids=str)
def test_pods_can_be_told_by_their_interface(world: World, pods: PodInterface) -> None:
    world.install(world.cluster_ip(), settings=SkeletonSettings(pods=pods))
    gateways = {world.at.gateway1, world.at.gateway2}
    assert seen(world.client, world.at.cluster_ip)[1] == gateways
    assert seen(world.node, world.at.cluster_ip)[1] == gateways
    # A packet that comes back out of the interface it came in by is a hairpin, which this table does not list.
    world.commit(world.endpoints(layout.ENDPOINTS, world.key(world.at.cluster_ip, 81), world.at.pod2))
    world.commit(world.verdict(layout.SERVICE_IPS, world.key(world.at.cluster_ip, 81), "cluster-1"))
    assert seen(world.pod, world.at.cluster_ip, 81) == ({"pod2"}, {world.at.pod})


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
@pytest.mark.parametrize("who", ["pod", "client", "node"])
def test_rejected_traffic_is_refused_at_once(world: World, who: str, udp: bool) -> None:
    world.install(world.cluster_ip("reject-traffic"))
    assert probe(getattr(world, who), world.at.cluster_ip, PORT, udp=udp) == REJECT


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
@pytest.mark.parametrize("who", ["pod", "client", "node"])
def test_dropped_traffic_meets_silence(world: World, who: str, udp: bool) -> None:
    world.install(world.cluster_ip("drop-traffic"))
    assert probe(getattr(world, who), world.at.cluster_ip, PORT, udp=udp, silent=True) == DROP


@pytest.mark.parametrize("who", ["pod", "client", "node"])
def test_other_ports_and_protocols_of_a_cluster_ip_are_rejected(world: World, who: str) -> None:
    world.install(world.cluster_ip(protocols=(TCP,)))
    namespace = getattr(world, who)
    assert probe(namespace, world.at.cluster_ip, 443) == REJECT
    assert probe(namespace, world.at.cluster_ip, PORT, udp=True) == REJECT
    assert ping(namespace, world.at.cluster_ip) == REJECT


def ping(namespace: NetNs, address: str) -> str:
    """One ICMP echo request: answered, or refused by an unreachable, or neither."""
    is_ipv6 = ":" in address
    kind, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if is_ipv6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    # The kernel sums up ICMPv6 itself; the sum of this IPv4 request, 0x0800 + 0x0001, is done by hand.
    request = struct.pack(">BBHHH", 128, 0, 0, 0, 1) if is_ipv6 else struct.pack(">BBHHH", 8, 0, 0xF7FE, 0, 1)
    with namespace.socket(kind, socket.SOCK_RAW, protocol) as client:
        client.settimeout(5)
        client.connect((address, 0))
        with contextlib.suppress(PermissionError):  # how a host's own refused packet shows besides the unreachable
            client.send(request)
        try:
            client.recv(256)
        except ConnectionRefusedError:
            return REJECT
        except TimeoutError:
            return DROP
    return "REPLY"


@pytest.mark.parametrize("who", ["pod", "node"])
def test_an_unallocated_service_address_is_dropped(world: World, who: str) -> None:
    world.install(world.cluster_ip())
    # Somebody does answer where such a packet goes when it is let through.
    bits = world.family.address_bytes * 8
    world.client.run("ip", "address", "replace", f"{world.at.unallocated}/{bits}", "dev", "lo")
    with EchoServer(world.client, "leak", PORT, world.at.unallocated):
        assert probe(getattr(world, who), world.at.unallocated, PORT, silent=True) == DROP
        world.commit([flush_set(world.table, layout.SERVICE_CIDRS)])
        assert answered(getattr(world, who), world.at.unallocated).name == "leak"


def test_an_endpoint_sent_to_itself_is_masqueraded(world: World) -> None:
    world.install(
        world.cluster_ip(), add_keys(world.table, layout.HAIRPIN, [layout.hairpin_key(world.packed(world.at.pod1))])
    )
    replies = [answered(world.pod1, world.at.cluster_ip) for _ in range(CONNECTIONS)]
    assert {(reply.name, reply.peer) for reply in replies} == {
        ("pod1", world.at.gateway1),
        ("pod2", world.at.pod1),
    }


def test_source_ranges_admit_some_and_drop_the_rest(world: World) -> None:
    at, key = world.at, world.key(world.at.load_balancer)
    ranges = layout.source_ranges(key, [ipaddress.ip_network(at.allowed)])
    world.install(
        world.cluster_ip(),
        world.verdict(layout.SERVICE_IPS, key, "cluster-2-masq"),
        world.endpoints(layout.ENDPOINTS, key, at.pod1, at.pod2),
        add_keys(world.table, layout.FIREWALLED, [key]),
        add_ranges(world.table, layout.ALLOWED_SOURCES, ranges),
    )
    answered(world.client, at.load_balancer, source=at.client)
    assert probe(world.client, at.load_balancer, PORT, source=at.blocked, silent=True) == DROP
    assert probe(world.pod, at.load_balancer, PORT, silent=True) == DROP
    assert probe(world.node, at.load_balancer, PORT, source=at.node, silent=True) == DROP
    answered(world.node, at.load_balancer, source=at.uplink)
    answered(world.client, at.cluster_ip, source=at.blocked)


def test_without_endpoints_allowed_sources_are_rejected_and_others_dropped(world: World) -> None:
    at, key = world.at, world.key(world.at.load_balancer)
    ranges = layout.source_ranges(key, [ipaddress.ip_network(at.allowed)])
    world.install(
        world.verdict(layout.SERVICE_IPS, key, "reject-traffic"),
        add_keys(world.table, layout.FIREWALLED, [key]),
        add_ranges(world.table, layout.ALLOWED_SOURCES, ranges),
    )
    assert probe(world.client, at.load_balancer, PORT, source=at.client) == REJECT
    assert probe(world.client, at.load_balancer, PORT, source=at.blocked, silent=True) == DROP


def test_sctp_is_translated_like_the_others(world: World) -> None:
    """Sent and received raw: a kernel without an SCTP module still tracks and translates it."""
    key = world.key(world.at.cluster_ip, PORT, SCTP)
    world.install(
        add_keys(world.table, layout.CLUSTER_IPS, [world.packed(world.at.cluster_ip)]),
        world.verdict(layout.SERVICE_IPS, key, "cluster-1"),
        world.endpoints(layout.ENDPOINTS, key, world.at.pod2),
    )
    kind = socket.AF_INET if world.family is Family.IPV4 else socket.AF_INET6
    init = bytes([1, 0, 0, 20]) + struct.pack(">IIHHI", 7, 65535, 1, 1, 7)
    with (
        world.pod.socket(kind, socket.SOCK_RAW, SCTP) as client,
        world.pod2.socket(kind, socket.SOCK_RAW, SCTP) as pod,
    ):
        pod.settimeout(5)
        packet = struct.pack(">HHI", 5000, PORT, 0) + b"\0\0\0\0" + init
        packet = packet[:8] + struct.pack("<I", crc32c(packet)) + packet[12:]
        client.sendto(packet, (world.at.cluster_ip, 0))
        received = pod.recv(256)
    arrived = received[20:] if world.family is Family.IPV4 else received
    assert struct.unpack_from(">HH", arrived) == (5000, ECHO_PORT)


def crc32c(data: bytes) -> int:
    """The checksum of SCTP."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
