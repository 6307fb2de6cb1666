# SPDX-License-Identifier: Apache-2.0
"""Every endpoint of a Service: what the API server says of it, and what becomes of it as one node sees it.

It begins with the slices and not with the join, so that nothing is left out silently: an endpoint that another slice
outdoes, that belongs to no port of the Service or to no family of it, is here with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from pointsman_model.cluster import Endpoint, EndpointPort, EndpointSlice, SliceKey
from pointsman_model.names import ServiceKey, family_of
from pointsman_planner.core.assignment import policy_of
from pointsman_planner.core.categorize import Categorized, TopologyMode, categorize_endpoints
from pointsman_planner.core.cluster_state import ClusterState, PlannedService
from pointsman_planner.core.exclusions import Cause, Why, why_not
from pointsman_planner.core.service_state import PortEndpoint, PortState, endpoint_rank
from pointsman_planner.core.view import NodeView, view_of


class SetKind(IntEnum):
    """A set of endpoints (equals `pointsman.control.v1.EndpointState.Set`)."""

    CLUSTER = 1
    LOCAL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """Why an endpoint is not in a set; `set_kind` None = it can be in none."""

    set_kind: SetKind | None
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRow:
    """One endpoint of one port."""

    facts: Endpoint
    port: int
    slice_key: SliceKey | None
    """The slice that names it; None for a registered endpoint."""
    sets: tuple[SetKind, ...] = ()
    absences: tuple[Absence, ...] = ()
    weight: int = 0
    """Share of new connections in the sets it is in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortReport:
    """One ServicePort in one family."""

    port: PortState
    used_sets: tuple[SetKind, ...]
    topology: TopologyMode
    rows: tuple[EndpointRow, ...]
    """Ordered by address, then port; of several slices' rows for one pair, the one that counts comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceReport:
    """All endpoints of a Service as a node sees them."""

    service: ServiceKey
    node_name: str
    ports: tuple[PortReport, ...]
    unused: tuple[EndpointRow, ...]
    """Endpoints that belong to no port of the Service."""


@dataclass(frozen=True, slots=True)
class _Named:
    """An endpoint and port as one slice names them."""

    facts: Endpoint
    port: int
    slice_key: SliceKey
    index: int

    def order(self) -> tuple[bytes, int, tuple[object, ...]]:
        """By address and port, and then by what counts."""
        return self.facts.address, self.port, endpoint_rank(self.facts, self.slice_key, self.index)


def report_endpoints(cluster: ClusterState, planned: PlannedService, node_name: str) -> ServiceReport:
    """The report of one Service; an empty `node_name` is a node of which it knows nothing."""
    node = cluster.node_view(node_name)
    slices = cluster.slices_of(planned.state.key)
    return ServiceReport(
        service=planned.state.key,
        node_name=node_name,
        ports=tuple(_report_port(planned, port, slices, node) for port in planned.state.ports),
        unused=tuple(_unused(planned, slices)),
    )


def _report_port(
    planned: PlannedService, port: PortState, slices: tuple[EndpointSlice, ...], node: NodeView
) -> PortReport:
    policy, view = policy_of(planned.state, port), view_of(planned.state, node)
    sets = categorize_endpoints(port.endpoints, policy, view.node_name, view.zone)
    used = tuple(
        kind
        for kind, is_used in ((SetKind.CLUSTER, policy.uses_cluster), (SetKind.LOCAL, policy.uses_local))
        if is_used
    )
    known = {(e.address, e.port): e for e in port.endpoints}
    rows: list[EndpointRow] = []
    seen: dict[tuple[bytes, int], SliceKey] = {}
    for named in sorted(_named(port, slices), key=_Named.order):
        pair = (named.facts.address, named.port)
        endpoint = known.get(pair)
        if endpoint is None or pair in seen:
            rows.append(_outdone(named, used, seen.get(pair)))
            continue
        seen[pair] = named.slice_key
        rows.append(_row(endpoint, named.facts, named.slice_key, sets, used, node))
    rows += [_row(e, _facts_of(e), None, sets, used, node) for e in port.endpoints if (e.address, e.port) not in seen]
    rows.sort(key=lambda row: (row.facts.address, row.port))
    return PortReport(port=port, used_sets=used, topology=sets.topology, rows=tuple(rows))


def _row(  # noqa: PLR0917 - all that a row is made of; a value for them would be made for nothing else
    endpoint: PortEndpoint,
    facts: Endpoint,
    slice_key: SliceKey | None,
    sets: Categorized,
    used: tuple[SetKind, ...],
    node: NodeView,
) -> EndpointRow:
    members = {SetKind.CLUSTER: sets.cluster, SetKind.LOCAL: sets.local}
    present = tuple(kind for kind in used if endpoint in members[kind])
    return EndpointRow(
        facts=facts,
        port=endpoint.port,
        slice_key=slice_key,
        sets=present,
        absences=tuple(
            Absence(set_kind=kind, why=why_not(endpoint, node, sets, is_local=kind is SetKind.LOCAL))
            for kind in used
            if kind not in present
        ),
        weight=endpoint.weight if present else 0,
    )


def _outdone(named: _Named, used: tuple[SetKind, ...], by: SliceKey | None) -> EndpointRow:
    reason = f"slice {by} names this address and port too, and its endpoint counts" if by else "it is not in the plan"
    why = Why(Cause.DUPLICATE, reason)
    absences = tuple(Absence(set_kind=kind, why=why) for kind in used)
    return EndpointRow(facts=named.facts, port=named.port, slice_key=named.slice_key, absences=absences)


def _named(port: PortState, slices: tuple[EndpointSlice, ...]) -> Iterator[_Named]:
    """Every endpoint that a slice names for a ServicePort."""
    for item in slices:
        if item.family is not port.family:
            continue
        for number in sorted({each.port for each in item.ports if _is_for(each, port)}):
            for index, facts in enumerate(item.endpoints):
                yield _Named(facts, number, item.key, index)


def _is_for(slice_port: EndpointPort, port: PortState) -> bool:
    return (slice_port.name, slice_port.protocol) == (port.name, port.protocol) and slice_port.port != 0


def _unused(planned: PlannedService, slices: tuple[EndpointSlice, ...]) -> Iterator[EndpointRow]:
    service = planned.state.service
    families = {family_of(address) for address in service.cluster_ips}
    wanted = {(port.name, port.protocol) for port in service.ports}
    for item in slices:
        for port in item.ports:
            if item.family not in families:
                why = Why(Cause.FAMILY, f"the Service has no {item.family.name} address")
            elif (port.name, port.protocol) not in wanted:
                name = f"named {port.name!r}" if port.name else "without a name"
                why = Why(Cause.NO_SERVICE_PORT, f"the Service has no {port.protocol.name} port {name}")
            else:
                continue
            absences = (Absence(set_kind=None, why=why),)
            for facts in item.endpoints:
                yield EndpointRow(facts=facts, port=port.port, slice_key=item.key, absences=absences)


def _facts_of(endpoint: PortEndpoint) -> Endpoint:
    """What an override says of an endpoint that no slice names."""
    return Endpoint(
        address=endpoint.address,
        ready=endpoint.ready,
        serving=endpoint.serving,
        terminating=endpoint.terminating,
        node_name=endpoint.node_name,
        zone_hints=endpoint.zone_hints,
        node_hints=endpoint.node_hints,
    )
