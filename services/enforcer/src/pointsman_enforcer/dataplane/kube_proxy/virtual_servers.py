# SPDX-License-Identifier: Apache-2.0
"""What of IPVS is kube-proxy's, and what of that still carries somebody: read from the kernel's own words. Pure.

A virtual server is kube-proxy's when its address is on kube-ipvs0, or when it stands at an address of this host and its
port is in one of kube-proxy's sets of node ports. All others are somebody else's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.ipvs.genetlink.model import VirtualServerId
from pointsman_enforcer.dataplane.kube_proxy.names import NODE_PORT_SETS, SETS
from pointsman_model.names import Family, Protocol, parse_address

_OVER: Final = frozenset({"NONE", "TIME_WAIT", "CLOSE", "CLOSED"})
"""States in which a connection has nothing more to say."""
_TIME_WAIT, _LISTENING = "06", "0A"
_PROTOCOLS: Final = {protocol.name: protocol for protocol in Protocol}
_LAST_NUMBER: Final = re.compile(r"(\d+)$")


class NodePort(NamedTuple):
    """A node port that a set of kube-proxy holds."""

    family: Family
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sets:
    """kube-proxy's ipsets: their names, and the node ports in them."""

    names: frozenset[str]
    node_ports: frozenset[NodePort]


def read_sets(saved: str) -> Sets:
    """From the output of `ipset save`."""
    names, ports = set(), set()
    for line in saved.splitlines():
        verb, _, rest = line.partition(" ")
        name, _, element = rest.partition(" ")
        if name not in SETS:
            continue
        if verb == "create":
            names.add(name)
        number = _LAST_NUMBER.search(element.split(" ", 1)[0])
        if verb == "add" and name in NODE_PORT_SETS and number is not None:
            family = Family.IPV6 if name.startswith("KUBE-6-") else Family.IPV4
            ports.add(NodePort(family, NODE_PORT_SETS[name], int(number[1])))
    return Sets(names=frozenset(names), node_ports=frozenset(ports))


def is_own(server: VirtualServerId, *, on_device: Collection[bytes], local: Collection[bytes], sets: Sets) -> bool:
    """Whether a virtual server is kube-proxy's; `local` has the addresses of the host's other devices."""
    if server.protocol is None:
        return False
    port = NodePort(server.family, server.protocol, server.port)
    return server.address in on_device or (server.address in local and port in sets.node_ports)


def connections(listed: str) -> dict[VirtualServerId, set[str]]:
    """Clients whose connection goes on, by virtual server, from /proc/net/ip_vs_conn.

    The memory of session affinity stands there, too, with port 0 for the client's; that is nobody's connection.
    """
    found: dict[VirtualServerId, set[str]] = {}
    for line in listed.splitlines()[1:]:
        words = line.split()
        if len(words) < 8 or words[7] in _OVER or int(words[2], 16) == 0:
            continue
        protocol = _PROTOCOLS.get(words[0])
        if protocol is not None:
            address = _network_order(words[3])
            family = Family.IPV6 if len(address) == Family.IPV6.address_bytes else Family.IPV4
            server = VirtualServerId(family, 0, protocol, address, int(words[4], 16))
            found.setdefault(server, set()).add(f"{words[1]} {words[2]}")
    return found


def bound_addresses(sockets: str) -> Iterator[bytes]:
    """Addresses that sockets talk from, from /proc/net/tcp, tcp6, udp and udp6.

    While a service address is on a device, a process of this host that connects to it has it for its own, too: its
    answers arrive there, whoever translated its packets.
    """
    for line in sockets.splitlines():
        words = line.split()
        if len(words) > 3 and words[3] not in (_TIME_WAIT, _LISTENING) and ":" in words[1]:
            yield _host_order(words[1].partition(":")[0])


def _network_order(text: str) -> bytes:
    return parse_address(text) if ":" in text else bytes.fromhex(text)


def _host_order(text: str) -> bytes:
    """The kernel prints these addresses as numbers of 32 bits in the machine's order."""
    words = (int(text[at : at + 8], 16) for at in range(0, len(text), 8))
    return b"".join(word.to_bytes(4, sys.byteorder) for word in words)
