# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects for rows, as JSON text: short to write, complete enough for a strict decoder.

Endpoint notation is packet-flow.md's: `10.180.0.1@L` is ready on the node under test, `@R` on another node, no `@`
names no node; `/U` not ready, `/T` terminating and serving, `/TX` terminating and not serving, `/S` serving and neither
ready nor terminating, `/RT` terminating and yet ready, `/default` without any condition. `@name` names any other node.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from conformance.addresses import NODE_ADDRESSES, POD_CIDRS, SERVICE_CIDRS
from conformance.model import NODE, OTHER_NODE, Event, Verb

ZONE_LABEL = "topology.kubernetes.io/zone"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
TRIGGER_TIME_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
_WRONG_TARGET_PORT = 9
"""Every Service says this targetPort: a proxy that read it instead of the slice's port would be seen."""
_CONDITIONS = {
    "": {"ready": True, "serving": True, "terminating": False},
    "U": {"ready": False, "serving": False, "terminating": False},
    "T": {"ready": False, "serving": True, "terminating": True},
    "TX": {"ready": False, "serving": False, "terminating": True},
    "S": {"ready": False, "serving": True, "terminating": False},
    "RT": {"ready": True, "serving": True, "terminating": True},
    "default": {},
}
_NODES = {"L": NODE, "R": OTHER_NODE, "": None}


class Port(NamedTuple):
    """One port of a Service."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    node_port: int = 0


class SlicePort(NamedTuple):
    """One port of an EndpointSlice; None leaves the field out."""

    port: int | None
    name: str | None = ""
    protocol: str = "TCP"


def apply(*manifests: str) -> tuple[Event, ...]:
    """Events that create the objects or give them a new state."""
    return tuple(Event(Verb.APPLY, manifest) for manifest in manifests)


def delete(*manifests: str) -> tuple[Event, ...]:
    """Events that remove the objects."""
    return tuple(Event(Verb.DELETE, manifest) for manifest in manifests)


def service(
    name: str,
    cluster_ip: str | Sequence[str] = "172.30.0.41",
    ports: Sequence[Port] = (Port(80),),
    *,
    load_balancer: Sequence[str | tuple[str, str]] = (),
    external_ips: Sequence[str] = (),
    etp: str = "",
    itp: str = "Cluster",
    ranges: Sequence[str] = (),
    health_check_node_port: int = 0,
    labels: Mapping[str, str] | None = None,
    **spec: object,
) -> str:
    """A Service. Its type follows from what it has; `load_balancer` entries are an IP or (IP, ipMode)."""
    ips = [cluster_ip] if isinstance(cluster_ip, str) else list(cluster_ip)
    kind = "NodePort" if any(port.node_port for port in ports) else "ClusterIP"
    if load_balancer:
        kind = "LoadBalancer"
    body: dict[str, Any] = {
        "type": kind,
        "clusterIP": ips[0],
        "clusterIPs": ips,
        "ipFamilies": ["IPv6" if ":" in ip else "IPv4" for ip in ips],
        "ipFamilyPolicy": "SingleStack" if len(ips) == 1 else "RequireDualStack",
        "ports": [_service_port(port) for port in ports],
        "selector": {"app": name},
        "sessionAffinity": "None",
        "internalTrafficPolicy": itp,
    }
    if etp or kind != "ClusterIP" or external_ips:
        body["externalTrafficPolicy"] = etp or "Cluster"
    if external_ips:
        body["externalIPs"] = list(external_ips)
    if ranges:
        body["loadBalancerSourceRanges"] = list(ranges)
    if health_check_node_port:
        body["healthCheckNodePort"] = health_check_node_port
    status = {"loadBalancer": {"ingress": [_ingress(entry) for entry in load_balancer]} if load_balancer else {}}
    metadata = {"name": name, "namespace": "default", **({"labels": dict(labels)} if labels else {})}
    return _dump("v1", "Service", metadata, spec={**body, **spec}, status=status)


def _service_port(port: Port) -> dict[str, object]:
    text: dict[str, object] = {"protocol": port.protocol, "port": port.port, "targetPort": _WRONG_TARGET_PORT}
    if port.name:
        text["name"] = port.name
    if port.node_port:
        text["nodePort"] = port.node_port
    return text


def _ingress(entry: str | tuple[str, str]) -> dict[str, str]:
    return {"ip": entry} if isinstance(entry, str) else {"ip": entry[0], "ipMode": entry[1]}


def endpoint(text: str, *, zones: Sequence[str] = (), nodes: Sequence[str] = (), zone: str = "") -> dict[str, Any]:
    """One endpoint in the notation above, with hints; for `slice_of`."""
    address, _, rest = text.partition("@")
    where, _, flag = rest.partition("/")
    result: dict[str, Any] = {"addresses": [address], "conditions": _CONDITIONS[flag]}
    node = _NODES.get(where, where)
    if node is not None:
        result["nodeName"] = node
    if zone:
        result["zone"] = zone
    hints = {}
    if zones:
        hints["forZones"] = [{"name": name} for name in zones]
    if nodes:
        hints["forNodes"] = [{"name": name} for name in nodes]
    if hints:
        result["hints"] = hints
    return result


def slice_of(
    name: str | None,
    endpoints: str | Sequence[dict[str, Any]] = "",
    ports: Sequence[SlicePort] = (SlicePort(80),),
    *,
    slice_name: str = "",
    address_type: str = "",
    triggered_at: str = "",
) -> str:
    """An EndpointSlice of Service `name` (None: without the label); endpoints in notation, separated by spaces.

    `triggered_at` is the time of the change that called for it, in the API's form.
    """
    entries = [endpoint(text) for text in endpoints.split()] if isinstance(endpoints, str) else list(endpoints)
    if not address_type:
        address_type = "IPv6" if any(":" in entry["addresses"][0] for entry in entries) else "IPv4"
    labels = {SERVICE_NAME_LABEL: name, "endpointslice.kubernetes.io/managed-by": "conformance"} if name else {}
    annotations = {"annotations": {TRIGGER_TIME_ANNOTATION: triggered_at}} if triggered_at else {}
    return _dump(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        {"name": slice_name or f"{name}-1", "namespace": "default", "labels": labels, **annotations},
        addressType=address_type,
        endpoints=entries,
        ports=[_slice_port(port) for port in ports],
    )


def _slice_port(port: SlicePort) -> dict[str, object]:
    fields = {"name": port.name, "protocol": port.protocol, "port": port.port}
    return {key: value for key, value in fields.items() if value is not None}


def node(
    name: str = NODE,
    *,
    zone: str | None = None,
    addresses: Sequence[str] = NODE_ADDRESSES[:4],
    pod_cidrs: Sequence[str] = POD_CIDRS,
    taints: Sequence[str] = (),
    deleted_at: str = "",
) -> str:
    """The Node object of the node under test: by default with primary and secondary address of both families."""
    labels = {"kubernetes.io/hostname": name} | ({ZONE_LABEL: zone} if zone is not None else {})
    listed = [{"type": "InternalIP", "address": address} for address in addresses]
    return _dump(
        "v1",
        "Node",
        {"name": name, "labels": labels, **({"deletionTimestamp": deleted_at} if deleted_at else {})},
        spec={
            "podCIDR": pod_cidrs[0],
            "podCIDRs": list(pod_cidrs),
            "taints": [{"key": key, "effect": "NoSchedule"} for key in taints],
        },
        status={"addresses": [*listed, {"type": "Hostname", "address": name}]},
    )


def service_cidr(*cidrs: str, name: str = "kubernetes") -> str:
    """A ServiceCIDR; without arguments the catalogue's."""
    return _dump("networking.k8s.io/v1", "ServiceCIDR", {"name": name}, spec={"cidrs": list(cidrs or SERVICE_CIDRS)})


def _dump(api_version: str, kind: str, metadata: Mapping[str, object], **body: object) -> str:
    uid = f"{kind.lower()}-{metadata.get('namespace', '')}-{metadata['name']}"
    head = {"apiVersion": api_version, "kind": kind, "metadata": {**metadata, "uid": uid, "resourceVersion": "1"}}
    return json.dumps({**head, **body}, separators=(",", ":"))
