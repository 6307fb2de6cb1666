# SPDX-License-Identifier: Apache-2.0
"""The columns `kubectl get` shows per resource, named and filled as a real API server does; the rest get Name and Age."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.resources import Resource

NONE: Final = "<none>"
_UNKNOWN: Final = "<unknown>"
_SHOWN_MAX: Final = 3
_WIDE: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column; `cell` takes the object and the time (seconds since the epoch)."""

    name: str
    cell: Callable[[Json, float], Any]
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0


def columns_of(resource: Resource) -> tuple[Column, ...]:
    """Give the columns of a resource."""
    return _COLUMNS.get(resource.qualified_name, (_NAME, _AGE))


def duration_text(seconds: float) -> str:
    """Give an age as kubectl writes it: 90s, 5m30s, 2h, 3d4h, 2y."""
    total = max(int(seconds), 0)
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 2 * 60:
        return f"{total}s"
    if minutes < 10:  # noqa: PLR2004 - kubectl's own steps of precision, here and below
        return f"{minutes}m{total % 60}s" if total % 60 else f"{minutes}m"
    if minutes < 3 * 60:
        return f"{minutes}m"
    if hours < 8:  # noqa: PLR2004
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:  # noqa: PLR2004
        return f"{hours}h"
    if days < 8:  # noqa: PLR2004
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 2 * 365:
        return f"{days}d"
    return f"{days // 365}y{days % 365}d" if days % 365 else f"{days // 365}y"


def _age_of(text: object, now: float) -> str:
    try:
        return duration_text(now - datetime.fromisoformat(str(text)).timestamp())
    except ValueError:
        return _UNKNOWN


def _at(body: Any, path: str) -> Any:
    for part in path.split("."):
        body = body.get(part) if isinstance(body, dict) else None
    return body


def _text(path: str, missing: str = "") -> Callable[[Json, float], Any]:
    return lambda body, _now: _at(body, path) or missing


def _number(path: str) -> Callable[[Json, float], int]:
    return lambda body, _now: _at(body, path) or 0


def _size(path: str) -> Callable[[Json, float], int]:
    return lambda body, _now: len(_at(body, path) or ())


def _labels_text(labels: object) -> str:
    return (
        ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        if isinstance(labels, dict) and labels
        else NONE
    )


def _labels(path: str) -> Callable[[Json, float], str]:
    return lambda body, _now: _labels_text(_at(body, path))


def _service_type(spec: Json) -> str:
    return str(spec.get("type") or "ClusterIP")


def _external_ip(body: Json, _now: float) -> str:
    spec = body.get("spec") or {}
    external = list(spec.get("externalIPs") or [])
    if _service_type(spec) == "ExternalName":
        return str(spec.get("externalName") or NONE)
    if _service_type(spec) == "LoadBalancer":
        ingress = _at(body, "status.loadBalancer.ingress") or []
        found = [str(item.get("ip") or item.get("hostname") or "") for item in ingress]
        return ",".join([*found, *external]) or "<pending>"
    return ",".join(external) or NONE


def _service_ports(body: Json, _now: float) -> str:
    shown = []
    for port in _at(body, "spec.ports") or []:
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        shown.append(f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}")
    return ",".join(shown) or NONE


def _cluster_ip(body: Json, _now: float) -> str:
    return _at(body, "spec.clusterIP") or NONE


def _containers(path: str, field: str) -> Callable[[Json, float], str]:
    return lambda body, _now: ",".join(str(item.get(field) or "") for item in _at(body, path) or []) or NONE


def _pod_ready(body: Json, _now: float) -> str:
    statuses = _at(body, "status.containerStatuses") or []
    return f"{sum(1 for status in statuses if status.get('ready'))}/{len(_at(body, 'spec.containers') or ())}"


def _pod_status(body: Json, _now: float) -> str:
    if _at(body, "metadata.deletionTimestamp"):
        return "Terminating"
    for status in _at(body, "status.containerStatuses") or []:
        reason = _at(status, "state.waiting.reason") or _at(status, "state.terminated.reason")
        if reason:
            return str(reason)
    return _at(body, "status.reason") or _at(body, "status.phase") or "Unknown"


def _pod_restarts(body: Json, _now: float) -> str:
    return str(sum(status.get("restartCount", 0) for status in _at(body, "status.containerStatuses") or []))


def _readiness_gates(body: Json, _now: float) -> str:
    gates = _at(body, "spec.readinessGates") or []
    conditions = {item.get("type"): item.get("status") for item in _at(body, "status.conditions") or []}
    return (
        f"{sum(conditions.get(gate.get('conditionType')) == 'True' for gate in gates)}/{len(gates)}" if gates else NONE
    )


def _node_status(body: Json, _now: float) -> str:
    ready = [item for item in _at(body, "status.conditions") or [] if item.get("type") == "Ready"]
    words = {"True": "Ready", "False": "NotReady"}
    status = words.get(ready[0].get("status"), "NotReady") if ready else "Unknown"
    return f"{status},SchedulingDisabled" if _at(body, "spec.unschedulable") else status


def _node_roles(body: Json, _now: float) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = _at(body, "metadata.labels") or {}
    return ",".join(sorted(name.removeprefix(prefix) for name in labels if name.startswith(prefix))) or NONE


def _node_address(kind: str) -> Callable[[Json, float], str]:
    def cell(body: Json, _now: float) -> str:
        found = [item.get("address") for item in _at(body, "status.addresses") or [] if item.get("type") == kind]
        return str(found[0]) if found else NONE

    return cell


def _few(values: list[str], separator: str = ",") -> str:
    more = f" + {len(values) - _SHOWN_MAX} more..." if len(values) > _SHOWN_MAX else ""
    return separator.join(values[:_SHOWN_MAX]) + more


def _slice_ports(body: Json, _now: float) -> str:
    ports = body.get("ports")
    if ports is None:
        return "<unset>"
    return _few([str(port.get("port", "*")) for port in ports]) or "<unset>"


def _slice_endpoints(body: Json, _now: float) -> str:
    found = [address for endpoint in body.get("endpoints") or [] for address in endpoint.get("addresses") or []]
    return _few(found) or "<unset>"


def _endpoints(body: Json, _now: float) -> str:
    found = [
        f"{address.get('ip')}:{port.get('port')}"
        for subset in body.get("subsets") or []
        for address in subset.get("addresses") or []
        for port in subset.get("ports") or []
    ]
    return _few(found) or NONE


def _workload_ready(body: Json, _now: float) -> str:
    return f"{_at(body, 'status.readyReplicas') or 0}/{_at(body, 'spec.replicas') or 0}"


def _event_object(field: str) -> Callable[[Json, float], str]:
    return lambda body, _now: f"{(_at(body, f'{field}.kind') or '').lower()}/{_at(body, f'{field}.name') or ''}"


def _event_seen(body: Json, now: float) -> str:
    times = (body.get("lastTimestamp"), body.get("eventTime"), _at(body, "metadata.creationTimestamp"))
    return _age_of(next((time for time in times if time), ""), now)


_NAME: Final = Column(name="Name", cell=_text("metadata.name"), format="name", description="Name of the object.")
_AGE: Final = Column(
    name="Age",
    cell=lambda body, now: _age_of(_at(body, "metadata.creationTimestamp"), now),
    description="Time since the object was created.",
)


def _wide(name: str, cell: Callable[[Json, float], Any]) -> Column:
    return Column(name=name, cell=cell, priority=_WIDE)


def _integer(name: str, path: str) -> Column:
    return Column(name=name, cell=_number(path), type="integer")


_TEMPLATE: Final = (
    _wide("Containers", _containers("spec.template.spec.containers", "name")),
    _wide("Images", _containers("spec.template.spec.containers", "image")),
    _wide("Selector", _labels("spec.selector.matchLabels")),
)

_COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "services": (
        _NAME,
        Column(name="Type", cell=lambda body, _now: _service_type(body.get("spec") or {})),
        Column(name="Cluster-IP", cell=_cluster_ip),
        Column(name="External-IP", cell=_external_ip),
        Column(name="Port(s)", cell=_service_ports),
        _AGE,
        _wide("Selector", _labels("spec.selector")),
    ),
    "pods": (
        _NAME,
        Column(name="Ready", cell=_pod_ready),
        Column(name="Status", cell=_pod_status),
        Column(name="Restarts", cell=_pod_restarts),
        _AGE,
        _wide("IP", _text("status.podIP", NONE)),
        _wide("Node", _text("spec.nodeName", NONE)),
        _wide("Nominated Node", _text("status.nominatedNodeName", NONE)),
        _wide("Readiness Gates", _readiness_gates),
    ),
    "nodes": (
        _NAME,
        Column(name="Status", cell=_node_status),
        Column(name="Roles", cell=_node_roles),
        _AGE,
        Column(name="Version", cell=_text("status.nodeInfo.kubeletVersion")),
        _wide("Internal-IP", _node_address("InternalIP")),
        _wide("External-IP", _node_address("ExternalIP")),
        _wide("OS-Image", _text("status.nodeInfo.osImage", _UNKNOWN)),
        _wide("Kernel-Version", _text("status.nodeInfo.kernelVersion", _UNKNOWN)),
        _wide("Container-Runtime", _text("status.nodeInfo.containerRuntimeVersion", _UNKNOWN)),
    ),
    "namespaces": (_NAME, Column(name="Status", cell=_text("status.phase")), _AGE),
    "endpoints": (_NAME, Column(name="Endpoints", cell=_endpoints), _AGE),
    "configmaps": (_NAME, Column(name="Data", cell=_size("data"), type="string"), _AGE),
    "secrets": (
        _NAME,
        Column(name="Type", cell=_text("type", "Opaque")),
        Column(name="Data", cell=_size("data"), type="string"),
        _AGE,
    ),
    "events": (
        Column(name="Last Seen", cell=_event_seen),
        Column(name="Type", cell=_text("type")),
        Column(name="Reason", cell=_text("reason")),
        Column(name="Object", cell=_event_object("involvedObject")),
        Column(name="Message", cell=_text("message")),
        _wide("Name", _text("metadata.name")),
    ),
    "events.events.k8s.io": (
        Column(name="Last Seen", cell=_event_seen),
        Column(name="Type", cell=_text("type")),
        Column(name="Reason", cell=_text("reason")),
        Column(name="Object", cell=_event_object("regarding")),
        Column(name="Message", cell=_text("note")),
        _wide("Name", _text("metadata.name")),
    ),
    "deployments.apps": (
        _NAME,
        Column(name="Ready", cell=_workload_ready),
        _integer("Up-to-date", "status.updatedReplicas"),
        _integer("Available", "status.availableReplicas"),
        _AGE,
        *_TEMPLATE,
    ),
    "replicasets.apps": (
        _NAME,
        _integer("Desired", "spec.replicas"),
        _integer("Current", "status.replicas"),
        _integer("Ready", "status.readyReplicas"),
        _AGE,
        *_TEMPLATE,
    ),
    "statefulsets.apps": (_NAME, Column(name="Ready", cell=_workload_ready), _AGE, *_TEMPLATE[:2]),
    "daemonsets.apps": (
        _NAME,
        _integer("Desired", "status.desiredNumberScheduled"),
        _integer("Current", "status.currentNumberScheduled"),
        _integer("Ready", "status.numberReady"),
        _integer("Up-to-date", "status.updatedNumberScheduled"),
        _integer("Available", "status.numberAvailable"),
        Column(name="Node Selector", cell=_labels("spec.template.spec.nodeSelector")),
        _AGE,
        *_TEMPLATE,
    ),
    "endpointslices.discovery.k8s.io": (
        _NAME,
        Column(name="AddressType", cell=_text("addressType")),
        Column(name="Ports", cell=_slice_ports),
        Column(name="Endpoints", cell=_slice_endpoints),
        _AGE,
    ),
    "servicecidrs.networking.k8s.io": (
        _NAME,
        Column(name="CIDRs", cell=lambda body, _now: ",".join(_at(body, "spec.cidrs") or [])),
        _AGE,
    ),
    "leases.coordination.k8s.io": (_NAME, Column(name="Holder", cell=_text("spec.holderIdentity")), _AGE),
}
