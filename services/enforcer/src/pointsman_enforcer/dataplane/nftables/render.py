# SPDX-License-Identifier: Apache-2.0
"""ServicePlan -> elements: a translation, with no policy in it. Pure.

    frontend -> verdict           service_ips | service_nodeports, with _from_pod and _from_host where a class differs
    frontend, slot -> endpoint    endpoints | nodeport_endpoints
    cluster IP                    cluster_ips                       (shared: counted over services)
    endpoint to be hairpinned     hairpin                           (shared)
    source ranges                 firewalled, allowed_sources
    session affinity              affinity_*, in place of the endpoint maps (affinity.py)

The rule that masquerades what is not from a pod stands in front of the dispatch of cluster IPs, so the verdicts of a
cluster IP are rendered without it; a plan that asks for anything else there cannot be expressed and is refused.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.nftables import layout, packed
from pointsman_enforcer.dataplane.nftables.affinity import ID_SPECS, AffinityPort, PortNumbers, previous_members
from pointsman_enforcer.dataplane.nftables.chains import EndpointSet
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.packed import Records, section_of
from pointsman_enforcer.dataplane.nftables.sets import SetSpec
from pointsman_enforcer.dataplane.nftables.slots import assign, shares_of
from pointsman_model import names
from pointsman_model.names import Prefix, format_address
from pointsman_model.plan import (
    Action,
    Frontend,
    FrontendKind,
    NodeFacts,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    Verdict,
)

ELEMENTS_MAX: Final = 1 << 18
"""Of one service. Thirty frontends with 5,000 endpoints each need 150,000."""
_SLOT_BYTES: Final = 4
_SLOT_SECTIONS: Final = frozenset(
    section.number for section in packed.SECTIONS if section.spec in (layout.ENDPOINTS, layout.NODEPORT_ENDPOINTS)
)
_FAMILIES: Final = {names.Family.IPV4: Family.IPV4, names.Family.IPV6: Family.IPV6}
_SETS: Final = (EndpointSet.CLUSTER, EndpointSet.LOCAL)
_Targets = dict[tuple[int, bool], bytes]
"""Where a verdict leads, by its endpoint set and whether it masquerades."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderContext:
    """What of the node's settings the elements depend on."""

    detects: frozenset[names.Family] = frozenset()
    """Families in which packets of pods can be told from others."""
    masquerade_all: bool = False
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdicts:
    """What a frontend does with each class, after the node's settings."""

    pod: Verdict
    host: Verdict
    others: Verdict
    detects: bool
    """Whether pods can be told from others at all."""


class _Affinity(NamedTuple):
    """What the ports of a service with session affinity have in common."""

    numbers: PortNumbers
    members: Mapping[tuple[Family, bytes], Mapping[bytes, bytes]]
    seconds: int


def family_of(family: names.Family) -> Family:
    """The table's family for a family of addresses."""
    return _FAMILIES[family]


def render_service(
    plan: ServicePlan, previous: bytes, context: RenderContext, numbers: PortNumbers | None = None
) -> bytes:
    """The rendering of a service; `previous` decides only which slot or number an endpoint has.

    `numbers` are those of all services, so that ports with session affinity differ.

    Raises:
        UnsupportedPlanError: the plan cannot be expressed here.
    """
    missing = sorted(set(plan.required_capabilities) - context.capabilities)
    if missing:
        raise UnsupportedPlanError(f"the plan requires {', '.join(missing)}, which this dataplane lacks")
    seconds = plan.affinity_timeout_seconds
    sections: dict[int, Records] = {}
    slots = {} if seconds else _previous_slots(previous)
    affinity = None
    if seconds:
        numbers = PortNumbers() if numbers is None else numbers
        affinity = _Affinity(numbers, previous_members(previous), seconds)
    for port in plan.ports:
        targets = None if affinity is None else _render_affinity(sections, port, affinity, context)
        for frontend in port.frontends:
            verdicts = _effective(port, frontend, context)
            chosen = _render_endpoints(sections, port, frontend, verdicts, slots) if targets is None else targets
            _render_frontend(sections, port, frontend, verdicts, chosen)
            _check_size(sections)
    return packed.pack(sections)


def _check_size(sections: Mapping[int, Records]) -> None:
    """Refuse a plan of few bytes and large weights that would take the node's time and memory from all others."""
    if sum(map(len, sections.values())) > ELEMENTS_MAX:
        raise UnsupportedPlanError(
            f"the service needs more than {ELEMENTS_MAX} elements (frontends times endpoints and their weights)"
        )


def render_node(
    facts: NodeFacts, node_port_addresses: Mapping[names.Family, tuple[Prefix, ...]], *, drop_unallocated: bool
) -> bytes:
    """The rendering of what belongs to the node: where node ports answer and, if wanted, the service CIDRs."""
    sections: dict[int, Records] = {}
    for family, prefixes in node_port_addresses.items():
        _add_prefixes(sections, family, layout.NODEPORT_ADDRESSES, prefixes)
        if drop_unallocated:
            cidrs = tuple(prefix for prefix in facts.service_cidrs if prefix.family is family)
            _add_prefixes(sections, family, layout.SERVICE_CIDRS, cidrs)
    return packed.pack(sections)


def frontend_key(port: ServicePortPlan, frontend: Frontend) -> bytes:
    """The key of a frontend in the maps of its kind."""
    if frontend.kind is FrontendKind.NODE_PORT:
        return layout.nodeport_key(port.protocol, frontend.port)
    return layout.frontend_key(frontend.address, port.protocol, frontend.port)


def _render_frontend(
    sections: dict[int, Records],
    port: ServicePortPlan,
    frontend: Frontend,
    verdicts: _Verdicts,
    targets: _Targets,
) -> None:
    family = family_of(port.family)
    key = frontend_key(port, frontend)
    _render_verdicts(sections, family, key, verdicts, targets, is_nodeport=frontend.kind is FrontendKind.NODE_PORT)
    if frontend.kind is FrontendKind.CLUSTER_IP:
        _records(sections, family, layout.CLUSTER_IPS)[frontend.address] = b""
    if frontend.source_ranges:
        _render_source_ranges(sections, family, key, frontend)


def _render_affinity(
    sections: dict[int, Records], port: ServicePortPlan, affinity: _Affinity, context: RenderContext
) -> _Targets:
    """Number, picks and endpoints of a port; where verdicts of any of its frontends lead."""
    family = family_of(port.family)
    if not port.frontends:
        return {}
    maps = [section_of(family, ID_SPECS[frontend.kind is FrontendKind.NODE_PORT]).number for frontend in port.frontends]
    keys = [frontend_key(port, frontend) for frontend in port.frontends]
    number = affinity.numbers.promise(maps[0], keys[0])
    for section, key in zip(maps, keys, strict=True):
        sections.setdefault(section, {})[key] = number
    named = {
        index: port.endpoint_sets[index]
        for frontend in port.frontends
        for index in _endpoint_sets(port, frontend, _effective(port, frontend, context))
    }
    for endpoints in named.values():
        _add_hairpins(sections, family, endpoints)
    rendered = AffinityPort(family, port.protocol, number, affinity.members.get((family, number), {}))
    buckets = rendered.render(sections, named)
    return {
        (index, masquerade): packed.forward(
            slots=buckets[index], endpoints=_SETS[index], masquerade=masquerade, affinity_seconds=affinity.seconds
        )
        for index in named
        for masquerade in (False, True)
    }


def _render_endpoints(
    sections: dict[int, Records],
    port: ServicePortPlan,
    frontend: Frontend,
    verdicts: _Verdicts,
    slots: Mapping[tuple[int, bytes], Mapping[int, bytes]],
) -> _Targets:
    """A frontend's endpoints in their slots; where its verdicts lead."""
    family = family_of(port.family)
    key = frontend_key(port, frontend)
    is_nodeport = frontend.kind is FrontendKind.NODE_PORT
    endpoints = section_of(family, layout.NODEPORT_ENDPOINTS if is_nodeport else layout.ENDPOINTS).number
    before = slots.get((endpoints, key), {})
    targets: _Targets = {}
    for place, index in zip(_SETS, _endpoint_sets(port, frontend, verdicts), strict=False):
        values = _slot_values(port.endpoint_sets[index], before, place.value)
        found = sections.setdefault(endpoints, {})
        for slot, value in enumerate(values, start=place.value):
            found[layout.slot_key(key, slot)] = value
        _add_hairpins(sections, family, port.endpoint_sets[index])
        for masquerade in (False, True):
            targets[index, masquerade] = packed.forward(slots=len(values), endpoints=place, masquerade=masquerade)
    return targets


def _effective(port: ServicePortPlan, frontend: Frontend, context: RenderContext) -> _Verdicts:
    pod, host, others = frontend.from_pod, frontend.from_host, frontend.from_outside
    detects = port.family in context.detects
    if frontend.kind is not FrontendKind.CLUSTER_IP:
        return _Verdicts(pod=pod if detects else others, host=host, others=others, detects=detects)
    if not detects:
        host = others = pod
    if context.masquerade_all:
        return _Verdicts(pod=_plain(pod), host=_plain(host), others=_plain(others), detects=detects)
    if not detects:
        return _Verdicts(pod=pod, host=host, others=others, detects=detects)
    for verdict in (host, others):
        if verdict.action is Action.FORWARD and not verdict.masquerade:
            raise UnsupportedPlanError(
                f"{_name(frontend)}: traffic that is not from a pod is always masqueraded on its way to a cluster IP, "
                "and the plan says it must not be"
            )
    return _Verdicts(pod=pod, host=_plain(host), others=_plain(others), detects=detects)


def _plain(verdict: Verdict) -> Verdict:
    return verdict._replace(masquerade=False)


def _endpoint_sets(port: ServicePortPlan, frontend: Frontend, verdicts: _Verdicts) -> list[int]:
    """The one or two endpoint sets that the verdicts name, in the order in which classes are asked."""
    named = dict.fromkeys(
        verdict.endpoint_set
        for verdict in (verdicts.pod, verdicts.host, verdicts.others)
        if verdict.action is Action.FORWARD
    )
    if len(named) > len(_SETS):
        raise UnsupportedPlanError(f"{_name(frontend)}: a frontend has at most {len(_SETS)} endpoint sets here")
    if any(index >= len(port.endpoint_sets) for index in named):
        raise UnsupportedPlanError(f"{_name(frontend)}: a verdict names an endpoint set that is not there")
    return list(named)


def _slot_values(endpoints: tuple[PlanEndpoint, ...], before: Mapping[int, bytes], base: int) -> list[bytes]:
    """The value of each slot of an endpoint set whose slots begin at `base`."""
    try:
        shares = shares_of([endpoint.weight for endpoint in endpoints])
    except ValueError as error:
        raise UnsupportedPlanError(str(error)) from error
    value_of = layout.endpoint_value
    values = [value_of(endpoint.address, endpoint.port) for endpoint in endpoints]
    kept = before and {slot - base: value for slot, value in before.items() if base <= slot < base + layout.SLOTS_MAX}
    return assign(values, shares, kept)


def _add_hairpins(sections: dict[int, Records], family: Family, endpoints: tuple[PlanEndpoint, ...]) -> None:
    addresses = [endpoint.address for endpoint in endpoints if endpoint.hairpin]
    if addresses:
        pairs = _records(sections, family, layout.HAIRPIN)
        for address in addresses:
            pairs[layout.hairpin_key(address)] = b""


def _render_verdicts(
    sections: dict[int, Records],
    family: Family,
    key: bytes,
    verdicts: _Verdicts,
    targets: _Targets,
    *,
    is_nodeport: bool,
) -> None:
    specs = (
        (layout.NODEPORTS, layout.NODEPORTS_FROM_POD, layout.NODEPORTS_FROM_HOST)
        if is_nodeport
        else (layout.SERVICE_IPS, layout.SERVICE_IPS_FROM_POD, layout.SERVICE_IPS_FROM_HOST)
    )
    others = _target(verdicts.others, targets)
    dispatch = _records(sections, family, specs[0])
    if key in dispatch:
        raise UnsupportedPlanError(f"two frontends of the service have the same key {key.hex()}")
    dispatch[key] = others
    pod, host = _target(verdicts.pod, targets), _target(verdicts.host, targets)
    if pod == host == others:
        return
    # In all maps or in one: a pod that has an address of this host must not fall through to the host's verdict.
    if verdicts.detects:
        _records(sections, family, specs[1])[key] = pod
    _records(sections, family, specs[2])[key] = host


def _target(verdict: Verdict, targets: _Targets) -> bytes:
    if verdict.action is Action.FORWARD:
        return targets[verdict.endpoint_set, verdict.masquerade]
    return packed.REJECT if verdict.action is Action.REJECT else packed.DROP


def _render_source_ranges(sections: dict[int, Records], family: Family, key: bytes, frontend: Frontend) -> None:
    if frontend.kind is FrontendKind.NODE_PORT:
        raise UnsupportedPlanError(f"{_name(frontend)}: node ports have no source ranges")
    _records(sections, family, layout.FIREWALLED)[key] = b""
    allowed = _records(sections, family, layout.ALLOWED_SOURCES)
    for first, last in layout.source_ranges(key, map(_network, frontend.source_ranges)):
        allowed[first + last] = b""


def _add_prefixes(
    sections: dict[int, Records], family: names.Family, spec: SetSpec, prefixes: tuple[Prefix, ...]
) -> None:
    found = _records(sections, family_of(family), spec)
    for first, last in layout.address_ranges(map(_network, prefixes)):
        found[first + last] = b""


def _network(prefix: Prefix) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network((prefix.address, prefix.length))


def _records(sections: dict[int, Records], family: Family, spec: SetSpec) -> Records:
    return sections.setdefault(section_of(family, spec).number, {})


def _previous_slots(previous: bytes) -> dict[tuple[int, bytes], dict[int, bytes]]:
    """What stands in each slot now, by endpoint section and frontend key."""
    found: dict[tuple[int, bytes], dict[int, bytes]] = {}
    if not previous:
        return found
    for number, body in packed.bodies(previous).items():
        if number not in _SLOT_SECTIONS:
            continue
        for key, value in packed.records(number, body).items():
            slot = int.from_bytes(key[-_SLOT_BYTES:], sys.byteorder)
            found.setdefault((number, key[:-_SLOT_BYTES]), {})[slot] = value
    return found


def _name(frontend: Frontend) -> str:
    address = format_address(frontend.address) if frontend.address else "node port"
    return f"{address} {frontend.port}"
