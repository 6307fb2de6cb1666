# SPDX-License-Identifier: Apache-2.0
"""What overrides do to a Service: a pure step between the join with its slices and the choice of endpoints.

Kinds are applied in one order, whoever made the overrides and whenever; each works on what the ones before it left:

    kind      does                                              becomes                       two on one endpoint
    register  adds an endpoint that no slice lists              ready                         lower name counts
    pin       keeps new connections from all that match none    not ready, serving            must match both
    drain     keeps new connections from those that match       not ready, serving,           either drains
                                                                terminating
    weight    0: as drain; else its share of new connections    weight                        lower name counts

So a drained endpoint is exactly a terminating one: existing flows go on, a set without ready endpoints falls back to
it, health checks do not count it. One that is pinned out is used by nobody new, not even as a fallback. An endpoint
that was not usable before stays so: an override chooses among what the cluster offers and makes no endpoint healthy.

The result depends on the set of overrides alone, so every planner makes equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import gcd

from pointsman_model.affinity import BUCKET_COUNTS, BUCKETS_PER_SHARE
from pointsman_model.cluster import Service
from pointsman_model.names import Prefix, family_of
from pointsman_planner.core.override import Drain, Override, Pin, Register, Selector, Weight
from pointsman_planner.core.service_state import (
    PortEndpoint,
    PortState,
    ServiceState,
    captured_load_balancer_ips,
    is_usable,
    named_in,
)

REGISTERED_MAX = 1000
"""Most endpoints that are registered for one ServicePort, whatever the number of overrides."""
SLOTS_MAX = 4096
"""Most shares of one ServicePort, if it has fewer endpoints: a node has a table entry for each share and frontend."""
_ELEMENTS_MAX = 1 << 17
"""Table entries of weights that one Service may cost a node: half of what the enforcer programs for one."""
_SETS_MAX = 2
"""Endpoint sets that one frontend uses: for Cluster and for Local policy."""


def apply_overrides(
    state: ServiceState, overrides: Iterable[Override], reserved: Sequence[Prefix] = ()
) -> ServiceState:
    """The state with overrides applied; those of other Services do nothing.

    Args:
        state: the Service joined with its slices, without overrides.
        overrides: any, in any order.
        reserved: blocks in which no registered endpoint may be: the service CIDRs.
    """
    held = sorted((each for each in overrides if each.concerns(state.key)), key=lambda each: each.key)
    if not held:
        return state
    refused = (*reserved, *own_addresses(state.service))
    slots = slots_max(state)
    ports = tuple(_apply_to_port(port, held, refused, slots) for port in state.ports)
    nodes, zones = named_in(ports)
    return replace(state, ports=ports, named_nodes=nodes, hinted_zones=zones)


def own_addresses(service: Service) -> tuple[Prefix, ...]:
    """Where a Service answers, as blocks: an endpoint there would forward to itself."""
    balancer = (ip.address for ip in service.load_balancer_ips)
    addresses = {*service.cluster_ips, *service.external_ips, *balancer}
    return tuple(Prefix(address, family_of(address).address_bits) for address in sorted(addresses))


def slots_max(state: ServiceState) -> int:
    """Shares that weights may add up to in one ServicePort, so that no node refuses the Service because of them.

    With session affinity a node has a table for each port and set instead of each frontend, of a size that is a prime.
    """
    if state.service.affinity_timeout_seconds:
        tables = max(len(state.ports), 1) * _SETS_MAX
        fitting = [count for count in BUCKET_COUNTS[:-1] if count * tables <= _ELEMENTS_MAX]
        return (fitting or BUCKET_COUNTS)[-1 if fitting else 0] // BUCKETS_PER_SHARE
    frontends = sum(_frontends(state.service, port) for port in state.ports)
    return max(min(SLOTS_MAX, _ELEMENTS_MAX // (_SETS_MAX * max(frontends, 1))), 1)


def _frontends(service: Service, port: PortState) -> int:
    family = port.family
    cluster = sum(len(address) == family.address_bytes for address in service.cluster_ips)
    external = sum(len(address) == family.address_bytes for address in service.external_ips)
    return cluster + external + len(captured_load_balancer_ips(service, family)) + bool(port.node_port)


def _apply_to_port(port: PortState, held: list[Override], refused: Sequence[Prefix], slots: int) -> PortState:
    endpoints = _register(port, held, refused)
    for each in held:
        if isinstance(each.kind, Pin):
            endpoints = _hold_back(endpoints, each, _is_outside(each.kind), is_fallback=False)
    for each in held:
        if isinstance(each.kind, Drain):
            endpoints = _hold_back(endpoints, each, each.kind.endpoints.matches, is_fallback=True)
    endpoints = _weigh(endpoints, [(each, each.kind) for each in held if isinstance(each.kind, Weight)], slots)
    return replace(port, endpoints=tuple(endpoints)) if endpoints != list(port.endpoints) else port


def _register(port: PortState, held: list[Override], refused: Sequence[Prefix]) -> list[PortEndpoint]:
    added: dict[tuple[bytes, int], PortEndpoint] = {}
    listed = {(e.address, e.port) for e in port.endpoints}
    for each in held:
        if not isinstance(each.kind, Register):
            continue
        for endpoint in _registered(each.kind, port, refused):
            pair = (endpoint.address, endpoint.port)
            if pair not in listed and len(added) < REGISTERED_MAX:
                added.setdefault(pair, endpoint)
    return sorted((*port.endpoints, *added.values()), key=lambda e: e[:2]) if added else list(port.endpoints)


def _registered(kind: Register, port: PortState, refused: Sequence[Prefix]) -> Iterable[PortEndpoint]:
    numbers = [p.port for p in kind.ports if p.name == port.name and p.protocol is port.protocol]
    for endpoint in kind.endpoints:
        address = endpoint.address
        if family_of(address) is port.family and not any(prefix.contains(address) for prefix in refused):
            for number in numbers:
                yield PortEndpoint(
                    address, number, node_name=endpoint.node_name or None, zone_hints=endpoint.zone_hints
                )


def _is_outside(pin: Pin) -> Callable[[PortEndpoint], bool]:
    return lambda endpoint: not _matches_any(pin.endpoints, endpoint)


def _matches_any(selectors: Iterable[Selector], endpoint: PortEndpoint) -> bool:
    return any(selector.matches(endpoint) for selector in selectors)


def _hold_back(
    endpoints: list[PortEndpoint], by: Override, is_meant: Callable[[PortEndpoint], bool], *, is_fallback: bool
) -> list[PortEndpoint]:
    return [_held_back(e, by, is_fallback=is_fallback) if is_usable(e) and is_meant(e) else e for e in endpoints]


def _held_back(endpoint: PortEndpoint, by: Override, *, is_fallback: bool) -> PortEndpoint:
    """The endpoint without new connections; the first override that holds it back is named."""
    word = "pinned out" if not is_fallback else "drained"
    return endpoint._replace(
        ready=False,
        serving=True,
        terminating=is_fallback,
        held_back=endpoint.held_back or f"{word} by override {by.key} of {by.owner}",
    )


def _weigh(endpoints: list[PortEndpoint], weights: Sequence[tuple[Override, Weight]], slots: int) -> list[PortEndpoint]:
    if not weights:
        return endpoints
    weighed = [_weighed(e, weights) for e in endpoints]
    shares = shares_of([e.weight for e in weighed if is_usable(e)], slots)
    numbers = iter(shares)
    return [e._replace(weight=next(numbers)) if is_usable(e) else e for e in weighed]


def _weighed(endpoint: PortEndpoint, weights: Sequence[tuple[Override, Weight]]) -> PortEndpoint:
    for override, kind in weights:
        for rule in kind.rules:
            if rule.endpoints.matches(endpoint):
                if rule.weight:
                    return endpoint._replace(weight=rule.weight)
                return _held_back(endpoint, override, is_fallback=True) if is_usable(endpoint) else endpoint
    return endpoint


def shares_of(weights: Sequence[int], slots: int) -> list[int]:
    """Weights in lowest terms; scaled down, each at least 1, where they add up to more than `slots`."""
    if not weights:
        return []
    divisor = gcd(*weights)
    shares = [weight // divisor for weight in weights]
    total, count = sum(shares), len(shares)
    spare = slots - count
    if total <= slots:
        return shares
    if spare <= 0:
        return [1] * count
    return [1 + (share - 1) * spare // (total - count) for share in shares]
