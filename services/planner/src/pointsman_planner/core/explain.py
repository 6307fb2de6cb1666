# SPDX-License-Identifier: Apache-2.0
"""Why a packet goes where it goes: the tracer's steps, and a reason for every endpoint that was not a candidate."""

from __future__ import annotations

from typing import NamedTuple

from pointsman_model.names import ServiceKey, family_of
from pointsman_model.packet import Fate, Outcome, Packet, trace_packet
from pointsman_model.plan import DataplaneSettings, FrontendKind, NodePlan
from pointsman_planner.core.assignment import plan_service, policy_of
from pointsman_planner.core.categorize import Categorized, categorize_endpoints
from pointsman_planner.core.claims import Claim
from pointsman_planner.core.cluster_state import ClusterState, PlannedService
from pointsman_planner.core.exclusions import Cause, why_not
from pointsman_planner.core.service_state import PortState
from pointsman_planner.core.view import NodeView, view_of


class ExcludedEndpoint(NamedTuple):
    """An endpoint that is not a candidate, and why."""

    address: bytes
    port: int
    cause: Cause
    reason: str


class Explanation(NamedTuple):
    """What the tracer found, and the endpoints it did not choose."""

    outcome: Outcome
    exclusions: tuple[ExcludedEndpoint, ...]


def explain_packet(cluster: ClusterState, node_name: str, settings: DataplaneSettings, packet: Packet) -> Explanation:
    """Trace a packet through one node's plan. Costs the services that could match, not the cluster.

    Raises:
        ValueError: source and destination are of different families, or not addresses.
    """
    node = cluster.node_view(node_name)
    services = {}
    for key in sorted(_candidates(cluster, packet)):
        planned = cluster.services[key]
        services[key] = plan_service(planned.state, view_of(planned.state, node), planned.lost)
    outcome = trace_packet(NodePlan(facts=node.facts, services=services), settings, packet)
    return Explanation(outcome, _exclusions(cluster, node, outcome, packet))


def conflicts_of(cluster: ClusterState, planned: PlannedService) -> tuple[str, ...]:
    """Places that a service asks for and another service owns, in words."""
    found = []
    for claim in sorted(planned.lost):
        owner = cluster.claims.owner(claim)
        if owner is not None:
            found.append(f"{claim} is held by {owner.service} ({owner.kind.name.lower().replace('_', ' ')})")
    return tuple(found)


def _candidates(cluster: ClusterState, packet: Packet) -> set[ServiceKey]:
    family = family_of(packet.destination)
    found = set()
    for address in (packet.destination, b""):
        owner = cluster.claims.owner(Claim(address, family, packet.protocol, packet.destination_port))
        if owner is not None:
            found.add(owner.service)
    found |= {
        key for key, planned in cluster.services.items() if packet.destination in planned.state.service.cluster_ips
    }
    return found


def _exclusions(
    cluster: ClusterState, node: NodeView, outcome: Outcome, packet: Packet
) -> tuple[ExcludedEndpoint, ...]:
    if outcome.service is None or outcome.frontend is None:
        return ()
    planned = cluster.services[outcome.service]
    family = family_of(packet.destination)
    chosen = {(candidate.address, candidate.port) for candidate in outcome.candidates}
    view = view_of(planned.state, node)
    for port in planned.state.ports:
        if (port.name, port.family, port.protocol) != (outcome.port_name, family, packet.protocol):
            continue
        sets = categorize_endpoints(port.endpoints, policy_of(planned.state, port), view.node_name, view.zone)
        is_local = _is_local_only(planned, port, outcome, chosen, sets)
        return tuple(
            ExcludedEndpoint(e.address, e.port, *why_not(e, node, sets, is_local=is_local))
            for e in port.endpoints
            if (e.address, e.port) not in chosen
        )
    return ()


def _is_local_only(
    planned: PlannedService, port: PortState, outcome: Outcome, chosen: set[tuple[bytes, int]], sets: Categorized
) -> bool:
    """Whether the set that the packet was given (or denied) is the Local one."""
    policy = policy_of(planned.state, port)
    is_internal = outcome.frontend is not None and outcome.frontend.kind is FrontendKind.CLUSTER_IP
    if not (policy.internal_local if is_internal else policy.external_local):
        return False
    if is_internal or outcome.fate is Fate.DROP:
        return True
    return chosen == {(e.address, e.port) for e in sets.local}
