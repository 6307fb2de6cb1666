# SPDX-License-Identifier: Apache-2.0
"""Where a packet goes, by the plan alone: the reference that every dataplane is measured against.

`trace_packet` is what a correct backend does with a node's plan and settings, in the order in which it does it:

    virtual IP (cluster, external, load balancer) -> node port -> cluster IP, other port -> unallocated -> not ours

It is pure, so the control API explains packets with it and the conformance suite runs its table through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from pointsman_model.names import Protocol, ServiceKey, family_of, format_address, is_loopback
from pointsman_model.plan import (
    Action,
    DataplaneSettings,
    DetectLocal,
    Frontend,
    FrontendKind,
    NodePlan,
    PlanEndpoint,
    ServicePortPlan,
    TrafficClass,
    Verdict,
)


class Fate(IntEnum):
    """What happens to a packet (equals `pointsman.control.v1.ExplainPacketResponse.Outcome`)."""

    FORWARD = 1
    REJECT = 2
    DROP = 3
    NONE = 4
    """Not ours: the packet goes on untouched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A packet that opens a connection, as the node that handles it sees it."""

    source: bytes
    destination: bytes
    destination_port: int
    protocol: Protocol = Protocol.TCP
    sender: TrafficClass | None = None
    """Who sends it, if the caller knows; None = decide by settings, interface and source address."""
    interface: str = ""
    """Interface it came in on, for the interface detectors."""
    destination_is_local: bool | None = None
    """Whether the node has the destination address; None = decide by the addresses in the node's facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One endpoint that may be chosen; `masquerade` says whether it sees a node address as its client."""

    address: bytes
    port: int
    weight: int
    masquerade: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Where the packet goes, and why: `reasons` has one step a line, in the order in which they were taken."""

    fate: Fate
    reasons: tuple[str, ...]
    candidates: tuple[Candidate, ...] = ()
    service: ServiceKey | None = None
    port_name: str = ""
    frontend: Frontend | None = None


@dataclass(frozen=True, slots=True)
class _Match:
    key: ServiceKey
    port: ServicePortPlan
    frontend: Frontend


def trace_packet(plan: NodePlan, settings: DataplaneSettings, packet: Packet) -> Outcome:
    """The fate of `packet` on the node whose plan and settings these are.

    Raises:
        ValueError: an address has neither 4 nor 16 bytes, or source and destination are of different families.
    """
    if family_of(packet.source) is not family_of(packet.destination):
        raise ValueError("source and destination are of different families")
    steps: list[str] = []
    sender = _sender(plan, settings, packet, steps)
    match = _find_virtual_ip(plan, packet) or _find_node_port(plan, settings, packet, steps)
    if match is not None:
        return _follow(match, sender, settings, packet, steps)
    target = format_address(packet.destination)
    owner = _cluster_ip_owner(plan, packet.destination)
    if owner is not None:
        port = f"{packet.protocol.name} {packet.destination_port}"
        steps.append(f"{target} is the cluster IP of {owner}, which has no port {port}: rejected")
        return Outcome(fate=Fate.REJECT, reasons=tuple(steps), service=owner)
    if any(prefix.contains(packet.destination) for prefix in plan.facts.service_cidrs):
        steps.append(f"{target} is within a service CIDR, and no service has it: dropped")
        return Outcome(fate=Fate.DROP, reasons=tuple(steps))
    steps.append(f"{target} is no address of a service: left alone")
    return Outcome(fate=Fate.NONE, reasons=tuple(steps))


def _sender(plan: NodePlan, settings: DataplaneSettings, packet: Packet, steps: list[str]) -> TrafficClass:
    if packet.sender is not None:
        steps.append(f"sender: {packet.sender.name.lower()}, as the caller says")
        return packet.sender
    sender, reason = TrafficClass.OUTSIDE, "neither a pod by the detector nor an address of the node"
    if _is_detected(settings, packet):
        sender, reason = TrafficClass.POD, f"detected as local by {settings.detect_local.name}"
    elif packet.source in plan.facts.addresses or is_loopback(packet.source):
        sender, reason = TrafficClass.HOST, f"{format_address(packet.source)} is an address of the node"
    steps.append(f"sender: {sender.name.lower()}, {reason}")
    return sender


def _is_detected(settings: DataplaneSettings, packet: Packet) -> bool:
    if settings.detect_local is DetectLocal.CIDR:
        return any(prefix.contains(packet.source) for prefix in settings.detect_local_cidrs)
    if not packet.interface or not settings.detect_local_interface:
        return False
    if settings.detect_local is DetectLocal.BRIDGE_INTERFACE:
        return packet.interface == settings.detect_local_interface
    if settings.detect_local is DetectLocal.INTERFACE_PREFIX:
        return packet.interface.startswith(settings.detect_local_interface)
    return False


def _find_virtual_ip(plan: NodePlan, packet: Packet) -> _Match | None:
    for key, service in plan.services.items():
        for port in service.ports:
            if port.protocol is not packet.protocol:
                continue
            for frontend in port.frontends:
                if frontend.address == packet.destination and frontend.port == packet.destination_port:
                    return _Match(key, port, frontend)
    return None


def _find_node_port(plan: NodePlan, settings: DataplaneSettings, packet: Packet, steps: list[str]) -> _Match | None:
    match = _node_port_match(plan, packet)
    if match is None:
        return None
    destination, port = format_address(packet.destination), packet.destination_port
    is_local = packet.destination_is_local
    if is_local is None:
        is_local = packet.destination in plan.facts.addresses or is_loopback(packet.destination)
    if not is_local:
        steps.append(f"{port} is a node port of {match.key}, but {destination} is not an address of this node")
        return None
    if is_loopback(packet.destination) or not any(
        prefix.contains(packet.destination) for prefix in settings.node_port_addresses
    ):
        steps.append(f"{port} is a node port of {match.key}, but {destination} is not in nodePortAddresses")
        return None
    return match


def _node_port_match(plan: NodePlan, packet: Packet) -> _Match | None:
    family = family_of(packet.destination)
    for key, service in plan.services.items():
        for port in service.ports:
            if port.protocol is not packet.protocol or port.family is not family:
                continue
            for frontend in port.frontends:
                if frontend.kind is FrontendKind.NODE_PORT and frontend.port == packet.destination_port:
                    return _Match(key, port, frontend)
    return None


def _cluster_ip_owner(plan: NodePlan, address: bytes) -> ServiceKey | None:
    for key, service in plan.services.items():
        for port in service.ports:
            for frontend in port.frontends:
                if frontend.kind is FrontendKind.CLUSTER_IP and frontend.address == address:
                    return key
    return None


def _follow(
    match: _Match, sender: TrafficClass, settings: DataplaneSettings, packet: Packet, steps: list[str]
) -> Outcome:
    frontend = match.frontend
    kind = frontend.kind.name.lower().replace("_", " ")
    steps.append(f"{kind} of {match.key}, port {match.port.name or packet.destination_port}/{packet.protocol.name}")
    effective = _effective_class(frontend, sender, settings, match.port, steps)
    verdict = frontend.verdict(effective)
    fate = Fate(verdict.action)
    if frontend.source_ranges and not any(prefix.contains(packet.source) for prefix in frontend.source_ranges):
        steps.append(f"{format_address(packet.source)} is outside the load balancer source ranges: dropped")
        fate = Fate.DROP
    elif verdict.action is Action.REJECT:
        steps.append("no usable endpoint anywhere: rejected")
    elif verdict.action is Action.DROP:
        steps.append("policy asks for local endpoints, and there are only remote ones: dropped")
    candidates: tuple[Candidate, ...] = ()
    if fate is Fate.FORWARD:
        candidates = _candidates(match, verdict, settings, packet, steps)
    return Outcome(
        fate=fate,
        reasons=tuple(steps),
        candidates=candidates,
        service=match.key,
        port_name=match.port.name,
        frontend=frontend,
    )


def _effective_class(
    frontend: Frontend, sender: TrafficClass, settings: DataplaneSettings, port: ServicePortPlan, steps: list[str]
) -> TrafficClass:
    if settings.detects(port.family):
        return sender
    if frontend.kind is FrontendKind.CLUSTER_IP:
        steps.append("no local detector: cluster IP traffic counts as from a pod")
        return TrafficClass.POD
    if sender is TrafficClass.POD:
        steps.append("no local detector: pods cannot be told from outside")
        return TrafficClass.OUTSIDE
    return sender


def _candidates(
    match: _Match, verdict: Verdict, settings: DataplaneSettings, packet: Packet, steps: list[str]
) -> tuple[Candidate, ...]:
    endpoints = match.port.endpoint_sets[verdict.endpoint_set]
    masquerade = verdict.masquerade
    if settings.masquerade_all and match.frontend.kind is FrontendKind.CLUSTER_IP:
        masquerade = True
    steps.append(f"forwarded to one of {len(endpoints)} endpoints{', masqueraded' if masquerade else ''}")
    if not masquerade and any(_is_hairpin(endpoint, packet) for endpoint in endpoints):
        steps.append("the sender is itself an endpoint: masqueraded when chosen (hairpin)")
    return tuple(
        Candidate(
            address=endpoint.address,
            port=endpoint.port,
            weight=endpoint.weight,
            masquerade=masquerade or _is_hairpin(endpoint, packet),
        )
        for endpoint in endpoints
    )


def _is_hairpin(endpoint: PlanEndpoint, packet: Packet) -> bool:
    return endpoint.hairpin and endpoint.address == packet.source
