# SPDX-License-Identifier: Apache-2.0
"""ServicePlan -> virtual servers, real servers and elements of sets: a translation, with no policy in it.

Sets say for each frontend, and for each class of senders that fares differently, which mark a new connection gets: one
of REJECT or DROP, or that of a virtual server. So an endpoint set is one virtual server, however many frontends lead to
it; one that is masqueraded for some is two, because the kernel compares the mark as a whole.

Session affinity is the exception: a virtual server known by a mark remembers clients but cannot translate ports for
them, so such a port has one virtual server for each place where packets arrive.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.ipvs.genetlink.model import (
    WEIGHT_MAX,
    RealServer,
    RealServerId,
    ServiceFlags,
    VirtualServer,
    VirtualServerId,
)
from pointsman_enforcer.dataplane.ipvs.layout import (
    DROP_MARK,
    MASQUERADE,
    REJECT_MARK,
    TAKEN,
    Id,
    Kind,
    Records,
    number_of,
    pack,
    real_record,
    server_record,
    set_name,
)
from pointsman_enforcer.dataplane.ipvs.schedulers import ROUND_ROBIN, Scheduler, parse_wish, suited_to
from pointsman_enforcer.dataplane.xtables.text import WORDS
from pointsman_model.names import Family, Prefix, Protocol, format_address
from pointsman_model.plan import (
    Action,
    DataplaneSettings,
    Frontend,
    FrontendKind,
    NodeFacts,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    Verdict,
)

CAPABILITIES: Final = frozenset({"source-ranges", "weights", "affinity"})
SECONDS_MAX: Final = 31 * 86400
CLASSES: Final = ("others", "pod", "host")
_EVERYWHERE: Final = {Family.IPV4: ("0.0.0.0/1", "128.0.0.0/1"), Family.IPV6: ("::/1", "8000::/1")}
"""All addresses: these sets have no prefix of length zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderContext:
    """What of the node renderings depend on."""

    settings: DataplaneSettings
    addresses: tuple[bytes, ...] = ()
    """The node's own."""
    scheduler: Scheduler = ROUND_ROBIN
    """Of virtual servers of Services that do not wish for another."""


class Numbers:
    """Which number each endpoint set has, so that no two have the same; kept for the life of a process."""

    def __init__(self) -> None:
        self._by_set: dict[tuple[Family, bytes, int], int] = {}
        self._taken: set[tuple[Family, int]] = set()

    def promise(self, family: Family, frontend: bytes, index: int) -> int:
        """The number of an endpoint set; the same after a restart, unless two sets would have had one number."""
        key = (family, frontend, index)
        attempt = 0
        while key not in self._by_set:
            number = number_of(family, frontend, index, attempt)
            if (family, number) not in self._taken:
                self._by_set[key] = number
                self._taken.add((family, number))
            attempt += 1
        return self._by_set[key]


def render_service(plan: ServicePlan, context: RenderContext, numbers: Numbers) -> bytes:
    """The rendering of a service.

    Raises:
        UnsupportedPlanError: the plan cannot be expressed here.
    """
    missing = sorted(set(plan.required_capabilities) - CAPABILITIES)
    if missing:
        raise UnsupportedPlanError(f"the plan requires {', '.join(missing)}, which this dataplane lacks")
    if plan.affinity_timeout_seconds > SECONDS_MAX:
        raise UnsupportedPlanError(f"a client is remembered for at most {SECONDS_MAX} s here")
    if plan.ipvs_scheduler:
        context = replace(context, scheduler=parse_wish(plan.ipvs_scheduler))
    records: Records = {}
    for port in plan.ports:
        if port.frontends:
            _Port(records, port, plan.affinity_timeout_seconds, context, numbers).render()
    return pack(records)


def render_node(facts: NodeFacts, settings: DataplaneSettings, *, drop_unallocated: bool) -> bytes:
    """The rendering of what belongs to the node: where node ports answer and, if wanted, the service CIDRs."""
    records: Records = {}
    wanted = [("nodes", prefix) for prefix in settings.node_port_addresses]
    wanted += [("cidrs", prefix) for prefix in facts.service_cidrs if drop_unallocated]
    for role, prefix in wanted:
        for element in net_elements(prefix):
            _add(records, Kind.MEMBER, prefix.family, f"{set_name(role, prefix.family)} {element}")
    return pack(records)


def net_elements(prefix: Prefix) -> tuple[str, ...]:
    """A prefix as elements of a set of networks, as ipset prints them."""
    if prefix.length == 0:
        return _EVERYWHERE[prefix.family]
    network = ipaddress.ip_network((prefix.address, prefix.length))
    return (str(network.network_address) if prefix.length == network.max_prefixlen else str(network),)


@dataclass(frozen=True, slots=True)
class _Port:
    """One port of a Service, on its way into `records`."""

    records: Records
    port: ServicePortPlan
    seconds: int
    context: RenderContext
    numbers: Numbers

    def render(self) -> None:
        for frontend in self.port.frontends:
            verdicts = effective(self.port, frontend, self.context.settings)
            if self.seconds:
                self._render_remembering(frontend, verdicts)
            marks = [self._mark(verdict) for verdict in verdicts]
            self._render_elements(frontend, marks)
            if frontend.kind is FrontendKind.CLUSTER_IP:
                element = f"{set_name('vips', self.port.family)} {format_address(frontend.address)}"
                _add(self.records, Kind.SHARED, self.port.family, element)
            if frontend.source_ranges:
                self._render_source_ranges(frontend)

    def _mark(self, verdict: Verdict) -> int:
        if verdict.action is not Action.FORWARD:
            return REJECT_MARK if verdict.action is Action.REJECT else DROP_MARK
        mark = TAKEN | (MASQUERADE if verdict.masquerade else 0)
        if self.seconds:
            return mark
        first = self.port.frontends[0]
        key = first.address + bytes((self.port.protocol,)) + first.port.to_bytes(2)
        mark |= self.numbers.promise(self.port.family, key, verdict.endpoint_set)
        self._render_server(VirtualServerId(self.port.family, mark), verdict.endpoint_set)
        return mark

    def _render_remembering(self, frontend: Frontend, verdicts: tuple[Verdict, ...]) -> None:
        indices = {verdict.endpoint_set for verdict in verdicts if verdict.action is Action.FORWARD}
        if len(indices) > 1:
            raise UnsupportedPlanError(
                "session affinity with different endpoints for different senders (externalTrafficPolicy Local) "
                "cannot be expressed here"
            )
        for index in indices:
            for address in self._addresses(frontend):
                place = VirtualServerId(self.port.family, 0, self.port.protocol, address, frontend.port)
                self._render_server(place, index)

    def _addresses(self, frontend: Frontend) -> Iterator[bytes]:
        if frontend.kind is not FrontendKind.NODE_PORT:
            yield frontend.address
            return
        blocks = [
            ipaddress.ip_network((prefix.address, prefix.length))
            for prefix in self.context.settings.node_port_addresses
            if prefix.family is self.port.family
        ]
        for address in self.context.addresses:
            if len(address) == self.port.family.address_bytes:
                ip = ipaddress.ip_address(address)
                if any(ip in block for block in blocks):
                    yield address

    def _render_server(self, server: VirtualServerId, index: int) -> None:
        if index >= len(self.port.endpoint_sets):
            raise UnsupportedPlanError("a verdict names an endpoint set that is not there")
        endpoints = self.port.endpoint_sets[index]
        weights = _weights(endpoints)
        name, flags = suited_to(self.context.scheduler, weights)
        flags |= ServiceFlags.PERSISTENT if self.seconds else ServiceFlags.NONE
        virtual = VirtualServer(id=server, scheduler=name, flags=flags, timeout_seconds=self.seconds)
        record, value = server_record(virtual, self.port.protocol)
        if record in self.records:
            return
        self.records[record] = value
        for endpoint, weight in zip(endpoints, weights, strict=True):
            record, value = real_record(server, RealServer(RealServerId(endpoint.address, endpoint.port), weight))
            self.records[record] = value
            if endpoint.hairpin:
                address = format_address(endpoint.address)
                element = f"{address},{WORDS[self.port.protocol]}:{endpoint.port},{address}"
                _add(self.records, Kind.SHARED, self.port.family, f"{set_name('hairpin', self.port.family)} {element}")

        chosen = {endpoint[:2] for endpoint in endpoints}
        for endpoint in self.port.also_serving:
            if endpoint[:2] not in chosen:
                # Weight 0: it keeps the flows it has and gets no other.
                record, value = real_record(server, RealServer(RealServerId(endpoint.address, endpoint.port), 0))
                self.records[record] = value

    def _render_elements(self, frontend: Frontend, marks: list[int]) -> None:
        """In all three sets or in one: a pod that has an address of this host must not fall to the host's verdict."""
        classes = zip(CLASSES, marks, strict=True) if len(set(marks)) > 1 else ((CLASSES[0], marks[0]),)
        family, protocol = self.port.family, self.port.protocol
        for name, mark in classes:
            for element in frontend_elements(frontend, protocol, family):
                role = f"ports-{name}" if frontend.kind is FrontendKind.NODE_PORT else name
                key = Id(Kind.MEMBER, family, f"{set_name(role, family)} {element}".encode())
                if key in self.records:
                    raise UnsupportedPlanError(f"two frontends of the service are the same: {element}")
                self.records[key] = f"skbmark 0x{mark:x}".encode()

    def _render_source_ranges(self, frontend: Frontend) -> None:
        if frontend.kind is FrontendKind.NODE_PORT:
            raise UnsupportedPlanError("node ports have no source ranges")
        family = self.port.family
        (place,) = frontend_elements(frontend, self.port.protocol, family)
        for prefix in frontend.source_ranges:
            for element in net_elements(prefix):
                _add(self.records, Kind.MEMBER, family, f"{set_name('allowed', family)} {place},{element}")
        _add(self.records, Kind.MEMBER, family, f"{set_name('limited', family)} {place}")


def frontend_elements(frontend: Frontend, protocol: Protocol, family: Family) -> tuple[str, ...]:
    """A frontend as elements of the sets of its kind."""
    port = f"{WORDS[protocol]}:{frontend.port}"
    if frontend.kind is FrontendKind.NODE_PORT:
        return tuple(f"{half},{port}" for half in _EVERYWHERE[family])
    return (f"{format_address(frontend.address)},{port}",)


def effective(port: ServicePortPlan, frontend: Frontend, settings: DataplaneSettings) -> tuple[Verdict, ...]:
    """Verdicts of CLASSES after the node's settings."""
    pod, host, others = frontend.from_pod, frontend.from_host, frontend.from_outside
    detects = settings.detects(port.family)
    if frontend.kind is not FrontendKind.CLUSTER_IP:
        return others, (pod if detects else others), host
    if not detects:
        host = others = pod
    if settings.masquerade_all:
        return tuple(
            each._replace(masquerade=True) if each.action is Action.FORWARD else each for each in (others, pod, host)
        )
    return others, pod, host


def _weights(endpoints: tuple[PlanEndpoint, ...]) -> list[int]:
    weights = [endpoint.weight for endpoint in endpoints]
    if min(weights) < 1 or max(weights) > WEIGHT_MAX:
        raise UnsupportedPlanError(f"an endpoint has a weight of 1 to {WEIGHT_MAX} here")
    return weights


def _add(records: Records, kind: Kind, family: Family, key: str) -> None:
    records[Id(kind, family, key.encode())] = b""
