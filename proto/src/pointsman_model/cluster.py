# SPDX-License-Identifier: Apache-2.0
"""What the API server says, normalised: Services, EndpointSlices, Nodes, ServiceCIDRs.

Facts only; nothing is decided here. Every fact that a service proxy can need travels whole, because an API that loses
facts cannot be repaired later. `pointsman.cluster.v1` is the wire form of exactly these types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from pointsman_model.names import Family, Prefix, Protocol, ServiceKey


class TrafficPolicy(IntEnum):
    """internalTrafficPolicy / externalTrafficPolicy."""

    CLUSTER = 1
    LOCAL = 2


class LoadBalancerMode(IntEnum):
    """status.loadBalancer.ingress[].ipMode."""

    VIP = 1
    PROXY = 2


class LoadBalancerIP(NamedTuple):
    """One load balancer address."""

    address: bytes
    mode: LoadBalancerMode


class ServicePort(NamedTuple):
    """spec.ports[]; `node_port` 0 = none. targetPort is left out on purpose: the slice's port is authoritative."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0
    app_protocol: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A v1 Service that is to be programmed: it has at least one cluster IP and is not ExternalName."""

    key: ServiceKey
    uid: str = ""
    type: str = "ClusterIP"
    cluster_ips: tuple[bytes, ...]
    """At most one for each family."""
    external_ips: tuple[bytes, ...] = ()
    load_balancer_ips: tuple[LoadBalancerIP, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    internal_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    external_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    load_balancer_source_ranges: tuple[Prefix, ...] = ()
    affinity_timeout_seconds: int = 0
    """sessionAffinity ClientIP timeout; 0 = no affinity."""
    health_check_node_port: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted by key."""
    annotations: tuple[tuple[str, str], ...] = ()
    """Only keys beginning with `pointsman.io/`, sorted."""
    traffic_distribution: str = ""
    publish_not_ready_addresses: bool = False


class TargetRef(NamedTuple):
    """The object behind an endpoint."""

    kind: str
    namespace: str
    name: str
    uid: str


class Endpoint(NamedTuple):
    """One endpoint of a slice, conditions defaulted (ready, serving: true; terminating: false).

    A NamedTuple, not a dataclass: a cluster has hundreds of thousands, and construction is several times cheaper.
    """

    address: bytes
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str | None = None
    zone: str | None = None
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()
    target: TargetRef | None = None
    hostname: str = ""


class EndpointPort(NamedTuple):
    """ports[] of a slice; joined with a ServicePort by name and protocol."""

    name: str
    protocol: Protocol
    port: int
    app_protocol: str = ""


class SliceKey(NamedTuple):
    """Name of an EndpointSlice."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSlice:
    """A discovery.k8s.io/v1 EndpointSlice of an IP family that names its Service."""

    key: SliceKey
    uid: str = ""
    service: ServiceKey
    family: Family
    ports: tuple[EndpointPort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    trigger_time_ns: int = 0
    """endpoints.kubernetes.io/last-change-trigger-time in nanoseconds since the epoch; 0 = absent."""


class NodeAddress(NamedTuple):
    """status.addresses[] entry that is an IP; `type` as the API has it (InternalIP, ExternalIP)."""

    type: str
    address: bytes


class Taint(NamedTuple):
    """spec.taints[]."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A v1 Node."""

    name: str
    uid: str = ""
    addresses: tuple[NodeAddress, ...] = ()
    pod_cidrs: tuple[Prefix, ...] = ()
    zone: str = ""
    """Label topology.kubernetes.io/zone; empty when there is none."""
    labels: tuple[tuple[str, str], ...] = ()
    taints: tuple[Taint, ...] = ()
    deleting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCIDR:
    """A networking.k8s.io/v1 ServiceCIDR."""

    name: str
    cidrs: tuple[Prefix, ...] = ()


class ObjectKind(IntEnum):
    """Kinds of object that the watcher streams (equals `pointsman.cluster.v1.ObjectKind`)."""

    SERVICE = 1
    ENDPOINT_SLICE = 2
    NODE = 3
    SERVICE_CIDR = 4


class ObjectKey(NamedTuple):
    """Names one object of one kind; the namespace is empty for nodes and service CIDRs."""

    kind: ObjectKind
    namespace: str
    name: str

    def __str__(self) -> str:
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind.name.lower()} {name}"


ClusterObject = Service | EndpointSlice | Node | ServiceCIDR


def key_of(value: ClusterObject) -> ObjectKey:
    """The key of an object."""
    if isinstance(value, Service):
        return ObjectKey(ObjectKind.SERVICE, *value.key)
    if isinstance(value, EndpointSlice):
        return ObjectKey(ObjectKind.ENDPOINT_SLICE, *value.key)
    if isinstance(value, Node):
        return ObjectKey(ObjectKind.NODE, "", value.name)
    return ObjectKey(ObjectKind.SERVICE_CIDR, "", value.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One object's newest state (`value`), or its removal (`value` None), with where it came from."""

    key: ObjectKey
    value: ClusterObject | None
    resource_version: str = ""
    traceparent: str = ""
    observed_at_ns: int = 0
    """When the watcher received it, nanoseconds since the epoch."""


class ResourceVersions(NamedTuple):
    """How far the API server was read: of each kind the newest resourceVersion seen; 0 = unknown.

    All readers of one API server count alike, so these are comparable where revisions are not.
    """

    services: int = 0
    endpoint_slices: int = 0
    nodes: int = 0
    service_cidrs: int = 0

    def of(self, kind: ObjectKind) -> int:
        """The version of one kind."""
        return self[_KIND_ORDER.index(kind)]

    def having(self, kind: ObjectKind, version: int) -> ResourceVersions:
        """These with another version of one kind."""
        return self._replace(**{self._fields[_KIND_ORDER.index(kind)]: version})

    def missing(self, wanted: ResourceVersions) -> tuple[ObjectKind, ...]:
        """Kinds of which something newer is wanted than these include; what is wanted unknown counts as included."""
        return tuple(kind for kind in _KIND_ORDER if self.of(kind) < wanted.of(kind))

    def includes(self, wanted: ResourceVersions) -> bool:
        """Whether these are proved to include all that is wanted; never, when nothing is known to be wanted."""
        return any(wanted) and not self.missing(wanted)


_KIND_ORDER = (ObjectKind.SERVICE, ObjectKind.ENDPOINT_SLICE, ObjectKind.NODE, ObjectKind.SERVICE_CIDR)


def version_number(resource_version: str) -> int:
    """A resourceVersion as a number; 0 when it is none (the API does not promise that it is)."""
    is_number = resource_version.isascii() and resource_version.isdigit() and len(resource_version) < 20
    return int(resource_version) if is_number else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPosition:
    """A point in one watcher's (or planner's) history; revisions of different epochs are not comparable."""

    epoch: str = ""
    revision: int = field(default=0)
    resource_versions: ResourceVersions = field(default=ResourceVersions(), compare=False)
    """What of the API server it includes. Grows with the server's bookmarks too, so it tells no two positions apart."""

    overrides: int = field(default=0, compare=False)
    """Fingerprint of the overrides it includes: equal for equal ones; 0 for none."""

    def includes(self, wanted: ClusterPosition) -> bool:
        """Whether this position is proved to include what `wanted` includes of the API server."""
        if self.epoch and self.epoch == wanted.epoch:
            return self.revision >= wanted.revision
        return self.resource_versions.includes(wanted.resource_versions)
