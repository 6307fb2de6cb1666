# SPDX-License-Identifier: Apache-2.0
"""Cluster objects in, packets out: planning and tracing in one line each, for tables of packet-flow cases.

world = World(service(...), endpoint_slice(...))
world.probe(POD, "172.30.0.41", 80) -> Seen({"10.180.0.1:80"}, masqueraded=set())
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pointsman_model.cluster import Change, ClusterObject, Node, NodeAddress, key_of
from pointsman_model.names import Protocol, format_address, parse_address, parse_prefix
from pointsman_model.packet import Fate, Packet, trace_packet
from pointsman_model.plan import DataplaneSettings, DetectLocal, NodePlan, TrafficClass
from pointsman_planner.core.cluster_state import ClusterState
from pointsman_planner.core.node_plan import plan

NODE = "test-node"
POD, HOST, OUTSIDE, BLOCKED = "10.0.0.2", "192.168.0.2", "203.0.113.2", "203.0.113.130"
EVERYWHERE = ("0.0.0.0/0", "::/0")


def node_under_test(zone: str = "", name: str = NODE) -> Node:
    """The node under test of packet-flow.md."""
    addresses = ("192.168.0.2", "192.168.1.2", "192.168.99.11", "2001:db8::1", "2001:db8:1::2")
    return Node(
        name=name, zone=zone, addresses=tuple(NodeAddress("InternalIP", parse_address(text)) for text in addresses)
    )


def dataplane_settings(
    *, detector: bool = True, masquerade_all: bool = False, node_ports: Iterable[str] = EVERYWHERE
) -> DataplaneSettings:
    """Detect-local ClusterCIDR 10.0.0.0/8 and fd00:10::/64, node ports on every address, unless said otherwise."""
    return DataplaneSettings(
        detect_local=DetectLocal.CIDR if detector else DetectLocal.NONE,
        detect_local_cidrs=(parse_prefix("10.0.0.0/8"), parse_prefix("fd00:10::/64")) if detector else (),
        masquerade_all=masquerade_all,
        node_port_addresses=tuple(map(parse_prefix, node_ports)),
    )


def cluster_of(*objects: ClusterObject) -> ClusterState:
    """A cluster with these objects."""
    state = ClusterState()
    state.apply(Change(key=key_of(value), value=value) for value in objects)
    return state


@dataclass(frozen=True)
class Seen:
    """What became of a packet; compares with what `to`, `to_masked` and the constants make."""

    fate: Fate
    plain: frozenset[str] = frozenset()
    masqueraded: frozenset[str] = frozenset()


REJECTED, DROPPED, UNTOUCHED = Seen(Fate.REJECT), Seen(Fate.DROP), Seen(Fate.NONE)


def to(*endpoints: str) -> Seen:
    """Forwarded to these `address:port` (port 80 unless said), the client's address kept."""
    return Seen(Fate.FORWARD, frozenset(map(_with_port, endpoints)))


def to_masked(*endpoints: str) -> Seen:
    """Forwarded to these, each sees a node address."""
    return Seen(Fate.FORWARD, frozenset(), frozenset(map(_with_port, endpoints)))


def _with_port(endpoint: str) -> str:
    return endpoint if "]:" in endpoint or endpoint.count(":") == 1 else _text(endpoint, 80)


def _text(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class World:
    """One node's plan and settings."""

    def __init__(
        self, *objects: ClusterObject, settings: DataplaneSettings | None = None, node: Node | None = None
    ) -> None:
        self.node = node or node_under_test()
        self.cluster = cluster_of(self.node, *objects)
        self.settings = settings or dataplane_settings()

    @property
    def plan(self) -> NodePlan:
        """The node's plan now."""
        return plan(self.node.name, self.cluster)

    def probe(
        self,
        source: str,
        destination: str,
        port: int = 80,
        protocol: Protocol = Protocol.TCP,
        *,
        sender: TrafficClass | None = None,
    ) -> Seen:
        """Trace one packet."""
        packet = Packet(
            source=parse_address(source),
            destination=parse_address(destination),
            destination_port=port,
            protocol=protocol,
            sender=sender,
        )
        outcome = trace_packet(self.plan, self.settings, packet)
        assert outcome.reasons
        seen: dict[bool, set[str]] = {False: set(), True: set()}
        for candidate in outcome.candidates:
            seen[candidate.masquerade].add(_text(format_address(candidate.address), candidate.port))
        return Seen(outcome.fate, frozenset(seen[False]), frozenset(seen[True]))
