# SPDX-License-Identifier: Apache-2.0
"""Which EndpointSlices a Service should have, and the fewest writes that get there. Pure.

Same rules as Kubernetes' endpointslice controller: one set of slices per address family and per distinct set of
resolved ports, at most 100 endpoints each; an endpoint stays in the slice it is in; a family without endpoints keeps
one empty slice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pointsman_lab.controller.objects import (
    ZONE_LABEL,
    Object,
    annotations,
    by_name,
    container_ports,
    is_pod_finished,
    is_pod_ready,
    is_terminating,
    labels,
    name,
    namespace,
    owner_reference,
    pod_addresses,
    selects,
    spec,
    uid,
)

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGED_BY = "endpointslice-controller.k8s.io"
HEADLESS_LABEL = "service.kubernetes.io/headless"
TRIGGER_TIME_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
ENDPOINTS_MAX = 100

_Ports = tuple[tuple[tuple[str, Any], ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePlan:
    """Whole objects to create and update, names to delete. Objects to create have a generateName only."""

    create: tuple[Object, ...]
    update: tuple[Object, ...]
    delete: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.create or self.update or self.delete)


def is_managed(service: Object) -> bool:
    """Whether the lab makes this Service's slices: it has a selector and is no alias."""
    return bool(spec(service).get("selector")) and spec(service).get("type") != "ExternalName"


def plan_slices(
    service: Object,
    pods: Iterable[Object],
    nodes: Mapping[str, Object],
    existing: Iterable[Object],
    *,
    trigger_time: str,
) -> SlicePlan:
    """The writes that bring the slices of `service` to what its pods ask for.

    Args:
        service: the Service; see `is_managed`.
        pods: pods of the namespace, in any order.
        nodes: Node objects by name, for zones.
        existing: the slices of this Service that the lab manages.
        trigger_time: RFC 3339 instant of the change that led here; written on each slice that changes.
    """
    selector = spec(service)["selector"]
    members = [pod for pod in by_name(pods) if selects(selector, labels(pod)) and _is_member(pod)]
    slices = by_name(existing)
    writes = _Writes(service=service, trigger_time=trigger_time)
    families = tuple(spec(service).get("ipFamilies") or ("IPv4",))
    for family in families:
        mine = [slice_ for slice_ in slices if slice_.get("addressType") == family]
        writes.add_family(family, _groups(service, members, nodes, family), mine)
    writes.delete.extend(name(slice_) for slice_ in slices if slice_.get("addressType") not in families)
    return SlicePlan(create=tuple(writes.create), update=tuple(writes.update), delete=tuple(writes.delete))


def resolve_port(service_port: Object, pod: Object) -> int | None:
    """The pod's port a Service port points to: a number, or the container port of that name and protocol."""
    target = service_port.get("targetPort", service_port["port"])
    if isinstance(target, int) and target:
        return target
    if not target:
        return int(service_port["port"])
    protocol = service_port.get("protocol", "TCP")
    for port in container_ports(pod):
        if port.get("name") == target and port.get("protocol", "TCP") == protocol:
            return int(port["containerPort"])
    return None


def _is_member(pod: Object) -> bool:
    return not is_pod_finished(pod) and bool(pod_addresses(pod))


def _groups(
    service: Object, members: Sequence[Object], nodes: Mapping[str, Object], family: str
) -> dict[_Ports, dict[str, Object]]:
    """The endpoints of a family, by resolved ports and then by address."""
    groups: dict[_Ports, dict[str, Object]] = {}
    for pod in members:
        address = next((ip for ip in pod_addresses(pod) if (":" in ip) == (family == "IPv6")), None)
        if address is None:
            continue
        groups.setdefault(_ports(service, pod), {})[address] = _endpoint(service, pod, nodes, address)
    return groups


def _ports(service: Object, pod: Object) -> _Ports:
    result = []
    for service_port in spec(service).get("ports") or ():
        number = resolve_port(service_port, pod)
        if number is None:
            continue
        port = {
            "name": service_port.get("name", ""),
            "port": number,
            "protocol": service_port.get("protocol", "TCP"),
        }
        if service_port.get("appProtocol"):
            port["appProtocol"] = service_port["appProtocol"]
        result.append(tuple(port.items()))
    return tuple(result)


def _endpoint(service: Object, pod: Object, nodes: Mapping[str, Object], address: str) -> Object:
    serving = is_pod_ready(pod)
    terminating = is_terminating(pod)
    ready = bool(spec(service).get("publishNotReadyAddresses")) or (serving and not terminating)
    endpoint: Object = {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {"kind": "Pod", "namespace": namespace(pod), "name": name(pod), "uid": uid(pod)},
    }
    node_name = str(spec(pod).get("nodeName") or "")
    zone = labels(nodes[node_name]).get(ZONE_LABEL) if node_name in nodes else None
    if node_name:
        endpoint["nodeName"] = node_name
    if zone:
        endpoint["zone"] = zone
    if spec(pod).get("hostname") and spec(pod).get("subdomain") == name(service):
        endpoint["hostname"] = spec(pod)["hostname"]
    if ready and (hints := _hints(spec(service).get("trafficDistribution"), node_name, zone)):
        endpoint["hints"] = hints
    return endpoint


def _hints(distribution: str | None, node_name: str, zone: str | None) -> Object:
    hints: Object = {}
    if distribution in {"PreferClose", "PreferSameZone", "PreferSameNode"} and zone:
        hints["forZones"] = [{"name": zone}]
    if distribution == "PreferSameNode" and node_name:
        hints["forNodes"] = [{"name": node_name}]
    return hints


@dataclass(slots=True, kw_only=True)
class _Writes:
    """Collects the writes of one Service."""

    service: Object
    trigger_time: str
    create: list[Object] = field(default_factory=list)
    update: list[Object] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)

    def add_family(self, family: str, groups: dict[_Ports, dict[str, Object]], existing: Sequence[Object]) -> None:
        """Adds what one address family needs."""
        unused = list(existing)
        for ports, endpoints in sorted((groups or {(): {}}).items()):
            mine = [slice_ for slice_ in unused if _slice_ports(slice_) == ports]
            unused = [slice_ for slice_ in unused if slice_ not in mine]
            self._add_group(family, ports, endpoints, mine)
        self.delete.extend(name(slice_) for slice_ in unused)

    def _add_group(self, family: str, ports: _Ports, endpoints: dict[str, Object], mine: Sequence[Object]) -> None:
        """Adds what the endpoints with the same ports need; `mine` are the slices that have these ports."""
        left = dict(endpoints)
        kept = [(slice_, _keep(slice_, left)) for slice_ in mine]
        for slice_, content in kept:
            while left and len(content) < ENDPOINTS_MAX:
                content.append(left.pop(next(iter(left))))
            if not content and (endpoints or slice_ is not mine[0]):
                self.delete.append(name(slice_))
            elif new := _slice(self.service, family, ports, content, self.trigger_time, old=slice_):
                self.update.append(new)
        rest = list(left.values())
        chunks = [rest[start : start + ENDPOINTS_MAX] for start in range(0, len(rest), ENDPOINTS_MAX)]
        for chunk in chunks or ([] if mine else [[]]):
            if new := _slice(self.service, family, ports, chunk, self.trigger_time, old=None):
                self.create.append(new)


def _keep(slice_: Object, left: dict[str, Object]) -> list[Object]:
    """The endpoints of a slice that are still wanted, in their order and as they are now; takes them out of `left`."""
    kept = []
    for endpoint in slice_.get("endpoints") or ():
        wanted = left.pop(endpoint["addresses"][0], None)
        if wanted is not None:
            kept.append(wanted)
    return kept


def _slice_ports(slice_: Object) -> _Ports:
    order = ("name", "port", "protocol", "appProtocol")
    return tuple(
        tuple((field, port.get(field, "")) for field in order if field in port or field == "name")
        for port in slice_.get("ports") or ()
    )


def _slice(
    service: Object, family: str, ports: _Ports, endpoints: list[Object], trigger_time: str, *, old: Object | None
) -> Object | None:
    """The slice as it should be, or None when `old` is that already."""
    wanted_labels = {**labels(service), SERVICE_NAME_LABEL: name(service), MANAGED_BY_LABEL: MANAGED_BY}
    if spec(service).get("clusterIP") == "None":
        wanted_labels[HEADLESS_LABEL] = ""
    if old is not None and (old.get("endpoints") or []) == endpoints and labels(old) == wanted_labels:
        return None
    metadata: Object = {
        "generateName": f"{name(service)}-",
        "namespace": namespace(service),
        "ownerReferences": [owner_reference(service, api_version="v1", kind="Service")],
    }
    if old is not None:
        metadata = dict(old["metadata"])
    metadata["labels"] = wanted_labels
    metadata["annotations"] = {
        **(annotations(old) if old is not None else {}),
        TRIGGER_TIME_ANNOTATION: trigger_time,
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": family,
        "endpoints": endpoints,
        "ports": [dict(port) for port in ports],
    }
