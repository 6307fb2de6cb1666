# SPDX-License-Identifier: Apache-2.0
"""The kernel configuration of each place, as `ip -batch` lines and sysctls. Pure.

Pods hang on their node by a routed veth pair each, without a bridge, as Calico does it: the pod's gateway is
169.254.1.1 (fe80::1) behind a fixed link address, the node has one host route per pod. Every packet between pods,
also on one node, passes the node's own forwarding path, so that address translation sees both directions without any
bridge netfilter. Neighbours are written down, not asked for: no ARP, no duplicate address detection, no delay.
"""

import ipaddress
from collections.abc import Iterator, Sequence

from pointsman_lab.net.topology import (
    LOAD_BALANCER_POOLS,
    OUTSIDE,
    DualStack,
    MemberPlace,
    NodePlace,
    Topology,
)

BRIDGE = "underlay"
CUT_TABLE = "lab-cut"
_GATEWAY = DualStack(ipv4="169.254.1.1", ipv6="fe80::1")
_GATEWAY_LINK_ADDRESS = "ee:ee:ee:ee:ee:ee"

COMMON_SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/default/accept_redirects": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/all/route_localnet": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/all/accept_redirects": "0",
    "net/ipv6/conf/default/accept_redirects": "0",
    # Thousands of probes from one address: all ports, and connections that just ended do not hold theirs.
    "net/ipv4/ip_local_port_range": "10000 65000",
    "net/ipv4/tcp_tw_reuse": "1",
    # A REJECT is an ICMP error, and those are rate limited per peer: the probes must see every one.
    "net/ipv4/icmp_ratemask": "0",
    "net/ipv4/icmp_msgs_per_sec": "1000000",
    "net/ipv4/icmp_msgs_burst": "100000",
    "net/ipv6/icmp/ratelimit": "0",
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
}
FORWARDING_SYSCTLS = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}


def control_lines(topology: Topology) -> Iterator[str]:
    """The control namespace: the underlay bridge, its ports to every other place, routes to the pods."""
    yield "link set lo up"
    yield f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    yield f"address add {topology.control_address.ipv4}/16 dev {BRIDGE}"
    yield f"address add {topology.control_address.ipv6}/64 dev {BRIDGE} nodad"
    yield f"link set {BRIDGE} up"
    for name in (*(member.name for member in topology.members), *(node.name for node in topology.nodes), OUTSIDE):
        yield f"link add {port_name(name)} type veth peer name eth0 netns {name}"
        yield f"link set {port_name(name)} master {BRIDGE} addrgenmode none up"
    for node in topology.nodes:
        yield f"route add {node.pod_cidr.ipv4} via {node.address.ipv4}"
        yield f"route add {node.pod_cidr.ipv6} via {node.address.ipv6}"


def port_name(place: str) -> str:
    """The bridge port that leads to a place."""
    return f"to-{place}"


def member_lines(topology: Topology, member: MemberPlace) -> Iterator[str]:
    """One machine of the control plane: underlay addresses, and a way to the pods by the control place."""
    yield "link set lo up"
    yield "link set eth0 up"
    yield f"address add {member.address.ipv4}/16 dev eth0"
    yield f"address add {member.address.ipv6}/64 dev eth0 nodad"
    for gateway, prefix, source in zip(topology.control_address, ("0.0.0.0/0", "::/0"), member.address, strict=True):
        yield f"route add {prefix} via {gateway} src {source}"


def cut_rules(peers: Sequence[DualStack], percent: int) -> str:
    """An nft script after which a machine loses so many percent of the packets from and to its peers."""
    chance = "" if percent >= 100 else f"numgen random mod 100 < {percent} "
    rules = {"in": ("input", "saddr"), "out": ("output", "daddr")}
    lines = [f"add table inet {CUT_TABLE}", f"delete table inet {CUT_TABLE}", f"table inet {CUT_TABLE} {{"]
    for chain, (hook, side) in rules.items():
        lines.append(f"chain {chain} {{ type filter hook {hook} priority -300; policy accept;")
        # Neighbours stay known: their loss would outlive the cut by seconds.
        lines.append("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept")
        for peer in peers:
            lines.append(f"ip {side} {peer.ipv4} {chance}drop")
            lines.append(f"ip6 {side} {peer.ipv6} {chance}drop")
        lines.append("}")
    return "\n".join([*lines, "}"])


def node_lines(topology: Topology, node: NodePlace) -> Iterator[str]:
    """One node: underlay addresses, a default route, the way to the others' pods, none to unknown pods of its own."""
    yield "link set lo up"
    yield "link set eth0 up"
    yield f"address add {node.address.ipv4}/16 dev eth0"
    yield f"address add {node.address.ipv6}/64 dev eth0 nodad"
    yield f"address add {node.secondary_address.ipv4}/24 dev eth0"
    yield f"address add {node.secondary_address.ipv6}/64 dev eth0 nodad"
    yield f"route add 0.0.0.0/0 via {topology.control_address.ipv4} src {node.address.ipv4}"
    yield f"route add ::/0 via {topology.control_address.ipv6} src {node.address.ipv6}"
    # Every route names its source: with two addresses per family the kernel's own choice is not the primary one.
    for cidr, gateway, source in zip(topology.client_cidrs, topology.outside_address, node.address, strict=True):
        yield f"route add {cidr} via {gateway} src {source}"
    for cidr in node.pod_cidr:
        yield f"route add blackhole {cidr}"
    for other in topology.nodes:
        if other.name != node.name:
            for cidr, gateway, source in zip(other.pod_cidr, other.address, node.address, strict=True):
                yield f"route add {cidr} via {gateway} src {source}"


def outside_lines(topology: Topology) -> Iterator[str]:
    """The client outside of the cluster: its addresses, and load balancer addresses by way of the first node."""
    yield "link set lo up"
    yield "link set eth0 up"
    yield f"address add {topology.outside_address.ipv4}/16 dev eth0"
    yield f"address add {topology.outside_address.ipv6}/64 dev eth0 nodad"
    yield "address add 192.168.50.100/24 dev eth0"
    yield "address add fd00:192:168:50::100/64 dev eth0 nodad"
    for client in topology.client_addresses:
        yield f"address add {client.ipv4}/32 dev eth0"
        yield f"address add {client.ipv6}/128 dev eth0 nodad preferred_lft 0"
    first = topology.nodes[0].address
    for pool, gateway, source in zip(LOAD_BALANCER_POOLS, first, topology.outside_address, strict=True):
        yield f"route add {pool} via {gateway} src {source}"


def outside_route_line(address: str, via: Sequence[NodePlace], source: DualStack) -> str:
    """The route from outside to one load balancer or external address, over one or several nodes; none: no route."""
    is_ipv4 = ipaddress.ip_address(address).version == 4
    prefix = f"{address}/{32 if is_ipv4 else 128}"
    if not via:
        return f"route replace unreachable {prefix}"
    hops = " ".join(f"nexthop via {node.address.ipv4 if is_ipv4 else node.address.ipv6}" for node in via)
    return f"route replace {prefix} src {source.ipv4 if is_ipv4 else source.ipv6} {hops}"


def pod_attach_lines(*, link: str, place: str, node: NodePlace, address: DualStack) -> Iterator[str]:
    """What the node does for one pod: the veth pair, one host route and one neighbour per family."""
    pod_link_address = link_address(address)
    yield (
        f"link add {link} address {_GATEWAY_LINK_ADDRESS} type veth "
        f"peer name eth0 address {pod_link_address} netns {place}"
    )
    yield f"link set {link} addrgenmode none"
    yield f"link set {link} up"
    for pod, prefix, source in zip(address, (32, 128), node.address, strict=True):
        yield f"route add {pod}/{prefix} dev {link} src {source}"
        yield f"neighbour replace {pod} lladdr {pod_link_address} dev {link} nud permanent"


def pod_lines(address: DualStack) -> Iterator[str]:
    """The pod's own side: its addresses and the gateway behind the fixed link address."""
    yield "link set lo up"
    yield "link set eth0 addrgenmode none"
    yield "link set eth0 up"
    yield f"address add {address.ipv4}/32 dev eth0"
    yield f"address add {address.ipv6}/128 dev eth0 nodad"
    yield f"route add {_GATEWAY.ipv4} dev eth0 scope link"
    for gateway in _GATEWAY:
        yield f"neighbour replace {gateway} lladdr {_GATEWAY_LINK_ADDRESS} dev eth0 nud permanent"
    yield f"route add 0.0.0.0/0 via {_GATEWAY.ipv4} dev eth0 src {address.ipv4}"
    yield f"route add ::/0 via {_GATEWAY.ipv6} dev eth0 src {address.ipv6}"


def link_address(address: DualStack) -> str:
    """A pod's link address, made of its IPv4 address."""
    return "0a:58:" + ":".join(f"{octet:02x}" for octet in ipaddress.IPv4Address(address.ipv4).packed)
