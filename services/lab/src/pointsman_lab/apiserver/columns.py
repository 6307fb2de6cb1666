# SPDX-License-Identifier: Apache-2.0
"""The columns `kubectl get` shows per resource, named as a real API server names them; others get Name and Age."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pointsman_lab.apiserver.cells import (
    NONE,
    UNKNOWN,
    age_of,
    cluster_ip,
    containers,
    endpoints,
    event_object,
    event_seen,
    external_ip,
    labels,
    node_address,
    node_roles,
    node_status,
    number,
    pod_ready,
    pod_restarts,
    pod_status,
    readiness_gates,
    service_ports,
    service_type,
    size,
    slice_endpoints,
    slice_ports,
    text,
    value_at,
    workload_ready,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.resources import Resource

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


_NAME: Final = Column(name="Name", cell=text("metadata.name"), format="name", description="Name of the object.")
_AGE: Final = Column(
    name="Age",
    cell=lambda body, now: age_of(value_at(body, "metadata.creationTimestamp"), now),
    description="Time since the object was created.",
)


def _wide(name: str, cell: Callable[[Json, float], Any]) -> Column:
    return Column(name=name, cell=cell, priority=_WIDE)


def _integer(name: str, path: str) -> Column:
    return Column(name=name, cell=number(path), type="integer")


_TEMPLATE: Final = (
    _wide("Containers", containers("spec.template.spec.containers", "name")),
    _wide("Images", containers("spec.template.spec.containers", "image")),
    _wide("Selector", labels("spec.selector.matchLabels")),
)

_COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "services": (
        _NAME,
        Column(name="Type", cell=service_type),
        Column(name="Cluster-IP", cell=cluster_ip),
        Column(name="External-IP", cell=external_ip),
        Column(name="Port(s)", cell=service_ports),
        _AGE,
        _wide("Selector", labels("spec.selector")),
    ),
    "pods": (
        _NAME,
        Column(name="Ready", cell=pod_ready),
        Column(name="Status", cell=pod_status),
        Column(name="Restarts", cell=pod_restarts),
        _AGE,
        _wide("IP", text("status.podIP", NONE)),
        _wide("Node", text("spec.nodeName", NONE)),
        _wide("Nominated Node", text("status.nominatedNodeName", NONE)),
        _wide("Readiness Gates", readiness_gates),
    ),
    "nodes": (
        _NAME,
        Column(name="Status", cell=node_status),
        Column(name="Roles", cell=node_roles),
        _AGE,
        Column(name="Version", cell=text("status.nodeInfo.kubeletVersion")),
        _wide("Internal-IP", node_address("InternalIP")),
        _wide("External-IP", node_address("ExternalIP")),
        _wide("OS-Image", text("status.nodeInfo.osImage", UNKNOWN)),
        _wide("Kernel-Version", text("status.nodeInfo.kernelVersion", UNKNOWN)),
        _wide("Container-Runtime", text("status.nodeInfo.containerRuntimeVersion", UNKNOWN)),
    ),
    "namespaces": (_NAME, Column(name="Status", cell=text("status.phase")), _AGE),
    "endpoints": (_NAME, Column(name="Endpoints", cell=endpoints), _AGE),
    "configmaps": (_NAME, Column(name="Data", cell=size("data"), type="string"), _AGE),
    "secrets": (
        _NAME,
        Column(name="Type", cell=text("type", "Opaque")),
        Column(name="Data", cell=size("data"), type="string"),
        _AGE,
    ),
    "events": (
        Column(name="Last Seen", cell=event_seen),
        Column(name="Type", cell=text("type")),
        Column(name="Reason", cell=text("reason")),
        Column(name="Object", cell=event_object("involvedObject")),
        Column(name="Message", cell=text("message")),
        _wide("Name", text("metadata.name")),
    ),
    "events.events.k8s.io": (
        Column(name="Last Seen", cell=event_seen),
        Column(name="Type", cell=text("type")),
        Column(name="Reason", cell=text("reason")),
        Column(name="Object", cell=event_object("regarding")),
        Column(name="Message", cell=text("note")),
        _wide("Name", text("metadata.name")),
    ),
    "deployments.apps": (
        _NAME,
        Column(name="Ready", cell=workload_ready),
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
    "statefulsets.apps": (_NAME, Column(name="Ready", cell=workload_ready), _AGE, *_TEMPLATE[:2]),
    "daemonsets.apps": (
        _NAME,
        _integer("Desired", "status.desiredNumberScheduled"),
        _integer("Current", "status.currentNumberScheduled"),
        _integer("Ready", "status.numberReady"),
        _integer("Up-to-date", "status.updatedNumberScheduled"),
        _integer("Available", "status.numberAvailable"),
        Column(name="Node Selector", cell=labels("spec.template.spec.nodeSelector")),
        _AGE,
        *_TEMPLATE,
    ),
    "endpointslices.discovery.k8s.io": (
        _NAME,
        Column(name="AddressType", cell=text("addressType")),
        Column(name="Ports", cell=slice_ports),
        Column(name="Endpoints", cell=slice_endpoints),
        _AGE,
    ),
    "servicecidrs.networking.k8s.io": (
        _NAME,
        Column(name="CIDRs", cell=lambda body, _now: ",".join(value_at(body, "spec.cidrs") or [])),
        _AGE,
    ),
    "leases.coordination.k8s.io": (_NAME, Column(name="Holder", cell=text("spec.holderIdentity")), _AGE),
}
