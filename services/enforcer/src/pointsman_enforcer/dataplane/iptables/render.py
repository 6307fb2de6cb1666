# SPDX-License-Identifier: Apache-2.0
"""ServicePlan -> records: a translation, with no policy in it. Pure.

Rules are text exactly as `iptables-save` prints it, which both takes and shows them: so what a restarted enforcer finds
can be compared with what it wants, and a version of the tool that prints otherwise only costs writing them once more.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.iptables.layout import (
    Id,
    Kind,
    Records,
    endpoint_chain,
    frontend_key,
    memory_name,
    pack,
)
from pointsman_enforcer.dataplane.iptables.static import DROP, MARK, REJECT, from_pods, set_name
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
ENDPOINTS_MAX: Final = 1 << 16
"""Of one set. Each is a rule."""
SECONDS_MAX: Final = 2147483
"""Longest timeout of an ipset element."""
_ONE: Final = 0x80000000
"""The kernel's unit of probability."""
_LOCAL: Final = "-m addrtype --src-type LOCAL "


class Memories(NamedTuple):
    """Sets of remembered clients: of an endpoint set's endpoints, and of all others of the port."""

    own: tuple[str, ...]
    others: tuple[str, ...]


def render_service(plan: ServicePlan, settings: DataplaneSettings, families: Sequence[Family] = tuple(Family)) -> bytes:
    """The rendering of a service, for the families that this host has.

    Raises:
        UnsupportedPlanError: the plan cannot be expressed here.
    """
    missing = sorted(set(plan.required_capabilities) - CAPABILITIES)
    if missing:
        raise UnsupportedPlanError(f"the plan requires {', '.join(missing)}, which this dataplane lacks")
    records: Records = {}
    ports = [port for port in plan.ports if port.family in families]
    for port in ports:
        if port.frontends:
            _render_port(records, port, plan.affinity_timeout_seconds, settings)
    if plan.health_check is not None and plan.health_check.node_port:
        for family in {port.family for port in ports}:
            _add(records, Kind.SHARED, family, f"{set_name('health', family)} {plan.health_check.node_port}")
    return pack(records)


def render_node(
    facts: NodeFacts,
    settings: DataplaneSettings,
    families: Sequence[Family] = tuple(Family),
    *,
    drop_unallocated: bool,
) -> bytes:
    """The rendering of what belongs to the node: where node ports answer and, if wanted, the service CIDRs."""
    records: Records = {}
    wanted = [("nodes", prefix) for prefix in settings.node_port_addresses]
    wanted += [("cidrs", prefix) for prefix in facts.service_cidrs if drop_unallocated]
    for role, prefix in wanted:
        if prefix.family not in families:
            continue
        for element in net_elements(prefix):
            _add(records, Kind.MEMBER, prefix.family, f"{set_name(role, prefix.family)} {element}")
    return pack(records)


def net_elements(prefix: Prefix) -> list[str]:
    """A prefix as elements of a set of networks, which cannot hold one of length zero, and prints whole addresses."""
    network = ipaddress.ip_network((prefix.address, prefix.length))
    if prefix.length == 0:
        return [str(half) for half in network.subnets()]
    return [str(network.network_address)] if prefix.length == network.max_prefixlen else [str(network)]


def endpoint_rules(
    protocol: Protocol, endpoints: Sequence[PlanEndpoint], memories: Memories, seconds: int
) -> list[str]:
    """The rules of an endpoint set's chain.

    Who is remembered is in one of the memories: its time begins anew and it goes there. Anybody else is taken out of
    those of other endpoints of the port, entered into one of these by lot, and goes where it was entered: so nobody is
    ever in two. The last rule is for a memory that is full.
    """
    word = WORDS[protocol]
    directions = [f"-j DNAT --to-destination {_place(each.address, each.port)}" for each in endpoints]
    odds = list(_odds([each.weight for each in endpoints]))
    if not memories.own:
        return [f"-p {word} {odd}{to}" for odd, to in zip(odds, directions, strict=True)]
    known = [f"-m set --match-set {name} src " for name in memories.own]
    notes = [f"-j SET --add-set {name} src --exist --timeout {seconds}" for name in memories.own]
    rules = []
    for match, note, to in zip(known, notes, directions, strict=True):
        rules += [f"{match}{note}", f"-p {word} {match}{to}"]
    rules += [f"-j SET --del-set {name} src" for name in memories.others]
    for odd, match, note, to in zip(odds, known, notes, directions, strict=True):
        rules += [f"{odd}{note}", f"-p {word} {match}{to}"]
    return [*rules, f"-p {word} {directions[-1]}"]


def _render_port(records: Records, port: ServicePortPlan, seconds: int, settings: DataplaneSettings) -> None:
    family = port.family
    keys = [frontend_key(frontend.address, port.protocol, frontend.port) for frontend in port.frontends]
    used = {
        verdict.endpoint_set
        for frontend in port.frontends
        for verdict in (frontend.from_pod, frontend.from_host, frontend.from_outside)
        if verdict.action is Action.FORWARD
    }
    for name in _names(family, keys[0], [each for of in port.endpoint_sets for each in of]) if seconds else ():
        records[Id(Kind.MEMORY, family, name.encode())] = b""
    chains: dict[int, str] = {}
    for index in sorted(used):
        if index >= len(port.endpoint_sets):
            raise UnsupportedPlanError("a verdict names an endpoint set that is not there")
        chains[index] = _render_set(records, port, index, keys[0], seconds)
    for frontend, key in zip(port.frontends, keys, strict=True):
        record = Id(Kind.FRONTEND, family, key)
        if record in records:
            raise UnsupportedPlanError(f"two frontends of the service have the same key {key.hex()}")
        records[record] = "\n".join(_frontend_rules(port, frontend, chains, settings)).encode()
        if frontend.kind is FrontendKind.CLUSTER_IP:
            for role in ("vips", "closed"):
                _add(records, Kind.SHARED, family, f"{set_name(role, family)} {format_address(frontend.address)}")
        if frontend.source_ranges:
            _render_source_ranges(records, port, frontend)


def _render_set(records: Records, port: ServicePortPlan, index: int, first: bytes, seconds: int) -> str:
    """An endpoint set; the name of its chain."""
    endpoints = port.endpoint_sets[index]
    if not 0 < len(endpoints) <= ENDPOINTS_MAX:
        raise UnsupportedPlanError(f"an endpoint set has 1 to {ENDPOINTS_MAX} endpoints here, not {len(endpoints)}")
    if any(endpoint.weight <= 0 for endpoint in endpoints):
        raise UnsupportedPlanError("an endpoint has a weight of zero or less")
    if seconds > SECONDS_MAX:
        raise UnsupportedPlanError(f"a client is remembered for at most {SECONDS_MAX} s here, not {seconds}")
    family, word = port.family, WORDS[port.protocol]
    chain = endpoint_chain(family, first, index)
    memories = _memories(port, index, first) if seconds else Memories((), ())
    rules = endpoint_rules(port.protocol, endpoints, memories, seconds)
    records[Id(Kind.ENDPOINTS, family, chain.encode())] = "\n".join(rules).encode()
    for endpoint in endpoints:
        if endpoint.hairpin:
            address = format_address(endpoint.address)
            element = f"{address},{word}:{endpoint.port},{address}"
            _add(records, Kind.SHARED, family, f"{set_name('hairpin', family)} {element}")
    return chain


def _memories(port: ServicePortPlan, index: int, first: bytes) -> Memories:
    own = _names(port.family, first, port.endpoint_sets[index])
    known = dict.fromkeys(name for each in port.endpoint_sets for name in _names(port.family, first, each))
    return Memories(own, tuple(name for name in known if name not in own))


def _names(family: Family, first: bytes, endpoints: Sequence[PlanEndpoint]) -> tuple[str, ...]:
    return tuple(memory_name(family, first, each.address + each.port.to_bytes(2)) for each in endpoints)


def _frontend_rules(
    port: ServicePortPlan, frontend: Frontend, chains: dict[int, str], settings: DataplaneSettings
) -> Iterator[str]:
    """Pods first, whatever their address, then this host, then everybody; equal verdicts need no question."""
    word = WORDS[port.protocol]
    destination = f"-d {format_address(frontend.address)}/{port.family.address_bytes * 8} " if frontend.address else ""
    service = f"-p {word} -m {word} --dport {frontend.port} "
    pod, host, others = _effective(frontend, settings, port.family)
    if not pod == host == others:
        pods = from_pods(settings, port.family)
        if pods is not None:
            yield from _verdict_rules(f"{pods[0]}{destination}{pods[1]}{service}", pod, chains)
        yield from _verdict_rules(f"{destination}{service}{_LOCAL}", host, chains)
    yield from _verdict_rules(f"{destination}{service}", others, chains)


def _effective(frontend: Frontend, settings: DataplaneSettings, family: Family) -> tuple[Verdict, Verdict, Verdict]:
    """Verdicts by class after the node's settings: who cannot be told from others is treated as they are.

    A static rule masquerades what is not from a pod on its way to a cluster IP, so verdicts there leave it out.
    """
    pod, host, others = frontend.from_pod, frontend.from_host, frontend.from_outside
    detects = settings.detects(family)
    if frontend.kind is not FrontendKind.CLUSTER_IP:
        return (pod if detects else others), host, others
    if not detects:
        host = others = pod
    elif not settings.masquerade_all:
        for verdict in (host, others):
            if verdict.action is Action.FORWARD and not verdict.masquerade:
                raise UnsupportedPlanError(
                    f"{format_address(frontend.address)}: traffic that is not from a pod is always masqueraded on its "
                    "way to a cluster IP, and the plan says it must not be"
                )
    if settings.masquerade_all:
        return pod._replace(masquerade=False), host._replace(masquerade=False), others._replace(masquerade=False)
    return (
        pod,
        (host._replace(masquerade=False) if detects else host),
        (others._replace(masquerade=False) if detects else others),
    )


def _verdict_rules(match: str, verdict: Verdict, chains: dict[int, str]) -> Iterator[str]:
    if verdict.action is not Action.FORWARD:
        yield f"{match}-g {REJECT if verdict.action is Action.REJECT else DROP}"
        return
    if verdict.masquerade:
        yield f"{match}-j {MARK}"
    yield f"{match}-g {chains[verdict.endpoint_set]}"


def _render_source_ranges(records: Records, port: ServicePortPlan, frontend: Frontend) -> None:
    if frontend.kind is FrontendKind.NODE_PORT:
        raise UnsupportedPlanError("node ports have no source ranges")
    place = f"{format_address(frontend.address)},{WORDS[port.protocol]}:{frontend.port}"
    for prefix in frontend.source_ranges:
        for element in net_elements(prefix):
            _add(records, Kind.MEMBER, port.family, f"{set_name('allowed', port.family)} {place},{element}")
    _add(records, Kind.MEMBER, port.family, f"{set_name('limited', port.family)} {place}")


def _odds(weights: Sequence[int]) -> Iterator[str]:
    """The match that gives each endpoint its share of what the ones before it left, to 2^-31."""
    left = sum(weights)
    for weight in weights[:-1]:
        probability = round(_ONE * weight / left) / _ONE
        left -= weight
        yield f"-m statistic --mode random --probability {probability:.11f} "
    yield ""


def _place(address: bytes, port: int) -> str:
    text = format_address(address)
    return f"[{text}]:{port}" if len(address) == Family.IPV6.address_bytes else f"{text}:{port}"


def _add(records: Records, kind: Kind, family: Family, key: str) -> None:
    records[Id(kind, family, key.encode())] = b""
