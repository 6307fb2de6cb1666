# SPDX-License-Identifier: Apache-2.0
"""Which virtual servers are kube-proxy's, and which of them carry somebody."""

from __future__ import annotations

import sys

from pointsman_enforcer.dataplane.ipvs.genetlink.model import VirtualServerId
from pointsman_enforcer.dataplane.kube_proxy.virtual_servers import (
    NodePort,
    bound_addresses,
    connections,
    is_own,
    read_sets,
)
from pointsman_model.names import Family, Protocol, parse_address

SAVED = """create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
add KUBE-NODE-PORT-TCP 30080
create KUBE-NODE-PORT-SCTP-HASH hash:ip,port family inet hashsize 1024 maxelem 65536
add KUBE-NODE-PORT-SCTP-HASH 192.168.0.2,sctp:30081
create KUBE-6-NODE-PORT-UDP bitmap:port range 0-65535
add KUBE-6-NODE-PORT-UDP 30082
create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 1024 maxelem 65536
add KUBE-CLUSTER-IP 172.30.0.41,tcp:80
create cali40all-hosts hash:net family inet hashsize 1024 maxelem 1048576
add cali40all-hosts 192.168.0.2
"""
CONNECTIONS = """Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0A000302 AEF8 AC1E0029 0050 0A000202 1F90 ESTABLISHED     899
TCP 0A000302 AEF9 AC1E0029 0050 0A000202 1F90 TIME_WAIT       100
TCP 0A000302 AEFA AC1E002A 0050 0A000202 1F90 CLOSE             8
TCP CB007102 0000 AC1E002B 0050 0A000202 1F90 NONE           10799
UDP fd00:0010:0000:0003:0000:0000:0000:0002 DCBA fd00:0096:0000:0000:0000:0000:0000:0042 0035 fd00:0010:0000:0001:0000:0000:0000:0002 1F90 UDP       295
"""  # noqa: E501 - one connection is one line
VIP, NODE = parse_address("172.30.0.41"), parse_address("192.168.0.2")


def server(address: bytes, port: int, protocol: Protocol = Protocol.TCP) -> VirtualServerId:
    family = Family.IPV4 if len(address) == 4 else Family.IPV6
    return VirtualServerId(family, 0, protocol, address, port)


def test_sets_by_name_and_node_ports_by_family_and_protocol() -> None:
    sets = read_sets(SAVED)
    assert "cali40all-hosts" not in sets.names
    assert len(sets.names) == 4
    assert sets.node_ports == {
        NodePort(Family.IPV4, Protocol.TCP, 30080),
        NodePort(Family.IPV4, Protocol.SCTP, 30081),
        NodePort(Family.IPV6, Protocol.UDP, 30082),
    }


def test_only_addresses_of_the_device_and_node_ports_of_the_sets_are_kube_proxys() -> None:
    sets = read_sets(SAVED)
    seen = {
        each: is_own(each, on_device={VIP}, local={NODE}, sets=sets)
        for each in (
            server(VIP, 80),
            server(VIP, 81),
            server(NODE, 30080),
            server(NODE, 30081, Protocol.SCTP),
            server(NODE, 30080, Protocol.UDP),
            server(NODE, 6443),
            server(parse_address("203.0.113.9"), 30080),
            VirtualServerId(Family.IPV4, 7),
        )
    }
    assert list(seen.values()) == [True, True, True, True, False, False, False, False]


def test_a_connection_that_is_over_and_a_memory_of_affinity_hold_nothing() -> None:
    assert connections(CONNECTIONS) == {
        server(VIP, 80): {"0A000302 AEF8"},
        server(parse_address("fd00:96::42"), 53, Protocol.UDP): {"fd00:0010:0000:0003:0000:0000:0000:0002 DCBA"},
    }


def test_addresses_that_sockets_of_this_host_talk_from() -> None:
    word = int.from_bytes(VIP, sys.byteorder)
    lines = "\n".join(
        f"   {number}: {word:08X}:{8000 + number} 0100007F:0050 {state} 00000000:00000000 00:00000000"
        for number, state in enumerate(("01", "06", "0A"))
    )
    assert list(bound_addresses(f"  sl  local_address rem_address   st tx_queue\n{lines}\n")) == [VIP]
