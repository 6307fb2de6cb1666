# SPDX-License-Identifier: Apache-2.0
"""What the page shows, as plain data: answers of the control API with addresses and enum values in words.

Nothing here asks anybody; what the page says is what the control API says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2 as plan_pb
from pointsman.types.v1 import types_pb2
from pointsman_model.names import ServiceKey, format_address
from pointsman_planner.core.recent_changes import Percentiles, RecentChange
from pointsman_planner.core.status import NodeState

STATES: Final[Mapping[NodeState, str]] = {state: state.name.lower() for state in NodeState}
ROWS_MAX: Final = 1_000
"""Endpoints that one answer shows; how many there are is said."""
SERVICES_OFFERED: Final = 50


def change_view(change: RecentChange) -> dict[str, Any]:
    """A line of the timeline; times in milliseconds."""
    taken = change.taken
    return {
        "number": change.number,
        "begun": change.begun_ns // 1_000_000,
        "services": [str(key) for key in change.services],
        "servicesTotal": change.services_total,
        "nodes": change.nodes,
        "waiting": len(change.waiting),
        "refused": change.refused,
        "left": change.left,
        "isFollowed": change.is_followed,
        **percentiles_view(taken),
    }


def percentiles_view(taken: Percentiles) -> dict[str, float]:
    """Milliseconds."""
    return {name: round(value / 1e6, 1) for name, value in taken._asdict().items()}


def node_view(answer: pb.GetNodeResponse) -> dict[str, Any]:
    """One node in full."""
    status = answer.status
    return {
        "name": status.name,
        "state": _word(pb.NodeStatus.State.Name(status.state), "STATE_"),
        "reason": status.reason,
        "since": status.since.ToMilliseconds(),
        "lastSeen": status.last_seen.ToMilliseconds(),
        "mode": _word(plan_pb.ProxyMode.Name(status.mode), "PROXY_MODE_"),
        "version": status.version,
        "planner": status.planner_id,
        "zone": answer.node.zone,
        "sent": status.sent.revision,
        "programmed": status.programmed.revision,
        "pending": status.pending_services,
        "failures": [f"{_name(each.service)}: {each.message}" for each in status.failures],
        "conditions": [f"{_name(each.service)}: {each.message}" for each in status.conditions.conditions],
        "differences": [
            {
                "service": _name(each.service),
                "standing": _word(pb.ServiceDifference.Standing.Name(each.standing), "STANDING_"),
                "reason": each.reason,
            }
            for each in answer.differences[:ROWS_MAX]
        ],
    }


def endpoints_view(answer: pb.GetEndpointsResponse) -> dict[str, Any]:
    """Every endpoint of a Service, and why it is in no set."""
    report = answer.endpoints
    total = sum(len(port.endpoints) for port in report.ports) + len(report.unused)
    rows = [_endpoint(_port_title(port), row) for port in report.ports for row in port.endpoints[:ROWS_MAX]]
    rows += [_endpoint("no port of the Service", row) for row in report.unused[:ROWS_MAX]]
    return {"service": _name(report.service), "node": report.node_name, "total": total, "rows": rows[:ROWS_MAX]}


def explanation_view(answer: pb.ExplainPacketResponse) -> dict[str, Any]:
    """Where a packet goes, and why."""
    return {
        "outcome": _word(pb.ExplainPacketResponse.Outcome.Name(answer.outcome), "OUTCOME_"),
        "service": _name(answer.service) if answer.HasField("service") else "",
        "port": answer.port_name,
        "steps": list(answer.steps),
        "endpoints": [
            {"endpoint": _place(each.address, each.port), "weight": each.weight, "masquerade": each.masquerade}
            for each in answer.endpoints[:ROWS_MAX]
        ],
        "exclusions": [
            {"endpoint": _place(each.address, each.port), "reason": each.reason}
            for each in answer.exclusions[:ROWS_MAX]
        ],
        "revision": answer.position.revision,
    }


def services_view(keys: Iterable[ServiceKey], wanted: str) -> list[str]:
    """Names to offer to somebody who has typed a part of one; those that begin with it come first."""
    found = sorted(str(key) for key in keys if wanted in str(key))
    found.sort(key=lambda name: not (name.startswith(wanted) or name.partition("/")[2].startswith(wanted)))
    return found[:SERVICES_OFFERED]


def _endpoint(port: str, row: pb.EndpointState) -> dict[str, Any]:
    facts = row.facts
    said = [word for word, holds in (("ready", facts.ready), ("serving", facts.serving)) if holds]
    return {
        "port": port,
        "endpoint": _place(facts.address, row.port),
        "node": facts.node_name,
        "says": ", ".join([*said, *(["terminating"] if facts.terminating else [])]) or "not ready",
        "sets": [_word(pb.EndpointState.Set.Name(kind), "SET_") for kind in row.sets],
        "reasons": [_absence(each) for each in row.absences],
    }


def _absence(absence: pb.EndpointState.Absence) -> str:
    if not absence.set:
        return absence.reason
    return f"not {_word(pb.EndpointState.Set.Name(absence.set), 'SET_')}: {absence.reason}"


def _port_title(port: pb.PortEndpoints) -> str:
    name = f"{port.name} " if port.name else ""
    protocol = _word(types_pb2.Protocol.Name(port.protocol), "PROTOCOL_").upper()
    family = _word(types_pb2.IPFamily.Name(port.family), "IP_FAMILY_").replace("ipv", "IPv")
    return f"{name}{port.port}/{protocol} {family}"


def _place(address: bytes, port: int) -> str:
    text = format_address(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _name(name: types_pb2.NamespacedName) -> str:
    return f"{name.namespace}/{name.name}"


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).replace("_", " ").lower()
