# SPDX-License-Identifier: Apache-2.0
"""Services, and what becomes of each of their endpoints."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pointsman.cluster.v1 import cluster_service_pb2 as cluster_pb
from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_ctl.core.plain import address_text, endpoint_text, enum_word, plain
from pointsman_ctl.core.table import Column

SERVICE_COLUMNS: tuple[Column[pb.ServiceSummary], ...] = (
    Column(head="NAMESPACE", cell=lambda found: found.service.name.namespace),
    Column(head="NAME", cell=lambda found: found.service.name.name),
    Column(head="TYPE", cell=lambda found: found.service.type),
    Column(head="CLUSTER-IP", cell=lambda found: ",".join(map(address_text, found.service.cluster_ips))),
    Column(head="EXTERNAL-IP", cell=lambda found: ",".join(_outer_addresses(found.service))),
    Column(head="PORTS", cell=lambda found: ",".join(map(_port, found.service.ports))),
    Column(
        head="READY",
        cell=lambda found: f"{found.ready_endpoints}/{found.endpoints}",
        colour=lambda found: "" if found.ready_endpoints else "yellow",
    ),
    Column(head="POLICY", cell=lambda found: _policies(found.service), is_wide=True),
    Column(
        head="AFFINITY",
        cell=lambda found: (
            f"{found.service.affinity_timeout_seconds}s" if found.service.affinity_timeout_seconds else ""
        ),
        is_wide=True,
    ),
    Column(head="CONFLICTS", cell=lambda found: "; ".join(found.conflicts), colour=lambda _: "red"),
)


def service_data(found: pb.ServiceSummary) -> dict[str, Any]:
    """A Service for JSON and YAML."""
    data: dict[str, Any] = plain(found)
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRow:
    """One endpoint of one ServicePort."""

    port: str
    family: str
    endpoint: pb.EndpointState
    used: tuple[int, ...]
    """The sets that some traffic of the port uses."""

    @property
    def text(self) -> str:
        """`10.1.0.1:8080`."""
        return endpoint_text(address_text(self.endpoint.facts.address), self.endpoint.port)


ENDPOINT_COLUMNS: tuple[Column[EndpointRow], ...] = (
    Column(head="PORT", cell=lambda row: row.port),
    Column(head="ENDPOINT", cell=lambda row: row.text),
    Column(head="NODE", cell=lambda row: row.endpoint.facts.node_name),
    Column(head="ZONE", cell=lambda row: row.endpoint.facts.zone, is_wide=True),
    Column(head="STATE", cell=lambda row: condition_word(row.endpoint.facts)),
    Column(
        head="USED",
        cell=lambda row: ",".join(map(_set_word, row.endpoint.sets)) or "no",
        colour=lambda row: "green" if row.endpoint.sets else "yellow",
    ),
    Column(head="WEIGHT", cell=lambda row: row.endpoint.weight),
    Column(head="TARGET", cell=lambda row: _target(row.endpoint.facts), is_wide=True),
    Column(head="SLICE", cell=lambda row: row.endpoint.endpoint_slice.name, is_wide=True),
    Column(head="WHY NOT", cell=lambda row: "; ".join(_absences(row))),
)


def endpoint_rows(found: pb.ServiceEndpoints) -> Iterator[EndpointRow]:
    """Each endpoint under each port of the Service, then those that belong to no port."""
    for port in found.ports:
        name = f"{port.name or '-'} {port.port}/{enum_word(types_pb2.Protocol.DESCRIPTOR, port.protocol)}"
        family = enum_word(types_pb2.IPFamily.DESCRIPTOR, port.family)
        for endpoint in port.endpoints:
            yield EndpointRow(port=name, family=family, endpoint=endpoint, used=tuple(port.used_sets))
    for endpoint in found.unused:
        yield EndpointRow(port="(no port)", family="", endpoint=endpoint, used=())


def condition_word(facts: cluster_pb.Endpoint) -> str:
    """What the API server says of an endpoint, in one word."""
    if facts.terminating:
        return "Terminating" if facts.serving else "Terminated"
    return "Ready" if facts.ready else "NotReady"


def _absences(row: EndpointRow) -> Iterator[str]:
    """Reasons, the set named only where there is a choice of sets."""
    reasons = {absence.reason for absence in row.endpoint.absences}
    if len(row.used) < 2 or (len(reasons) == 1 and not row.endpoint.sets):
        yield from sorted(reasons)
        return
    yield from (f"{_set_word(absence.set)}: {absence.reason}" for absence in row.endpoint.absences)


def _set_word(number: int) -> str:
    return enum_word(pb.EndpointState.Set.DESCRIPTOR, number)


def _target(facts: cluster_pb.Endpoint) -> str:
    return f"{facts.target.kind.lower()}/{facts.target.name.name}" if facts.target.name.name else ""


def _outer_addresses(service: cluster_pb.Service) -> Iterator[str]:
    yield from (address_text(each.address) for each in service.load_balancer_ips)
    yield from map(address_text, service.external_ips)


def _port(port: cluster_pb.ServicePort) -> str:
    outer = f":{port.node_port}" if port.node_port else ""
    return f"{port.port}{outer}/{enum_word(types_pb2.Protocol.DESCRIPTOR, port.protocol)}"


def _policies(service: cluster_pb.Service) -> str:
    descriptor = cluster_pb.TrafficPolicy.DESCRIPTOR
    inner = enum_word(descriptor, service.internal_traffic_policy)
    outer = enum_word(descriptor, service.external_traffic_policy)
    return f"internal {inner}, external {outer}" if outer else f"internal {inner}"
