# SPDX-License-Identifier: Apache-2.0
"""Who lives where: names, zones and addresses of the lab's places. Pure.

    control (API server, controllers, OTLP sink)  172.18.0.1
        |  bridge `underlay`, 172.18.0.0/16 and fd00:172:18::/64
        +-- watcher-1 172.18.1.1, planner-1 172.18.2.1, ..., redis 172.18.3.1
        +-- node-1 172.18.0.11   pods 10.244.1.0/24, fd00:10:244:1::/64
        +-- node-2 172.18.0.12   pods 10.244.2.0/24, fd00:10:244:2::/64
        +-- outside 172.18.0.100 and the client addresses 203.0.113.2, .130

Every part of the control plane is a machine of its own on the underlay, so that each can be cut off alone. One of a
kind is called `watcher` or `planner`; several are numbered.

Each node has a second address (192.168.50.x) that its Node object does not list, for `nodePortAddresses`.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from pointsman_lab.errors import LabUsageError

CLUSTER_CIDRS = ("10.244.0.0/16", "fd00:10:244::/56")
LOAD_BALANCER_POOLS = ("198.51.100.0/24", "2001:db8:1b::/64")
CONTROL = "control"
OUTSIDE = "outside"
REDIS = "redis"
NODES_MAX = 80
MEMBERS_MAX = 9
"""Watchers, and planners."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DualStack:
    """One IPv4 and one IPv6 string: two addresses or two prefixes."""

    ipv4: str
    ipv6: str

    def __iter__(self) -> Iterator[str]:
        return iter((self.ipv4, self.ipv6))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlace:
    """One node: its number from 1, name, zone, underlay addresses and the prefixes its pods live in."""

    index: int
    name: str
    zone: str
    address: DualStack
    secondary_address: DualStack
    pod_cidr: DualStack


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberPlace:
    """One machine of the control plane."""

    name: str
    address: DualStack


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """All places of a lab."""

    nodes: tuple[NodePlace, ...]
    watchers: tuple[MemberPlace, ...] = ()
    planners: tuple[MemberPlace, ...] = ()
    redis: MemberPlace = MemberPlace(name=REDIS, address=DualStack(ipv4="172.18.3.1", ipv6="fd00:172:18::3:1"))
    control_address: DualStack = DualStack(ipv4="172.18.0.1", ipv6="fd00:172:18::1")
    outside_address: DualStack = DualStack(ipv4="172.18.0.100", ipv6="fd00:172:18::100")
    client_addresses: tuple[DualStack, ...] = (
        DualStack(ipv4="203.0.113.2", ipv6="2001:db8:ca::2"),
        DualStack(ipv4="203.0.113.130", ipv6="2001:db8:ca:1::130"),
    )
    client_cidrs: DualStack = DualStack(ipv4="203.0.113.0/24", ipv6="2001:db8:ca::/48")

    @property
    def members(self) -> tuple[MemberPlace, ...]:
        """The machines of the control plane, the control place left out."""
        return (*self.watchers, *self.planners, self.redis)

    def address_of(self, name: str) -> DualStack:
        """The underlay addresses of a node, a machine of the control plane, `control` or `outside`.

        Raises:
            LabUsageError: no such place is on the underlay.
        """
        known = {CONTROL: self.control_address, OUTSIDE: self.outside_address}
        known |= {member.name: member.address for member in self.members}
        known |= {node.name: node.address for node in self.nodes}
        if name not in known:
            raise LabUsageError(f"there is no place {name!r} on the underlay; there are {', '.join(sorted(known))}")
        return known[name]

    def node(self, name: str) -> NodePlace:
        """The node called `name`.

        Raises:
            KeyError: no node has that name.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)


def build_topology(*, nodes: int, zones: int, watchers: int = 1, planners: int = 1) -> Topology:
    """The topology of a lab; nodes take the zones in turn.

    Raises:
        LabUsageError: fewer than one of something, or more than addresses are set aside for.
    """
    if not 1 <= nodes <= NODES_MAX:
        raise LabUsageError(f"nodes must be between 1 and {NODES_MAX}, not {nodes}")
    if not 1 <= zones <= nodes:
        raise LabUsageError(f"zones must be between 1 and the number of nodes ({nodes}), not {zones}")
    for what, count in (("watchers", watchers), ("planners", planners)):
        if not 1 <= count <= MEMBERS_MAX:
            raise LabUsageError(f"{what} must be between 1 and {MEMBERS_MAX}, not {count}")
    return Topology(
        nodes=tuple(_node(index, zones) for index in range(1, nodes + 1)),
        watchers=_members("watcher", 1, watchers),
        planners=_members("planner", 2, planners),
    )


def _members(kind: str, block: int, count: int) -> tuple[MemberPlace, ...]:
    return tuple(
        MemberPlace(
            name=kind if count == 1 else f"{kind}-{index}",
            address=DualStack(ipv4=f"172.18.{block}.{index}", ipv6=f"fd00:172:18::{block}:{index}"),
        )
        for index in range(1, count + 1)
    )


def _node(index: int, zones: int) -> NodePlace:
    return NodePlace(
        index=index,
        name=f"node-{index}",
        zone=f"zone-{chr(ord('a') + (index - 1) % zones)}",
        address=DualStack(ipv4=f"172.18.0.{10 + index}", ipv6=f"fd00:172:18::{10 + index}"),
        secondary_address=DualStack(ipv4=f"192.168.50.{10 + index}", ipv6=f"fd00:192:168:50::{10 + index}"),
        pod_cidr=DualStack(ipv4=f"10.244.{index}.0/24", ipv6=f"fd00:10:244:{index:x}::/64"),
    )


class PodAddresses:
    """Hands out pod addresses of one node, the same host number in both families.

    Numbers go up and wrap, so an address that was just given back stays unused as long as possible, as a
    cluster's own allocator does it: late packets must not reach a newcomer.
    """

    __slots__ = ("_cidr", "_last", "_used")

    def __init__(self, cidr: DualStack) -> None:
        self._cidr = (ipaddress.IPv4Network(cidr.ipv4), ipaddress.IPv6Network(cidr.ipv6))
        self._used: set[int] = set()
        self._last = 1

    def allocate(self) -> DualStack:
        """The next free pair.

        Raises:
            ValueError: every address of the node is taken.
        """
        first, last = 2, self._cidr[0].num_addresses - 2
        span = last - first + 1
        for step in range(1, span + 1):
            number = first + (self._last - first + step) % span
            if number not in self._used:
                self._used.add(number)
                self._last = number
                return DualStack(ipv4=str(self._cidr[0][number]), ipv6=str(self._cidr[1][number]))
        raise ValueError(f"all {span} pod addresses of {self._cidr[0]} are in use")

    def release(self, address: DualStack) -> None:
        """Gives a pair back; unknown pairs are ignored."""
        self._used.discard(int(ipaddress.IPv4Address(address.ipv4)) - int(self._cidr[0].network_address))


def pod_place(namespace: str, name: str) -> str:
    """The name of a pod's network namespace."""
    return f"pod.{namespace}.{name}"


def place_name(where: str) -> str:
    """The namespace of a place as people name it: a node, `outside`, `control`, or a pod as `namespace/name`."""
    namespace, slash, name = where.partition("/")
    return pod_place(namespace, name) if slash else where
