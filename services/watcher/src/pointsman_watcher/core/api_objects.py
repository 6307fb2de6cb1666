# SPDX-License-Identifier: Apache-2.0
"""The fields of Kubernetes API objects that the watcher reads, and no others.

msgspec decodes straight into these types and skips the rest of the JSON (managedFields, images, selectors), which is
what makes a list of 10,000 slices a matter of milliseconds. Every field has a default, because the API server leaves
out what is unset, and accepts null where the API server writes null. A value of another type fails the decode of that
object; `decode` then says which field it was.
"""

from typing import Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
SERVICE_PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
TRIGGER_TIME_ANNOTATION: Final = "endpoints.kubernetes.io/last-change-trigger-time"
INITIAL_EVENTS_END_ANNOTATION: Final = "k8s.io/initial-events-end"


class _Object(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Base: camelCase names; no garbage collection, because decoded JSON has no cycles."""


class Metadata(_Object, frozen=True):
    """metadata of a Service or Node."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class ServicePortFields(_Object, frozen=True):
    """spec.ports[]; targetPort is left out, because the port of the slice is authoritative (semantics A5)."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int | None = None
    app_protocol: str | None = None


class ClientIPConfig(_Object, frozen=True):
    """spec.sessionAffinityConfig.clientIP."""

    timeout_seconds: int | None = None


class SessionAffinityConfig(_Object, frozen=True):
    """spec.sessionAffinityConfig."""

    client_ip: ClientIPConfig | None = msgspec.field(default=None, name="clientIP")


class ServiceSpec(_Object, frozen=True):
    """spec of a Service."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    ports: list[ServicePortFields] | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    load_balancer_source_ranges: list[str] | None = None
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    health_check_node_port: int | None = None
    traffic_distribution: str | None = None
    publish_not_ready_addresses: bool | None = None


class Ingress(_Object, frozen=True):
    """status.loadBalancer.ingress[]."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerStatus(_Object, frozen=True):
    """status.loadBalancer."""

    ingress: list[Ingress] | None = None


class ServiceStatus(_Object, frozen=True):
    """Status of a Service."""

    load_balancer: LoadBalancerStatus | None = None


class ServiceObject(_Object, frozen=True):
    """v1 Service."""

    metadata: Metadata = Metadata()
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus | None = None


class SliceLabels(_Object, frozen=True):
    """The two labels of a slice that matter; the presence of the second is what counts."""

    service_name: str = msgspec.field(default="", name=SERVICE_NAME_LABEL)
    headless: str | UnsetType = msgspec.field(default=UNSET, name=HEADLESS_LABEL)


class SliceAnnotations(_Object, frozen=True):
    """The annotations of a slice that matter; the second only ever stands on bookmarks."""

    trigger_time: str | None = msgspec.field(default=None, name=TRIGGER_TIME_ANNOTATION)
    initial_events_end: str | None = msgspec.field(default=None, name=INITIAL_EVENTS_END_ANNOTATION)


class SliceMetadata(_Object, frozen=True):
    """metadata of an EndpointSlice."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: SliceLabels | None = None
    annotations: SliceAnnotations | None = None


class Conditions(_Object, frozen=True):
    """endpoints[].conditions."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(_Object, frozen=True):
    """hints.forZones[] and hints.forNodes[]."""

    name: str = ""


class Hints(_Object, frozen=True):
    """endpoints[].hints."""

    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class TargetReference(_Object, frozen=True):
    """endpoints[].targetRef."""

    kind: str | None = None
    namespace: str | None = None
    name: str | None = None
    uid: str | None = None


class EndpointFields(_Object, frozen=True):
    """endpoints[]."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: Hints | None = None
    target_ref: TargetReference | None = None
    hostname: str | None = None


class EndpointPortFields(_Object, frozen=True):
    """ports[] of a slice."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    app_protocol: str | None = None


class EndpointSliceObject(_Object, frozen=True):
    """discovery.k8s.io/v1 EndpointSlice."""

    metadata: SliceMetadata = SliceMetadata()
    address_type: str = ""
    endpoints: list[EndpointFields] | None = None
    ports: list[EndpointPortFields] | None = None


class TaintFields(_Object, frozen=True):
    """spec.taints[]."""

    key: str = ""
    value: str | None = None
    effect: str | None = None


class NodeSpec(_Object, frozen=True):
    """spec of a Node."""

    pod_cidr: str | None = msgspec.field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")
    taints: list[TaintFields] | None = None


class NodeAddressFields(_Object, frozen=True):
    """status.addresses[]."""

    type: str = ""
    address: str = ""


class NodeStatus(_Object, frozen=True):
    """Status of a Node."""

    addresses: list[NodeAddressFields] | None = None


class NodeObject(_Object, frozen=True):
    """v1 Node."""

    metadata: Metadata = Metadata()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus | None = None


class ServiceCIDRSpec(_Object, frozen=True):
    """spec of a ServiceCIDR."""

    cidrs: list[str] | None = None


class ServiceCIDRObject(_Object, frozen=True):
    """networking.k8s.io/v1 ServiceCIDR."""

    metadata: Metadata = Metadata()
    spec: ServiceCIDRSpec = ServiceCIDRSpec()


class IdentityObject(_Object, frozen=True):
    """Any object, as far as it must be known to say which one could not be decoded."""

    class Names(_Object, frozen=True):
        """metadata without anything that people write into it."""

        name: str = ""
        namespace: str = ""
        resource_version: str = ""

    metadata: Names = Names()


class StatusObject(_Object, frozen=True):
    """v1 Status: the body of an error answer and the object of an ERROR event."""

    class ListMetadata(_Object, frozen=True):
        """metadata.continue of a 410 to a chunked list."""

        continue_token: str = msgspec.field(default="", name="continue")

    metadata: ListMetadata | None = None
    message: str = ""
    reason: str = ""
    code: int = 0


class PageMetadata(_Object, frozen=True):
    """metadata of a list."""

    resource_version: str = ""
    continue_token: str = msgspec.field(default="", name="continue")


O = TypeVar("O")  # noqa: E741 - the object type of a list or watch


class TypedPage(_Object, Generic[O], frozen=True):
    """One page of a list."""

    metadata: PageMetadata
    items: list[O] | None = None


class TypedEvent(_Object, Generic[O], frozen=True):
    """One line of a watch."""

    type: str
    object: O
