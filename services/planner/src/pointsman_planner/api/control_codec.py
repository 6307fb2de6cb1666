# SPDX-License-Identifier: Apache-2.0
"""Core values to `pointsman.control.v1` messages."""

from __future__ import annotations

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2
from pointsman.types.v1 import types_pb2
from pointsman_model.cluster import ClusterPosition
from pointsman_model.names import ServiceKey
from pointsman_model.wire.cluster import service_to_pb
from pointsman_model.wire.positions import position_to_pb
from pointsman_planner.core.cluster_state import ClusterState, PlannedService
from pointsman_planner.core.difference import Difference
from pointsman_planner.core.explain import Explanation, conflicts_of
from pointsman_planner.core.messages import Condition, Drift, Failure
from pointsman_planner.core.reached import Reached
from pointsman_planner.core.status import NodeStatus


def name_to_pb(key: ServiceKey) -> types_pb2.NamespacedName:
    """The message of a service key."""
    return types_pb2.NamespacedName(namespace=key.namespace, name=key.name)


def summary_to_pb(cluster: ClusterState, planned: PlannedService) -> pb.ServiceSummary:
    """A service in short; an endpoint that several ports share counts once."""
    endpoints = [e for item in cluster.slices_of(planned.state.key) for e in item.endpoints]
    return pb.ServiceSummary(
        service=service_to_pb(planned.state.service),
        endpoints=len({e.address for e in endpoints}),
        ready_endpoints=len({e.address for e in endpoints if e.ready}),
        conflicts=conflicts_of(cluster, planned),
    )


def difference_to_pb(found: Difference) -> pb.ServiceDifference:
    """A Service whose present plan a node's kernel does not have."""
    return pb.ServiceDifference(
        service=name_to_pb(found.service),
        standing=pb.ServiceDifference.Standing.ValueType(found.standing),
        reason=found.reason,
    )


def status_to_pb(status: NodeStatus) -> pb.NodeStatus:
    """How far a node has come."""
    message = pb.NodeStatus(
        name=status.name,
        state=pb.NodeStatus.State.ValueType(status.state),
        mode=plan_service_pb2.ProxyMode.ValueType(status.mode),
        instance_id=status.instance_id,
        sent=position_to_pb(status.sent),
        programmed=position_to_pb(status.programmed),
        desired_digest=status.desired_digest,
        programmed_digest=status.programmed_digest,
        pending_services=status.pending_services,
        failures=map(_failure_to_pb, status.failures),
        reason=status.reason,
        planner_id=status.planner_id,
        version=status.version,
        reached=map(_reached_to_pb, status.reached),
    )
    if status.last_seen_ns:
        message.last_seen.FromNanoseconds(status.last_seen_ns)
    if status.since_ns:
        message.since.FromNanoseconds(status.since_ns)
    if status.drift is not None:
        message.drift.CopyFrom(_drift_to_pb(status.drift))
    if status.conditions.total:
        message.conditions.total = status.conditions.total
        message.conditions.conditions.extend(map(_condition_to_pb, status.conditions.conditions))
    return message


def _reached_to_pb(reached: Reached) -> pb.NodeStatus.Reached:
    message = pb.NodeStatus.Reached(
        level=plan_service_pb2.AckLevel.ValueType(reached.level),
        position=position_to_pb(reached.position),
        digest=reached.digest,
    )
    message.at.FromNanoseconds(reached.at_ns)
    return message


def _drift_to_pb(drift: Drift) -> plan_service_pb2.DriftReport:
    message = plan_service_pb2.DriftReport(
        repairs=drift.repairs,
        kinds=drift.kinds,
        objects=drift.objects,
        process=drift.process,
        process_id=drift.process_id,
    )
    message.repaired_at.FromNanoseconds(drift.repaired_at_ns)
    message.duration.FromNanoseconds(drift.duration_ns)
    return message


def _failure_to_pb(failure: Failure) -> plan_service_pb2.ServiceFailure:
    return plan_service_pb2.ServiceFailure(
        service=name_to_pb(failure.service),
        stage=plan_service_pb2.ServiceFailure.Stage.ValueType(failure.stage),
        message=failure.message,
    )


def _condition_to_pb(condition: Condition) -> plan_service_pb2.ServiceCondition:
    message = plan_service_pb2.ServiceCondition(
        service=name_to_pb(condition.service),
        kind=plan_service_pb2.ServiceCondition.Kind.ValueType(condition.kind),
        message=condition.message,
    )
    message.since.FromNanoseconds(condition.since_ns)
    return message


def explanation_to_pb(explanation: Explanation, position: ClusterPosition) -> pb.ExplainPacketResponse:
    """Where a packet goes, and why."""
    outcome = explanation.outcome
    message = pb.ExplainPacketResponse(
        outcome=pb.ExplainPacketResponse.Outcome.ValueType(outcome.fate),
        port_name=outcome.port_name,
        steps=outcome.reasons,
        position=position_to_pb(position),
    )
    if outcome.service is not None:
        message.service.CopyFrom(name_to_pb(outcome.service))
    for candidate in outcome.candidates:
        message.endpoints.add(
            address=candidate.address,
            port=candidate.port,
            weight=candidate.weight,
            masquerade=candidate.masquerade,
        )
    for excluded in explanation.exclusions:
        message.exclusions.add(
            address=excluded.address,
            port=excluded.port,
            reason=excluded.reason,
            cause=pb.Exclusion.Cause.ValueType(excluded.cause),
        )
    return message
