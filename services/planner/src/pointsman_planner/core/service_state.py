# SPDX-License-Identifier: Apache-2.0
"""A Service joined with its EndpointSlices: all a plan of it can be computed from, independent of any node.

The join follows kube-proxy: a ServicePort takes the slice ports of the same name and protocol (targetPort is never
read), a family takes the slices of that family, and the union over slices is keyed by address and port. Where two
slices name the same pair, the endpoint that can serve wins, whichever slice arrived first: a running pod beats a
terminating one that still holds the address, a ready one beats one that is not, and what is left is decided by the
names of the slices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pointsman_model.cluster import Endpoint, EndpointSlice, LoadBalancerMode, Service, ServicePort, SliceKey
from pointsman_model.names import Family, Prefix, Protocol, ServiceKey, family_of, make_prefix


class PortEndpoint(NamedTuple):
    """One endpoint of a ServicePort; sorts by address, then port."""

    address: bytes
    port: int
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str | None = None
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()
    target_name: str = ""
    """Name of the object behind it; empty when there is none."""
    weight: int = 1
    """Shares of new connections, at least 1."""
    held_back: str = ""
    """Which override keeps new connections from it, for people; empty = none does."""


def is_usable(endpoint: PortEndpoint) -> bool:
    """Whether new connections may be given to it, if only as a fallback."""
    return endpoint.ready or (endpoint.serving and endpoint.terminating)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortState:
    """One ServicePort in one family, with its endpoints."""

    name: str
    protocol: Protocol
    family: Family
    port: int
    node_port: int
    endpoints: tuple[PortEndpoint, ...]
    """Sorted by address, then port, without duplicates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """A Service with everything that was derived from it and its slices."""

    service: Service
    ports: tuple[PortState, ...]
    """Sorted by name, protocol, family."""
    named_nodes: frozenset[str]
    """Nodes that an endpoint or a node hint names: only they can have a view of their own."""
    hinted_zones: frozenset[str]
    """Zones that a zone hint names: only they can have a view of their own."""
    source_ranges: tuple[Prefix, ...]
    """loadBalancerSourceRanges that filter anything: empty when the Service has no load balancer IP; sorted."""

    @property
    def key(self) -> ServiceKey:
        """Key of the Service."""
        return self.service.key


def join(service: Service, slices: Iterable[EndpointSlice]) -> ServiceState:
    """Join a Service with its slices; the result does not depend on their order."""
    ordered = sorted(slices, key=lambda item: item.key)
    families = sorted({family_of(address) for address in service.cluster_ips})
    ports = [_port_state(port, family, ordered) for port in service.ports for family in families]
    ports.sort(key=lambda port: (port.name, port.protocol, port.family))
    nodes, zones = named_in(ports)
    return ServiceState(
        service=service,
        ports=tuple(ports),
        named_nodes=nodes,
        hinted_zones=zones,
        source_ranges=_source_ranges(service),
    )


def named_in(ports: Iterable[PortState]) -> tuple[frozenset[str], frozenset[str]]:
    """Nodes that endpoints or node hints name, and zones that zone hints name."""
    nodes: set[str] = set()
    zones: set[str] = set()
    for port in ports:
        for endpoint in port.endpoints:
            if endpoint.node_name is not None:
                nodes.add(endpoint.node_name)
            nodes.update(endpoint.node_hints)
            zones.update(endpoint.zone_hints)
    return frozenset(nodes), frozenset(zones)


def captured_load_balancer_ips(service: Service, family: Family) -> tuple[bytes, ...]:
    """Load balancer addresses of a family that nodes capture: ipMode Proxy ones are not ours."""
    return tuple(
        ip.address
        for ip in service.load_balancer_ips
        if ip.mode is LoadBalancerMode.VIP and len(ip.address) == family.address_bytes
    )


def endpoint_rank(endpoint: Endpoint, name: SliceKey, index: int) -> tuple[bool, bool, bool, SliceKey, int]:
    """Of the endpoints that slices have for one address and port, the lowest counts; `index`: place in its slice."""
    return (endpoint.terminating, not endpoint.ready, not endpoint.serving, name, index)


def _port_state(port: ServicePort, family: Family, slices: list[EndpointSlice]) -> PortState:
    best: dict[tuple[bytes, int], tuple[tuple[bool, bool, bool, SliceKey, int], PortEndpoint]] = {}
    for item in slices:
        if item.family is not family:
            continue
        numbers = {p.port for p in item.ports if p.name == port.name and p.protocol is port.protocol and p.port}
        for number in sorted(numbers):
            for index, e in enumerate(item.endpoints):
                rank = endpoint_rank(e, item.key, index)
                pair = (e.address, number)
                held = best.get(pair)
                if held is None or rank < held[0]:
                    best[pair] = (
                        rank,
                        PortEndpoint(
                            e.address,
                            number,
                            e.ready,
                            e.serving,
                            e.terminating,
                            e.node_name,
                            e.zone_hints,
                            e.node_hints,
                            e.target.name if e.target is not None else "",
                        ),
                    )
    return PortState(
        name=port.name,
        protocol=port.protocol,
        family=family,
        port=port.port,
        node_port=port.node_port,
        endpoints=tuple(best[pair][1] for pair in sorted(best)),
    )


def _source_ranges(service: Service) -> tuple[Prefix, ...]:
    """Ranges by family; a family with a /0, or whose Service captures no load balancer IP there, is not filtered."""
    kept: set[Prefix] = set()
    for family in Family:
        ranges = {make_prefix(*prefix) for prefix in service.load_balancer_source_ranges if prefix.family is family}
        if captured_load_balancer_ips(service, family) and not any(prefix.length == 0 for prefix in ranges):
            kept |= ranges
    return tuple(sorted(kept))
