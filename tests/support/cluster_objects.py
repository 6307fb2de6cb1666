# SPDX-License-Identifier: Apache-2.0
"""Cluster objects for tests, twice: as the API server writes them (JSON) and as the vocabulary has them (model).

API objects (dicts): `service_json`, `endpoint_slice_json`, `node_json`, `service_cidr_json`, and `list_json`, `event`.
Model values: `service`, `endpoint_slice`, `endpoint`, `node`, `service_cidr`. Both families of builders take the same
words, addresses as text, ports as "name:port/protocol" text or int, so one line makes one object:

    service("shop/web", "10.96.0.10", ports=["http:80", "dns:53/UDP"], node_ports={"http": 30080})
    endpoint_slice("shop/web-1", "web", ["10.244.0.1", endpoint("10.244.1.2", node="n2", ready=False)], ["http:8080"])
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pointsman_model.cluster import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    LoadBalancerIP,
    LoadBalancerMode,
    Node,
    NodeAddress,
    Service,
    ServiceCIDR,
    ServicePort,
    SliceKey,
    Taint,
    TargetRef,
    TrafficPolicy,
)
from pointsman_model.names import (
    Family,
    Protocol,
    ServiceKey,
    family_of,
    format_address,
    parse_address,
    parse_prefix,
)

Json = dict[str, Any]
PortText = str | int
"""`80`, `"80"`, `"http:80"`, `"dns:53/UDP"`, `":80/SCTP"`; TCP unless said."""


def split_name(name: str) -> tuple[str, str]:
    """`"shop/web"` -> ("shop", "web"); a name without a namespace is in `default`."""
    namespace, slash, rest = name.partition("/")
    return (namespace, rest) if slash else ("default", name)


def split_port(text: PortText) -> tuple[str, int, Protocol]:
    """A PortText as (name, number, protocol)."""
    head, _, protocol = str(text).partition("/")
    name, _, number = head.rpartition(":")
    return name, int(number), Protocol[protocol or "TCP"]


def service(
    name: str,
    *cluster_ips: str,
    ports: Iterable[PortText] = ("80",),
    node_ports: Mapping[str, int] | None = None,
    external_ips: Iterable[str] = (),
    load_balancer_ips: Iterable[str] = (),
    proxied_load_balancer_ips: Iterable[str] = (),
    source_ranges: Iterable[str] = (),
    internal_local: bool = False,
    external_local: bool = False,
    affinity_timeout_seconds: int = 0,
    health_check_node_port: int = 0,
    type: str | None = None,  # noqa: A002 - the word of the API
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    uid: str = "",
) -> Service:
    """A Service; without cluster IPs it gets 10.96.0.10. `node_ports` is by port name."""
    by_name = node_ports or {}
    return Service(
        key=ServiceKey(*split_name(name)),
        uid=uid,
        type=type or _type_of(bool(by_name), bool(load_balancer_ips)),
        cluster_ips=tuple(map(parse_address, cluster_ips or ("10.96.0.10",))),
        external_ips=tuple(map(parse_address, external_ips)),
        load_balancer_ips=(
            *(LoadBalancerIP(parse_address(ip), LoadBalancerMode.VIP) for ip in load_balancer_ips),
            *(LoadBalancerIP(parse_address(ip), LoadBalancerMode.PROXY) for ip in proxied_load_balancer_ips),
        ),
        ports=tuple(
            ServicePort(port, protocol, number, by_name.get(port, 0))
            for port, number, protocol in map(split_port, ports)
        ),
        internal_traffic_policy=TrafficPolicy.LOCAL if internal_local else TrafficPolicy.CLUSTER,
        external_traffic_policy=TrafficPolicy.LOCAL if external_local else TrafficPolicy.CLUSTER,
        load_balancer_source_ranges=tuple(map(parse_prefix, source_ranges)),
        affinity_timeout_seconds=affinity_timeout_seconds,
        health_check_node_port=health_check_node_port,
        labels=tuple(sorted((labels or {}).items())),
        annotations=tuple(sorted((annotations or {}).items())),
    )


def endpoint(
    address: str,
    *,
    ready: bool = True,
    serving: bool | None = None,
    terminating: bool = False,
    node: str | None = None,
    zone: str | None = None,
    zone_hints: Iterable[str] = (),
    node_hints: Iterable[str] = (),
    target: TargetRef | None = None,
) -> Endpoint:
    """An Endpoint; `serving` follows `ready` unless said, as the endpoint slice controller does it."""
    return Endpoint(
        address=parse_address(address),
        ready=ready,
        serving=ready if serving is None else serving,
        terminating=terminating,
        node_name=node,
        zone=zone,
        zone_hints=tuple(zone_hints),
        node_hints=tuple(node_hints),
        target=target,
    )


def endpoint_slice(
    name: str,
    service_name: str,
    endpoints: Sequence[str | Endpoint] = (),
    ports: Iterable[PortText] = ("80",),
    *,
    family: Family | None = None,
    trigger_time_ns: int = 0,
    uid: str = "",
) -> EndpointSlice:
    """A slice of the Service `service_name` in the slice's namespace; the family is that of the first endpoint."""
    namespace, slice_name = split_name(name)
    built = tuple(item if isinstance(item, Endpoint) else endpoint(item) for item in endpoints)
    return EndpointSlice(
        key=SliceKey(namespace, slice_name),
        uid=uid,
        service=ServiceKey(namespace, service_name),
        family=family or (family_of(built[0].address) if built else Family.IPV4),
        ports=tuple(EndpointPort(port, protocol, number) for port, number, protocol in map(split_port, ports)),
        endpoints=built,
        trigger_time_ns=trigger_time_ns,
    )


def node(
    name: str,
    *addresses: str,
    zone: str = "",
    pod_cidrs: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    taints: Iterable[Taint] = (),
    deleting: bool = False,
) -> Node:
    """A Node with InternalIP addresses; a zone is put among the labels too, as in the API."""
    all_labels = {**({"topology.kubernetes.io/zone": zone} if zone else {}), **(labels or {})}
    return Node(
        name=name,
        addresses=tuple(NodeAddress("InternalIP", parse_address(address)) for address in addresses),
        pod_cidrs=tuple(map(parse_prefix, pod_cidrs)),
        zone=zone,
        labels=tuple(sorted(all_labels.items())),
        taints=tuple(taints),
        deleting=deleting,
    )


def service_cidr(name: str, *cidrs: str) -> ServiceCIDR:
    """A ServiceCIDR."""
    return ServiceCIDR(name=name, cidrs=tuple(map(parse_prefix, cidrs)))


def service_json(
    name: str,
    *cluster_ips: str,
    ports: Iterable[PortText] = ("80",),
    node_ports: Mapping[str, int] | None = None,
    load_balancer_ips: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    resource_version: str | int = "1",
    spec: Json | None = None,
) -> Json:
    """A v1 Service as the API server answers it; `spec` overrides single fields (None removes one)."""
    ips = list(cluster_ips or ("10.96.0.10",))
    by_name = node_ports or {}
    fields: Json = {
        "type": _type_of(bool(by_name), bool(load_balancer_ips)),
        "clusterIP": ips[0],
        "clusterIPs": ips,
        "ipFamilies": ["IPv6" if ":" in ip else "IPv4" for ip in ips],
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ports": [_service_port_json(port, by_name) for port in ports],
        **(spec or {}),
    }
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": _metadata(name, resource_version, labels, annotations),
        "spec": {field: value for field, value in fields.items() if value is not None},
        "status": {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"} for ip in load_balancer_ips]}},
    }


def endpoint_slice_json(
    name: str,
    service_name: str | None,
    endpoints: Sequence[str | Json] = (),
    ports: Iterable[PortText] = ("80",),
    *,
    address_type: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    resource_version: str | int = "1",
) -> Json:
    """A discovery.k8s.io/v1 EndpointSlice; endpoints as addresses or as JSON (see `endpoint_json`)."""
    built = [item if isinstance(item, dict) else endpoint_json(item) for item in endpoints]
    guessed = "IPv6" if built and ":" in (built[0].get("addresses") or [""])[0] else "IPv4"
    all_labels = {**({"kubernetes.io/service-name": service_name} if service_name else {}), **(labels or {})}
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": _metadata(name, resource_version, all_labels, annotations),
        "addressType": address_type or guessed,
        "endpoints": built,
        "ports": [
            {"name": port, "port": number, "protocol": protocol.name}
            for port, number, protocol in map(split_port, ports)
        ],
    }


def endpoint_json(
    address: str,
    *,
    ready: bool | None = True,
    serving: bool | None = None,
    terminating: bool | None = None,
    node: str | None = None,
    zone: str | None = None,
    zone_hints: Sequence[str] = (),
    node_hints: Sequence[str] = (),
) -> Json:
    """One endpoint of a slice; what is None is left out."""
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    result: Json = {
        "addresses": [address],
        "conditions": {name: value for name, value in conditions.items() if value is not None},
    }
    if node is not None:
        result["nodeName"] = node
    if zone is not None:
        result["zone"] = zone
    hints: Json = {}
    if zone_hints:
        hints["forZones"] = [{"name": name} for name in zone_hints]
    if node_hints:
        hints["forNodes"] = [{"name": name} for name in node_hints]
    return {**result, "hints": hints} if hints else result


def node_json(
    name: str,
    *addresses: str,
    zone: str = "",
    pod_cidrs: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    resource_version: str | int = "1",
) -> Json:
    """A v1 Node with InternalIP addresses and its name as Hostname."""
    all_labels = {**({"topology.kubernetes.io/zone": zone} if zone else {}), **(labels or {})}
    internal = [{"type": "InternalIP", "address": address} for address in addresses]
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": str(resource_version),
            "labels": all_labels,
        },
        "spec": {"podCIDRs": list(pod_cidrs)},
        "status": {"addresses": [*internal, {"type": "Hostname", "address": name}]},
    }


def service_cidr_json(name: str, *cidrs: str, resource_version: str | int = "1") -> Json:
    """A networking.k8s.io/v1 ServiceCIDR."""
    return {
        "kind": "ServiceCIDR",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(resource_version)},
        "spec": {"cidrs": list(cidrs)},
    }


def list_json(items: Sequence[Json], *, resource_version: str | int = "1", continue_token: str = "") -> bytes:
    """One page of a list as bytes; items lose kind and apiVersion, as in the API server's lists."""
    metadata: Json = {"resourceVersion": str(resource_version)}
    if continue_token:
        metadata["continue"] = continue_token
    bare = [{key: value for key, value in item.items() if key not in {"kind", "apiVersion"}} for item in items]
    kind = f"{items[0]['kind']}List" if items else "List"
    return json.dumps({"kind": kind, "apiVersion": "v1", "metadata": metadata, "items": bare}).encode()


def event(kind: str, value: Json) -> bytes:
    """One line of a watch, with its line end."""
    return json.dumps({"type": kind, "object": value}, separators=(",", ":")).encode() + b"\n"


def bookmark(resource_version: str | int, *, initial_events_end: bool = False) -> bytes:
    """A BOOKMARK line."""
    metadata: Json = {"resourceVersion": str(resource_version)}
    if initial_events_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return event("BOOKMARK", {"metadata": metadata, "endpoints": None, "ports": None})


def text(address: bytes) -> str:
    """A packed address as text, for readable assertions."""
    return format_address(address)


def _type_of(has_node_ports: bool, has_load_balancer: bool) -> str:
    if has_load_balancer:
        return "LoadBalancer"
    return "NodePort" if has_node_ports else "ClusterIP"


def _service_port_json(port: PortText, node_ports: Mapping[str, int]) -> Json:
    name, number, protocol = split_port(port)
    result: Json = {"port": number, "protocol": protocol.name, "targetPort": number}
    if name:
        result["name"] = name
    if name in node_ports:
        result["nodePort"] = node_ports[name]
    return result


def _metadata(
    name: str, resource_version: str | int, labels: Mapping[str, str] | None, annotations: Mapping[str, str] | None
) -> Json:
    namespace, object_name = split_name(name)
    metadata: Json = {
        "name": object_name,
        "namespace": namespace,
        "uid": f"uid-{namespace}-{object_name}",
        "resourceVersion": str(resource_version),
    }
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return metadata
