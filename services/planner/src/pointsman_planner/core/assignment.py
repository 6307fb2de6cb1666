# SPDX-License-Identifier: Apache-2.0
"""One service's plan as nodes of one view see it: verdicts, masquerade and endpoint sets.

The whole matrix, from which every row of kube-proxy's behaviour follows (set for each traffic class; M =
masqueraded):

    frontend                       policy    from pod     from host    from outside
    cluster IP                     Cluster   cluster      cluster M    cluster M
    cluster IP                     Local     local        local M      local M
    external, LB IP, node port     Cluster   cluster M    cluster M    cluster M
    external, LB IP, node port     Local     cluster      cluster M    local

An empty set becomes DROP when a usable endpoint exists anywhere, else REJECT. What a node's own settings add
(detector missing, masqueradeAll, nodePortAddresses) is the enforcer's part.
"""

from __future__ import annotations

from typing import Final

from pointsman_model.cluster import TrafficPolicy
from pointsman_model.names import Family, Prefix, Protocol, family_of, make_prefix
from pointsman_model.plan import (
    DROP,
    REJECT,
    Action,
    Frontend,
    FrontendKind,
    HealthCheck,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    Verdict,
)
from pointsman_planner.core.categorize import Categorized, Policy, categorize_endpoints
from pointsman_planner.core.claims import Claim
from pointsman_planner.core.service_state import (
    PortEndpoint,
    PortState,
    ServiceState,
    captured_load_balancer_ips,
)
from pointsman_planner.core.view import View

SCHEDULER_ANNOTATION: Final = "pointsman.io/ipvs-scheduler"
"""How IPVS is to choose among the endpoints of a Service."""
_SCHEDULER_CHARACTERS: Final = 64
"""More than any scheduler with all its flags has; what is longer is refused by who reads it, cut or not."""


def plan_service(state: ServiceState, view: View, lost: frozenset[Claim] = frozenset()) -> ServicePlan:
    """The plan of one service for every node with this view.

    Args:
        state: the service joined with its slices.
        view: what the service may know about the node.
        lost: places the service asks for but another service owns; they are left out.
    """
    return ServicePlan(
        ports=tuple(_plan_port(state, port, view, lost) for port in state.ports),
        affinity_timeout_seconds=state.service.affinity_timeout_seconds,
        health_check=_health_check(state, view),
        ipvs_scheduler=dict(state.service.annotations).get(SCHEDULER_ANNOTATION, "")[:_SCHEDULER_CHARACTERS],
    )


def policy_of(state: ServiceState, port: PortState) -> Policy:
    """The flags of one ServicePort in one family."""
    service = state.service
    return Policy(
        internal_local=service.internal_traffic_policy is TrafficPolicy.LOCAL,
        external_local=service.external_traffic_policy is TrafficPolicy.LOCAL,
        externally_accessible=bool(
            port.node_port
            or captured_load_balancer_ips(service, port.family)
            or any(len(address) == port.family.address_bytes for address in service.external_ips)
        ),
    )


def _plan_port(state: ServiceState, port: PortState, view: View, lost: frozenset[Claim]) -> ServicePortPlan:
    policy = policy_of(state, port)
    chosen = categorize_endpoints(port.endpoints, policy, view.node_name, view.zone)
    sets = _EndpointSets(view.node_name)
    frontends = _cluster_ip_frontends(state, port, _internal_verdicts(policy, chosen, sets))
    if policy.externally_accessible:
        frontends += _external_frontends(state, port, view, _external_verdicts(policy, chosen, sets))
    return ServicePortPlan(
        name=port.name,
        protocol=port.protocol,
        family=port.family,
        frontends=_own(port, frontends, lost),
        endpoint_sets=sets.result(),
        also_serving=() if port.protocol is Protocol.TCP else sets.left_out(port.endpoints),
    )


class _EndpointSets:
    """Numbers the distinct endpoint sets of one ServicePort in order of first use."""

    __slots__ = ("_node_name", "_numbers")

    def __init__(self, node_name: str | None) -> None:
        self._node_name = node_name
        self._numbers: dict[tuple[PortEndpoint, ...], int] = {}

    def verdict(self, endpoints: tuple[PortEndpoint, ...], *, masquerade: bool, has_any: bool) -> Verdict:
        if not endpoints:
            return DROP if has_any else REJECT
        return Verdict(Action.FORWARD, self._numbers.setdefault(endpoints, len(self._numbers)), masquerade)

    def result(self) -> tuple[tuple[PlanEndpoint, ...], ...]:
        return tuple(
            tuple(
                PlanEndpoint(e.address, e.port, e.weight, e.node_name is None or e.node_name == self._node_name)
                for e in endpoints
            )
            for endpoints in self._numbers
        )

    def left_out(self, endpoints: tuple[PortEndpoint, ...]) -> tuple[PlanEndpoint, ...]:
        """Endpoints in no set that serve all the same: flows they have are theirs to the end."""
        named = {(e.address, e.port) for members in self._numbers for e in members}
        return tuple(
            PlanEndpoint(e.address, e.port)
            for e in endpoints
            if (e.ready or e.serving) and (e.address, e.port) not in named
        )


_Verdicts = tuple[Verdict, Verdict, Verdict]


def _internal_verdicts(policy: Policy, chosen: Categorized, sets: _EndpointSets) -> _Verdicts:
    endpoints = chosen.local if policy.internal_local else chosen.cluster
    plain = sets.verdict(endpoints, masquerade=False, has_any=chosen.has_any)
    masked = sets.verdict(endpoints, masquerade=True, has_any=chosen.has_any)
    return plain, masked, masked


def _external_verdicts(policy: Policy, chosen: Categorized, sets: _EndpointSets) -> _Verdicts:
    masked = sets.verdict(chosen.cluster, masquerade=True, has_any=chosen.has_any)
    if not policy.external_local:
        return masked, masked, masked
    return (
        sets.verdict(chosen.cluster, masquerade=False, has_any=chosen.has_any),
        masked,
        sets.verdict(chosen.local, masquerade=False, has_any=chosen.has_any),
    )


def _cluster_ip_frontends(state: ServiceState, port: PortState, verdicts: _Verdicts) -> list[Frontend]:
    return [
        Frontend(FrontendKind.CLUSTER_IP, address, port.port, *verdicts)
        for address in state.service.cluster_ips
        if family_of(address) is port.family
    ]


def _external_frontends(state: ServiceState, port: PortState, view: View, verdicts: _Verdicts) -> list[Frontend]:
    service, family = state.service, port.family
    ranges = _allowed_sources(state, family, view)
    found = [
        Frontend(FrontendKind.LOAD_BALANCER_IP, address, port.port, *verdicts, ranges)
        for address in captured_load_balancer_ips(service, family)
    ]
    found += [
        Frontend(FrontendKind.EXTERNAL_IP, address, port.port, *verdicts)
        for address in service.external_ips
        if family_of(address) is family
    ]
    if port.node_port:
        found.append(Frontend(FrontendKind.NODE_PORT, b"", port.node_port, *verdicts))
    return found


def _allowed_sources(state: ServiceState, family: Family, view: View) -> tuple[Prefix, ...]:
    ranges = {prefix for prefix in state.source_ranges if prefix.family is family}
    if ranges and (view.vip_sources_v4 if family is Family.IPV4 else view.vip_sources_v6):
        # A host process may send from the VIP itself, where a cloud binds the VIP to the node.
        ranges |= {
            make_prefix(address, family.address_bits) for address in captured_load_balancer_ips(state.service, family)
        }
    return tuple(sorted(ranges))


def _own(port: PortState, frontends: list[Frontend], lost: frozenset[Claim]) -> tuple[Frontend, ...]:
    """Leave out places that others own, and all but the best ranked of the ones asked for twice; sorted."""
    kept: dict[Claim, Frontend] = {}
    for frontend in sorted(frontends, key=lambda item: _PRECEDENCE[item.kind]):
        claim = Claim(frontend.address, port.family, port.protocol, frontend.port)
        if claim not in lost:
            kept.setdefault(claim, frontend)
    return tuple(sorted(kept.values(), key=lambda item: item[:3]))


_PRECEDENCE = {
    FrontendKind.CLUSTER_IP: 0,
    FrontendKind.LOAD_BALANCER_IP: 1,
    FrontendKind.EXTERNAL_IP: 2,
    FrontendKind.NODE_PORT: 3,
}


def _health_check(state: ServiceState, view: View) -> HealthCheck | None:
    service = state.service
    if not (
        service.health_check_node_port
        and service.type == "LoadBalancer"
        and service.external_traffic_policy is TrafficPolicy.LOCAL
    ):
        return None
    counts = {family: set[bytes]() for family in Family}
    if view.node_name is not None:
        for port in state.ports:
            counts[port.family].update(e.address for e in port.endpoints if e.ready and e.node_name == view.node_name)
    # A dual-stack pod has an address in each family and is still one endpoint: the larger family counts.
    return HealthCheck(
        node_port=service.health_check_node_port, local_endpoints=max(len(found) for found in counts.values())
    )
