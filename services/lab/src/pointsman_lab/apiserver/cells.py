# SPDX-License-Identifier: Apache-2.0
"""What stands in the cells of `kubectl get`: functions from an object and the time to a value.

Times are seconds since the epoch. Objects are read as they are, whatever they lack; the words are those of a real API
server.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman_lab.apiserver.encoding import Json

NONE: Final = "<none>"
UNKNOWN: Final = "<unknown>"
_SHOWN_MAX: Final = 3


_MINUTE, _HOUR, _DAY = 60, 3600, 86400
# Below the limit (seconds) an age is shown in this unit and, if named, its rest in a lesser one; kubectl's steps.
_PRECISION: Final = (
    (2 * _MINUTE, "s", 1, "", 1),
    (10 * _MINUTE, "m", _MINUTE, "s", 1),
    (3 * _HOUR, "m", _MINUTE, "", 1),
    (8 * _HOUR, "h", _HOUR, "m", _MINUTE),
    (2 * _DAY, "h", _HOUR, "", 1),
    (8 * _DAY, "d", _DAY, "h", _HOUR),
    (2 * 365 * _DAY, "d", _DAY, "", 1),
)


def duration_text(seconds: float) -> str:
    """Give an age as kubectl writes it: 90s, 5m30s, 2h, 3d4h, 2y."""
    total = max(int(seconds), 0)
    for limit, unit, size, lesser_unit, lesser_size in _PRECISION:
        if total < limit:
            lesser = total % size // lesser_size if lesser_unit else 0
            return f"{total // size}{unit}" + (f"{lesser}{lesser_unit}" if lesser else "")
    days = total // _DAY
    return f"{days // 365}y{days % 365}d" if days % 365 else f"{days // 365}y"


def age_of(text: object, now: float) -> str:
    """Give the age of a moment written as the API does."""
    try:
        return duration_text(now - datetime.fromisoformat(str(text)).timestamp())
    except ValueError:
        return UNKNOWN


def value_at(body: Any, path: str) -> Any:
    """Give the value at a dotted path, None when anything on the way is missing."""
    for part in path.split("."):
        body = body.get(part) if isinstance(body, dict) else None
    return body


def text(path: str, missing: str = "") -> Callable[[Json, float], Any]:
    """Give a cell that shows the value at a path, or a word when there is none."""
    return lambda body, _now: value_at(body, path) or missing


def number(path: str) -> Callable[[Json, float], int]:
    """Give a cell that shows a number, 0 when there is none."""
    return lambda body, _now: value_at(body, path) or 0


def size(path: str) -> Callable[[Json, float], int]:
    """Give a cell that counts what is at a path."""
    return lambda body, _now: len(value_at(body, path) or ())


def _labels_text(labels: object) -> str:
    return (
        ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        if isinstance(labels, dict) and labels
        else NONE
    )


def labels(path: str) -> Callable[[Json, float], str]:
    """Give a cell that shows a map as k=v,k=v."""
    return lambda body, _now: _labels_text(value_at(body, path))


def service_type(body: Json, _now: float = 0) -> str:
    """Show the type of a service."""
    return str(value_at(body, "spec.type") or "ClusterIP")


def external_ip(body: Json, _now: float) -> str:
    """Show external IPs, load balancer addresses or the external name."""
    spec = body.get("spec") or {}
    external = list(spec.get("externalIPs") or [])
    if service_type(body) == "ExternalName":
        return str(spec.get("externalName") or NONE)
    if service_type(body) == "LoadBalancer":
        ingress = value_at(body, "status.loadBalancer.ingress") or []
        found = [str(item.get("ip") or item.get("hostname") or "") for item in ingress]
        return ",".join([*found, *external]) or "<pending>"
    return ",".join(external) or NONE


def service_ports(body: Json, _now: float) -> str:
    """Show a service's ports with their node ports."""
    shown = []
    for port in value_at(body, "spec.ports") or []:
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        shown.append(f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}")
    return ",".join(shown) or NONE


def cluster_ip(body: Json, _now: float) -> str:
    """Show the cluster IP."""
    return value_at(body, "spec.clusterIP") or NONE


def containers(path: str, field: str) -> Callable[[Json, float], str]:
    """Give a cell that joins one field of all containers at a path."""
    return lambda body, _now: ",".join(str(item.get(field) or "") for item in value_at(body, path) or []) or NONE


def pod_ready(body: Json, _now: float) -> str:
    """Show ready and all containers."""
    statuses = value_at(body, "status.containerStatuses") or []
    return f"{sum(1 for status in statuses if status.get('ready'))}/{len(value_at(body, 'spec.containers') or ())}"


def pod_status(body: Json, _now: float) -> str:
    """Show the phase, or what is more telling."""
    if value_at(body, "metadata.deletionTimestamp"):
        return "Terminating"
    for status in value_at(body, "status.containerStatuses") or []:
        reason = value_at(status, "state.waiting.reason") or value_at(status, "state.terminated.reason")
        if reason:
            return str(reason)
    return value_at(body, "status.reason") or value_at(body, "status.phase") or "Unknown"


def pod_restarts(body: Json, _now: float) -> str:
    """Show the restarts of all containers."""
    return str(sum(status.get("restartCount", 0) for status in value_at(body, "status.containerStatuses") or []))


def readiness_gates(body: Json, _now: float) -> str:
    """Show the readiness gates that are met."""
    gates = value_at(body, "spec.readinessGates") or []
    conditions = {item.get("type"): item.get("status") for item in value_at(body, "status.conditions") or []}
    return (
        f"{sum(conditions.get(gate.get('conditionType')) == 'True' for gate in gates)}/{len(gates)}" if gates else NONE
    )


def node_status(body: Json, _now: float) -> str:
    """Show whether a node is ready and schedulable."""
    ready = [item for item in value_at(body, "status.conditions") or [] if item.get("type") == "Ready"]
    words = {"True": "Ready", "False": "NotReady"}
    status = words.get(ready[0].get("status"), "NotReady") if ready else "Unknown"
    return f"{status},SchedulingDisabled" if value_at(body, "spec.unschedulable") else status


def node_roles(body: Json, _now: float) -> str:
    """Show the roles a node's labels give it."""
    prefix = "node-role.kubernetes.io/"
    labels = value_at(body, "metadata.labels") or {}
    return ",".join(sorted(name.removeprefix(prefix) for name in labels if name.startswith(prefix))) or NONE


def node_address(kind: str) -> Callable[[Json, float], str]:
    """Give a cell that shows the first address of a type."""

    def cell(body: Json, _now: float) -> str:
        found = [item.get("address") for item in value_at(body, "status.addresses") or [] if item.get("type") == kind]
        return str(found[0]) if found else NONE

    return cell


def _few(values: list[str], separator: str = ",") -> str:
    more = f" + {len(values) - _SHOWN_MAX} more..." if len(values) > _SHOWN_MAX else ""
    return separator.join(values[:_SHOWN_MAX]) + more


def slice_ports(body: Json, _now: float) -> str:
    """Show the ports of an endpoint slice."""
    ports = body.get("ports")
    if ports is None:
        return "<unset>"
    return _few([str(port.get("port", "*")) for port in ports]) or "<unset>"


def slice_endpoints(body: Json, _now: float) -> str:
    """Show the first addresses of an endpoint slice."""
    found = [address for endpoint in body.get("endpoints") or [] for address in endpoint.get("addresses") or []]
    return _few(found) or "<unset>"


def endpoints(body: Json, _now: float) -> str:
    """Show the first ip:port pairs of an Endpoints object."""
    found = [
        f"{address.get('ip')}:{port.get('port')}"
        for subset in body.get("subsets") or []
        for address in subset.get("addresses") or []
        for port in subset.get("ports") or []
    ]
    return _few(found) or NONE


def workload_ready(body: Json, _now: float) -> str:
    """Show ready and wanted replicas."""
    return f"{value_at(body, 'status.readyReplicas') or 0}/{value_at(body, 'spec.replicas') or 0}"


def event_object(field: str) -> Callable[[Json, float], str]:
    """Give a cell that shows the object an event is about."""

    def cell(body: Json, _now: float) -> str:
        about = value_at(body, field) or {}
        return f"{about.get('kind', '').lower()}/{about.get('name', '')}"

    return cell


def event_seen(body: Json, now: float) -> str:
    """Show the time since an event was last seen."""
    times = (body.get("lastTimestamp"), body.get("eventTime"), value_at(body, "metadata.creationTimestamp"))
    return age_of(next((time for time in times if time), ""), now)
