# SPDX-License-Identifier: Apache-2.0
"""What a node must do: verdicts, masquerade and endpoint sets, decided; backends only translate.

`pointsman.plan.v1` is the wire form of exactly these types. All tuples are sorted as their comments say, so equal
plans are equal values and serialise to equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from pointsman_model.names import Family, Prefix, Protocol, ServiceKey


class FrontendKind(IntEnum):
    """What kind of address packets arrive at."""

    CLUSTER_IP = 1
    EXTERNAL_IP = 2
    LOAD_BALANCER_IP = 3
    NODE_PORT = 4


class TrafficClass(IntEnum):
    """Who sends a packet, as the node that handles it sees it."""

    POD = 1
    """A pod of this node (or of the cluster, as the detector defines it)."""
    HOST = 2
    """A process of this node."""
    OUTSIDE = 3
    """Anyone else."""


class Action(IntEnum):
    """What happens to a new connection."""

    FORWARD = 1
    REJECT = 2
    DROP = 3


class Verdict(NamedTuple):
    """An action; `endpoint_set` (index into ServicePortPlan.endpoint_sets) and `masquerade` are for FORWARD only."""

    action: Action
    endpoint_set: int = 0
    masquerade: bool = False


REJECT = Verdict(Action.REJECT)
DROP = Verdict(Action.DROP)


class PlanEndpoint(NamedTuple):
    """One endpoint of a set; sorts by address, then port."""

    address: bytes
    port: int
    weight: int = 1
    hairpin: bool = False
    """The endpoint's packets may come back to it through this node: it is on this node, or names no node."""


class Frontend(NamedTuple):
    """A place where packets arrive; sorts by kind, address, port."""

    kind: FrontendKind
    address: bytes
    """Empty for NODE_PORT."""
    port: int
    from_pod: Verdict
    from_host: Verdict
    from_outside: Verdict
    source_ranges: tuple[Prefix, ...] = ()
    """If not empty, sources outside of these are dropped before any verdict."""

    def verdict(self, traffic_class: TrafficClass) -> Verdict:
        """The verdict for one class."""
        if traffic_class is TrafficClass.POD:
            return self.from_pod
        return self.from_host if traffic_class is TrafficClass.HOST else self.from_outside


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePortPlan:
    """One ServicePort in one family."""

    name: str
    protocol: Protocol
    family: Family
    frontends: tuple[Frontend, ...] = ()
    """Sorted."""
    endpoint_sets: tuple[tuple[PlanEndpoint, ...], ...] = ()
    """Each non-empty and sorted by address, then port, without duplicates."""
    also_serving: tuple[PlanEndpoint, ...] = ()
    """UDP and SCTP: endpoints in no set whose existing flows go on all the same. Sorted as the sets are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """A health check node port and the number of distinct ready local endpoint addresses."""

    node_port: int
    local_endpoints: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePlan:
    """Everything a node must do for one Service: the unit of replacement."""

    ports: tuple[ServicePortPlan, ...] = ()
    """Sorted by name, protocol, family."""
    affinity_timeout_seconds: int = 0
    health_check: HealthCheck | None = None
    required_capabilities: tuple[str, ...] = ()
    """Sorted."""
    ipvs_scheduler: str = ""
    """How IPVS chooses among endpoints, and nobody else: a kernel scheduler, then its flags, separated by commas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """Facts about the node and the cluster that every node's programming needs."""

    name: str
    addresses: tuple[bytes, ...] = ()
    """The first of each family is the primary one."""
    pod_cidrs: tuple[Prefix, ...] = ()
    service_cidrs: tuple[Prefix, ...] = ()
    """Sorted."""
    eligible: bool = True

    def primary_address(self, family: Family) -> bytes | None:
        """The node's first address of a family."""
        return next((address for address in self.addresses if len(address) == family.address_bytes), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """The whole plan of one node."""

    facts: NodeFacts
    services: dict[ServiceKey, ServicePlan]


class DetectLocal(IntEnum):
    """How a node recognises packets of its pods (kube-proxy: detectLocalMode)."""

    NONE = 1
    CIDR = 2
    BRIDGE_INTERFACE = 3
    INTERFACE_PREFIX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DataplaneSettings:
    """What the node's own configuration adds to the plan, in kube-proxy's words."""

    detect_local: DetectLocal = DetectLocal.NONE
    detect_local_cidrs: tuple[Prefix, ...] = ()
    """At most one for each family; a family without one has no detector."""
    detect_local_interface: str = ""
    masquerade_all: bool = False
    node_port_addresses: tuple[Prefix, ...] = ()
    """Local addresses inside these blocks accept node ports."""

    def detects(self, family: Family) -> bool:
        """Whether packets of pods can be told from others in this family."""
        if self.detect_local is DetectLocal.CIDR:
            return any(prefix.family is family for prefix in self.detect_local_cidrs)
        return self.detect_local is not DetectLocal.NONE
