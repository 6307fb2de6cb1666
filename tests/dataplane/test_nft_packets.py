# SPDX-License-Identifier: Apache-2.0
"""What the kernel does with packets, given hand-built elements: real sockets, both families."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.elements import add_keys, add_ranges, flush_set
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.settings import PodInterface, SkeletonSettings
from pointsman_enforcer.dataplane.nftables.skeleton import replacement, skeleton
from support.nft_world import ECHO_PORT, SCTP, TCP, UDP, World
from support.traffic import DROP, REJECT, EchoServer, Reply, parse_reply, probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman_enforcer.dataplane.nftables.message import Message
    from support.netns import NetNs

pytestmark = pytest.mark.root
CONNECTIONS = 40
PORT = 80


@pytest.fixture(scope="module", params=[Family.IPV4, Family.IPV6], ids=["ip", "ip6"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param) as made:
        yield made


def seen(namespace: NetNs, address: str, port: int = PORT, *, udp: bool = False) -> tuple[set[str], set[str]]:
    """Over many connections: which backends answered, and which source addresses they saw."""
    names, peers = set(), set()
    for _ in range(CONNECTIONS):
        reply = answered(namespace, address, port, udp=udp)
        names.add(reply.name)
        peers.add(reply.peer)
    return names, peers


def answered(
    namespace: NetNs, address: str, port: int = PORT, *, udp: bool = False, source: str | None = None
) -> Reply:
    """One request that must be answered."""
    reply = probe(namespace, address, port, udp=udp, source=source)
    assert isinstance(reply, Reply), f"{namespace.name} to {address}:{port} from {source}: {reply}"
    return reply


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


def test_an_endpoint_sent_to_itself_is_masqueraded(world: World) -> None:
    world.install(
        world.cluster_ip(), add_keys(world.table, layout.HAIRPIN, [layout.hairpin_key(world.packed(world.at.pod1))])
    )
    replies = [answered(world.pod1, world.at.cluster_ip) for _ in range(CONNECTIONS)]
    assert {(reply.name, reply.peer) for reply in replies} == {
        ("pod1", world.at.gateway1),
        ("pod2", world.at.pod1),
    }


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


def test_a_hashed_chain_always_picks_the_same_endpoint_for_a_client(world: World) -> None:
    world.install(world.cluster_ip("cluster-2-hash"))
    picks = []
    for namespace, source in ((world.client, world.at.client), (world.client, world.at.blocked)):
        replies = {answered(namespace, world.at.cluster_ip, source=source).name for _ in range(8)}
        assert len(replies) == 1
        picks.append(replies)
    world.commit(replacement(world.table, world.settings()), world.cluster_ip("cluster-2-hash"))
    again = answered(world.client, world.at.cluster_ip, source=world.at.client).name
    assert {again} == picks[0]


def test_connections_outlive_the_removal_of_everything_they_were_made_with(world: World) -> None:
    world.install(world.cluster_ip())
    kind = socket.AF_INET if world.family is Family.IPV4 else socket.AF_INET6
    with world.client.socket(kind, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect((world.at.cluster_ip, PORT))
        client.sendall(b"who?")
        before = parse_reply(client.recv(128))
        world.install()
        client.sendall(b"who?")
        assert parse_reply(client.recv(128)) == before
        assert probe(world.client, world.at.cluster_ip, PORT, silent=True) == DROP


def test_a_connection_that_was_never_ours_is_not_harmed_when_its_address_becomes_a_service(world: World) -> None:
    world.install()
    kind = socket.AF_INET if world.family is Family.IPV4 else socket.AF_INET6
    with EchoServer(world.client, "elsewhere", 7070), world.pod1.socket(kind, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect((world.at.client, 7070))
        world.commit(add_keys(world.table, layout.CLUSTER_IPS, [world.packed(world.at.client)]))
        client.sendall(b"who?")
        assert parse_reply(client.recv(128)).name == "elsewhere"
        assert probe(world.pod, world.at.client, 7070) == REJECT


@pytest.mark.parametrize("how", ["rewrite", "replace"])
def test_rewriting_the_skeleton_under_traffic_loses_no_connection(world: World, how: str) -> None:
    world.install(world.cluster_ip())
    outcomes: list[Reply | str] = []
    stop = threading.Event()

    def connect() -> None:
        while not stop.is_set():
            outcomes.append(probe(world.client, world.at.cluster_ip, PORT))
            outcomes.append(probe(world.pod, world.at.cluster_ip, PORT, udp=True))

    client = threading.Thread(target=connect)
    client.start()
    for number in range(200):
        settings = SkeletonSettings(pods=world.settings().pods, masquerade_bit=number % 32)
        if how == "rewrite":
            world.commit(skeleton(world.table, settings))
        else:
            world.install(world.cluster_ip(), settings=settings)
    stop.set()
    client.join()
    assert outcomes
    assert [outcome for outcome in outcomes if not isinstance(outcome, Reply)] == []


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
