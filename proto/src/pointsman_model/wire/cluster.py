# SPDX-License-Identifier: Apache-2.0
"""`pointsman.cluster.v1` messages <-> `pointsman_model.cluster` values; inverses of each other.

    change_from_pb(change_to_pb(change)) == change

Equal values give equal bytes (maps are sorted by `serialize`), so a reader may compare encoded objects.
"""

from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

from google.protobuf.timestamp_pb2 import Timestamp

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_model.cluster import (
    Change,
    ClusterObject,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    LoadBalancerIP,
    LoadBalancerMode,
    Node,
    NodeAddress,
    ObjectKey,
    ObjectKind,
    Service,
    ServiceCIDR,
    ServicePort,
    SliceKey,
    Taint,
    TargetRef,
    TrafficPolicy,
    key_of,
)
from pointsman_model.names import ServiceKey, is_object_name
from pointsman_model.wire import (
    WireError,
    address_from_pb,
    family_from_pb,
    family_to_pb,
    port_from_pb,
    prefix_from_pb,
    prefix_to_pb,
    protocol_from_pb,
    protocol_to_pb,
)

NANOSECONDS: Final = 1_000_000_000
_SECONDS_MAX: Final = 253_402_300_799
"""The last second that a Timestamp can have: the end of the year 9999."""
_E = TypeVar("_E", TrafficPolicy, LoadBalancerMode, ObjectKind)


def change_to_pb(change: Change) -> pb.Change:
    """The message of a change, complete."""
    message = object_to_pb(change.key, change.value)
    message.resource_version = change.resource_version
    if change.traceparent:
        message.trace.traceparent = change.traceparent
    if change.observed_at_ns:
        message.observed_at.CopyFrom(_timestamp(change.observed_at_ns))
    return message


def object_to_pb(key: ObjectKey, value: ClusterObject | None) -> pb.Change:
    """A change message with only the object in it, or the removal of `key` when `value` is None."""
    if isinstance(value, EndpointSlice):
        return pb.Change(endpoint_slice=endpoint_slice_to_pb(value))
    if isinstance(value, Service):
        return pb.Change(service=service_to_pb(value))
    if isinstance(value, Node):
        return pb.Change(node=node_to_pb(value))
    if isinstance(value, ServiceCIDR):
        cidrs = [prefix_to_pb(prefix) for prefix in value.cidrs]
        return pb.Change(service_cidr=pb.ServiceCIDR(name=value.name, cidrs=cidrs))
    kind = cast("pb.ObjectKind.ValueType", key.kind.value)
    return pb.Change(removal=pb.Removal(kind=kind, name=_name(key.namespace, key.name)))


def serialize(message: pb.Change) -> bytes:
    """Bytes that are equal for equal messages of one process and library version (map order is fixed)."""
    return message.SerializeToString(deterministic=True)


def service_to_pb(service: Service) -> pb.Service:
    """The message of a Service."""
    return pb.Service(
        name=_name(*service.key),
        uid=service.uid,
        type=service.type,
        cluster_ips=service.cluster_ips,
        external_ips=service.external_ips,
        load_balancer_ips=[
            pb.LoadBalancerIP(address=ip.address, mode=cast("pb.LoadBalancerIP.Mode.ValueType", ip.mode.value))
            for ip in service.load_balancer_ips
        ],
        ports=[
            pb.ServicePort(
                name=port.name,
                protocol=protocol_to_pb(port.protocol),
                port=port.port,
                node_port=port.node_port,
                app_protocol=port.app_protocol,
            )
            for port in service.ports
        ],
        internal_traffic_policy=cast("pb.TrafficPolicy.ValueType", service.internal_traffic_policy.value),
        external_traffic_policy=cast("pb.TrafficPolicy.ValueType", service.external_traffic_policy.value),
        load_balancer_source_ranges=[prefix_to_pb(prefix) for prefix in service.load_balancer_source_ranges],
        affinity_timeout_seconds=service.affinity_timeout_seconds,
        health_check_node_port=service.health_check_node_port,
        labels=dict(service.labels),
        traffic_distribution=service.traffic_distribution,
        publish_not_ready_addresses=service.publish_not_ready_addresses,
        annotations=dict(service.annotations),
    )


def endpoint_slice_to_pb(value: EndpointSlice) -> pb.EndpointSlice:
    """The message of an EndpointSlice."""
    return pb.EndpointSlice(
        name=_name(*value.key),
        uid=value.uid,
        service_name=value.service.name,
        family=family_to_pb(value.family),
        ports=[
            pb.EndpointPort(
                name=port.name, protocol=protocol_to_pb(port.protocol), port=port.port, app_protocol=port.app_protocol
            )
            for port in value.ports
        ],
        endpoints=[endpoint_to_pb(endpoint) for endpoint in value.endpoints],
        trigger_time=_timestamp(value.trigger_time_ns) if value.trigger_time_ns else None,
    )


def endpoint_to_pb(endpoint: Endpoint) -> pb.Endpoint:
    """The message of one endpoint of a slice."""
    target = endpoint.target
    return pb.Endpoint(
        address=endpoint.address,
        ready=endpoint.ready,
        serving=endpoint.serving,
        terminating=endpoint.terminating,
        node_name=endpoint.node_name,
        zone=endpoint.zone,
        zone_hints=endpoint.zone_hints,
        node_hints=endpoint.node_hints,
        target=pb.TargetRef(kind=target.kind, name=_name(target.namespace, target.name), uid=target.uid)
        if target
        else None,
        hostname=endpoint.hostname,
    )


def node_to_pb(node: Node) -> pb.Node:
    """The message of a Node."""
    return pb.Node(
        name=node.name,
        uid=node.uid,
        addresses=[pb.Node.Address(type=entry.type, address=entry.address) for entry in node.addresses],
        pod_cidrs=[prefix_to_pb(prefix) for prefix in node.pod_cidrs],
        zone=node.zone,
        labels=dict(node.labels),
        taints=[pb.Node.Taint(key=taint.key, value=taint.value, effect=taint.effect) for taint in node.taints],
        deleting=node.deleting,
    )


def change_from_pb(message: pb.Change) -> Change:
    """The change of a message.

    Raises:
        WireError: a value that the contract forbids, or no object.
    """
    kind = message.WhichOneof("object")
    if kind is None:
        raise WireError("change: no object is set")
    if kind == "removal":
        key, value = _removed_key(message.removal), None
    else:
        value = _READERS[kind](getattr(message, kind))
        key = key_of(value)
    return Change(
        key=key,
        value=value,
        resource_version=message.resource_version,
        traceparent=message.trace.traceparent if message.HasField("trace") else "",
        observed_at_ns=_nanoseconds(message.observed_at) if message.HasField("observed_at") else 0,
    )


def service_from_pb(message: pb.Service) -> Service:
    """The Service of a message; WireError as `change_from_pb`."""
    return Service(
        key=ServiceKey(*_names(message.name, "service.name")),
        uid=message.uid,
        type=message.type,
        cluster_ips=_addresses(message.cluster_ips, "service.cluster_ips"),
        external_ips=_addresses(message.external_ips, "service.external_ips"),
        load_balancer_ips=tuple(
            LoadBalancerIP(
                address_from_pb(ip.address, "service.load_balancer_ips.address"),
                _enum(LoadBalancerMode, ip.mode, "service.load_balancer_ips.mode"),
            )
            for ip in message.load_balancer_ips
        ),
        ports=tuple(_service_port(port) for port in message.ports),
        internal_traffic_policy=_enum(
            TrafficPolicy, message.internal_traffic_policy, "service.internal_traffic_policy"
        ),
        external_traffic_policy=_enum(
            TrafficPolicy, message.external_traffic_policy, "service.external_traffic_policy"
        ),
        load_balancer_source_ranges=tuple(
            prefix_from_pb(prefix, "service.load_balancer_source_ranges")
            for prefix in message.load_balancer_source_ranges
        ),
        affinity_timeout_seconds=message.affinity_timeout_seconds,
        health_check_node_port=port_from_pb(
            message.health_check_node_port, "service.health_check_node_port", zero_allowed=True
        ),
        labels=tuple(sorted(message.labels.items())),
        annotations=tuple(sorted(message.annotations.items())),
        traffic_distribution=message.traffic_distribution,
        publish_not_ready_addresses=message.publish_not_ready_addresses,
    )


def _service_port(port: pb.ServicePort) -> ServicePort:
    return ServicePort(
        port.name,
        protocol_from_pb(port.protocol, "service.ports.protocol"),
        port_from_pb(port.port, "service.ports.port"),
        port_from_pb(port.node_port, "service.ports.node_port", zero_allowed=True),
        port.app_protocol,
    )


def endpoint_slice_from_pb(message: pb.EndpointSlice) -> EndpointSlice:
    """The EndpointSlice of a message; WireError as `change_from_pb`."""
    namespace, name = _names(message.name, "endpoint_slice.name")
    if not message.service_name:
        raise WireError("endpoint_slice.service_name: empty")
    family = family_from_pb(message.family, "endpoint_slice.family")
    endpoints = tuple([_endpoint(endpoint) for endpoint in message.endpoints])
    if any(len(endpoint.address) != family.address_bytes for endpoint in endpoints):
        raise WireError(f"endpoint_slice.endpoints.address: not all are of family {family.name}")
    return EndpointSlice(
        key=SliceKey(namespace, name),
        uid=message.uid,
        service=ServiceKey(namespace, message.service_name),
        family=family,
        ports=tuple(
            EndpointPort(
                port.name,
                protocol_from_pb(port.protocol, "endpoint_slice.ports.protocol"),
                port_from_pb(port.port, "endpoint_slice.ports.port"),
                port.app_protocol,
            )
            for port in message.ports
        ),
        endpoints=endpoints,
        trigger_time_ns=_nanoseconds(message.trigger_time) if message.HasField("trigger_time") else 0,
    )


def _endpoint(message: pb.Endpoint) -> Endpoint:
    target = message.target if message.HasField("target") else None
    return Endpoint(
        message.address,
        message.ready,
        message.serving,
        message.terminating,
        message.node_name if message.HasField("node_name") else None,
        message.zone if message.HasField("zone") else None,
        tuple(message.zone_hints),
        tuple(message.node_hints),
        TargetRef(target.kind, target.name.namespace, target.name.name, target.uid) if target else None,
        message.hostname,
    )


def node_from_pb(message: pb.Node) -> Node:
    """The Node of a message; WireError as `change_from_pb`."""
    if not message.name:
        raise WireError("node.name: empty")
    return Node(
        name=message.name,
        uid=message.uid,
        addresses=tuple(
            NodeAddress(entry.type, address_from_pb(entry.address, "node.addresses")) for entry in message.addresses
        ),
        pod_cidrs=tuple(prefix_from_pb(prefix, "node.pod_cidrs") for prefix in message.pod_cidrs),
        zone=message.zone,
        labels=tuple(sorted(message.labels.items())),
        taints=tuple(Taint(taint.key, taint.value, taint.effect) for taint in message.taints),
        deleting=message.deleting,
    )


def service_cidr_from_pb(message: pb.ServiceCIDR) -> ServiceCIDR:
    """The ServiceCIDR of a message; WireError as `change_from_pb`."""
    if not message.name:
        raise WireError("service_cidr.name: empty")
    cidrs = tuple(prefix_from_pb(prefix, "service_cidr.cidrs") for prefix in message.cidrs)
    return ServiceCIDR(name=message.name, cidrs=cidrs)


_READERS: Final = MappingProxyType[str, Callable[[Any], ClusterObject]](
    {
        "service": service_from_pb,
        "endpoint_slice": endpoint_slice_from_pb,
        "node": node_from_pb,
        "service_cidr": service_cidr_from_pb,
    }
)


def _removed_key(message: pb.Removal) -> ObjectKey:
    kind = _enum(ObjectKind, message.kind, "removal.kind")
    if not message.name.name:
        raise WireError("removal.name: empty")
    return ObjectKey(kind, message.name.namespace, message.name.name)


def _name(namespace: str, name: str) -> types_pb2.NamespacedName:
    return types_pb2.NamespacedName(namespace=namespace, name=name)


def _names(message: types_pb2.NamespacedName, field: str) -> tuple[str, str]:
    if not (message.namespace and message.name):
        raise WireError(f"{field}: namespace and name are both needed")
    for part in (message.namespace, message.name):
        if not is_object_name(part):
            raise WireError(f"{field}: {part[:64]!r} is no name that an object could have")
    return message.namespace, message.name


def _addresses(values: Iterable[bytes], field: str) -> tuple[bytes, ...]:
    return tuple(address_from_pb(value, field) for value in values)


def _enum(kind: type[_E], number: int, field: str) -> _E:
    try:
        return kind(number)
    except ValueError as error:
        raise WireError(f"{field}: {number} is not known") from error


def _timestamp(nanoseconds: int) -> Timestamp:
    seconds, nanos = divmod(nanoseconds, NANOSECONDS)
    return Timestamp(seconds=seconds, nanos=nanos)


def _nanoseconds(message: Timestamp) -> int:
    """Nanoseconds since 1970; 0, which means unknown, for what is no time from then to the year 9999.

    Times are for traces and figures only: a wrong one must not cost the object, nor whoever writes it on.
    """
    is_sound = 0 <= message.seconds <= _SECONDS_MAX and 0 <= message.nanos < NANOSECONDS
    return message.seconds * NANOSECONDS + message.nanos if is_sound else 0
