# SPDX-License-Identifier: Apache-2.0
"""Who owns an address and port that several Services ask for.

kube-proxy lets the last writer win, in map order. Here the owner is a pure function of what the Services say now, so
every planner decides alike, a restart changes nothing, and dataplanes never see a conflict:

1. a cluster IP beats a load balancer IP beats an external IP. The API server allocates cluster IPs uniquely and only
   a controller may write load balancer status, but any author of a Service may write an external IP: ranking it last
   means that nobody can take over another Service's address with one (CVE-2020-8554).
2. then the lowest namespace, then name. The contract carries no creation time, and a rule that depended on who was
   seen first would differ between planners.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pointsman_model.names import Family, Protocol, ServiceKey, family_of, format_address
from pointsman_model.plan import FrontendKind
from pointsman_planner.core.service_state import ServiceState, captured_load_balancer_ips


class Claim(NamedTuple):
    """A place where packets arrive; the address is empty for a node port."""

    address: bytes
    family: Family
    protocol: Protocol
    port: int

    def __str__(self) -> str:
        address = format_address(self.address) if self.address else f"node port ({self.family.name})"
        return f"{address} {self.protocol.name} {self.port}"


class Claimant(NamedTuple):
    """Who asks; the lowest one owns."""

    rank: int
    service: ServiceKey
    kind: FrontendKind


_RANK = {
    FrontendKind.CLUSTER_IP: 0,
    FrontendKind.NODE_PORT: 0,
    FrontendKind.LOAD_BALANCER_IP: 1,
    FrontendKind.EXTERNAL_IP: 2,
}


def claims_of(state: ServiceState) -> dict[Claim, Claimant]:
    """Everything a service asks for; where it asks twice for one place, the kind with the better rank counts."""
    asked: dict[Claim, Claimant] = {}
    service = state.service
    for port in state.ports:
        for address, kind in _addresses(state, port.family):
            claim = Claim(address, port.family, port.protocol, port.port)
            claimant = Claimant(_RANK[kind], service.key, kind)
            asked[claim] = min(claimant, asked.get(claim, claimant))
        if port.node_port:
            claim = Claim(b"", port.family, port.protocol, port.node_port)
            asked[claim] = Claimant(_RANK[FrontendKind.NODE_PORT], service.key, FrontendKind.NODE_PORT)
    return asked


def _addresses(state: ServiceState, family: Family) -> list[tuple[bytes, FrontendKind]]:
    service = state.service
    found = [(ip, FrontendKind.CLUSTER_IP) for ip in service.cluster_ips if family_of(ip) is family]
    found += [(ip, FrontendKind.LOAD_BALANCER_IP) for ip in captured_load_balancer_ips(service, family)]
    found += [(ip, FrontendKind.EXTERNAL_IP) for ip in service.external_ips if family_of(ip) is family]
    return found


class ClaimTable:
    """All claims of all services. A place with one claimant costs one dict entry; contested ones are kept beside."""

    __slots__ = ("_contested", "_owner")

    def __init__(self) -> None:
        self._owner: dict[Claim, Claimant] = {}
        self._contested: dict[Claim, list[Claimant]] = {}

    def owner(self, claim: Claim) -> Claimant | None:
        """Who owns a place; None when nobody asks for it."""
        return self._owner.get(claim)

    def lost(self, service: ServiceKey, claims: Iterable[Claim]) -> frozenset[Claim]:
        """Those of a service's claims that another service owns."""
        if not self._contested:
            return frozenset()
        return frozenset(
            claim for claim in claims if claim in self._contested and self._owner[claim].service != service
        )

    def update(self, old: dict[Claim, Claimant], new: dict[Claim, Claimant]) -> set[ServiceKey]:
        """Exchange one service's claims; the other services that won or lost a place thereby."""
        changed: set[ServiceKey] = set()
        for claim, claimant in old.items():
            if new.get(claim) != claimant:
                changed |= self._withdraw(claim, claimant)
        for claim, claimant in new.items():
            if old.get(claim) != claimant:
                changed |= self._enter(claim, claimant)
        changed.difference_update(claimant.service for claimant in (*old.values(), *new.values()))
        return changed

    def _enter(self, claim: Claim, claimant: Claimant) -> set[ServiceKey]:
        owner = self._owner.get(claim)
        if owner is None:
            self._owner[claim] = claimant
            return set()
        contestants = self._contested.setdefault(claim, [owner])
        contestants.append(claimant)
        return self._decide(claim, owner)

    def _withdraw(self, claim: Claim, claimant: Claimant) -> set[ServiceKey]:
        contestants = self._contested.get(claim)
        if contestants is None:
            del self._owner[claim]
            return set()
        contestants.remove(claimant)
        changed = self._decide(claim, self._owner[claim])
        if len(contestants) == 1:
            del self._contested[claim]
        return changed

    def _decide(self, claim: Claim, before: Claimant) -> set[ServiceKey]:
        after = min(self._contested[claim])
        self._owner[claim] = after
        return set() if after == before else {before.service, after.service}
