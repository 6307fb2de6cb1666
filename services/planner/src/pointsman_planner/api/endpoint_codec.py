# SPDX-License-Identifier: Apache-2.0
"""Reports of endpoints to `pointsman.control.v1` messages."""

from __future__ import annotations

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_model.wire import family_to_pb, protocol_to_pb
from pointsman_model.wire.cluster import endpoint_to_pb
from pointsman_planner.api.control_codec import name_to_pb
from pointsman_planner.core.categorize import TopologyMode
from pointsman_planner.core.endpoint_report import EndpointRow, PortReport, ServiceReport

_TOPOLOGY = {
    TopologyMode.NONE: pb.PortEndpoints.TOPOLOGY_UNSPECIFIED,
    TopologyMode.NODE: pb.PortEndpoints.TOPOLOGY_NODE,
    TopologyMode.ZONE: pb.PortEndpoints.TOPOLOGY_ZONE,
}


def report_to_pb(report: ServiceReport) -> pb.ServiceEndpoints:
    """All endpoints of a Service as a node sees them."""
    return pb.ServiceEndpoints(
        service=name_to_pb(report.service),
        node_name=report.node_name,
        ports=map(_port_to_pb, report.ports),
        unused=map(_row_to_pb, report.unused),
    )


def _port_to_pb(report: PortReport) -> pb.PortEndpoints:
    return pb.PortEndpoints(
        name=report.port.name,
        protocol=protocol_to_pb(report.port.protocol),
        family=family_to_pb(report.port.family),
        port=report.port.port,
        used_sets=[pb.EndpointState.Set.ValueType(kind) for kind in report.used_sets],
        topology=_TOPOLOGY[report.topology],
        endpoints=map(_row_to_pb, report.rows),
    )


def _row_to_pb(row: EndpointRow) -> pb.EndpointState:
    message = pb.EndpointState(
        facts=endpoint_to_pb(row.facts),
        port=row.port,
        sets=[pb.EndpointState.Set.ValueType(kind) for kind in row.sets],
        weight=row.weight,
    )
    if row.slice_key is not None:
        message.endpoint_slice.CopyFrom(
            types_pb2.NamespacedName(namespace=row.slice_key.namespace, name=row.slice_key.name)
        )
    for absence in row.absences:
        message.absences.add(
            set=pb.EndpointState.Set.ValueType(absence.set_kind or 0),
            cause=pb.Exclusion.Cause.ValueType(absence.why.cause),
            reason=absence.why.reason,
        )
    return message
