# SPDX-License-Identifier: Apache-2.0
"""The oracle's half about endpoints: which ones a ServicePort has (A5-A8), and which of them a node uses (C, D)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from conformance.oracle_addresses import Address, parse_address


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address and port of one ServicePort."""

    address: Address
    port: int
    is_ready: bool
    is_serving: bool
    is_terminating: bool
    node_name: str | None
    zone_hints: frozenset[str]
    node_hints: frozenset[str]

    @property
    def is_fallback(self) -> bool:
        """C2: of use as long as no ready one is there."""
        return not self.is_ready and self.is_serving and self.is_terminating

    def may_be_on(self, node_name: str) -> bool:
        """Whether what it sends may come from this node: it is here, or its slice does not say where it is."""
        return self.node_name is None or self.node_name == node_name


class Policies(NamedTuple):
    """What decides which sets a ServicePort has."""

    internal_local: bool
    external_local: bool
    is_external: bool

    @property
    def uses_local(self) -> bool:
        """C1."""
        return self.internal_local or (self.external_local and self.is_external)

    @property
    def uses_cluster(self) -> bool:
        """C1."""
        return not self.internal_local or self.is_external


def endpoints_of(slices: Iterable[dict[str, Any]], name: str, protocol: str, version: int) -> list[Endpoint]:
    """The endpoints of a ServicePort in one family, over all slices (A7: of duplicates, one that stays, one ready)."""
    found: dict[tuple[Address, int], Endpoint] = {}
    for item in slices:
        if item["addressType"] != f"IPv{version}":
            continue  # A6
        for endpoint in _of_slice(item, name, protocol):
            held = found.setdefault((endpoint.address, endpoint.port), endpoint)
            if _worth(endpoint) > _worth(held):
                found[endpoint.address, endpoint.port] = endpoint
    return list(found.values())


def sets_of(
    endpoints: list[Endpoint], policies: Policies, node_name: str, zone: str
) -> tuple[list[Endpoint], list[Endpoint], bool]:
    """C: the cluster set, the local set, and whether there is any endpoint at all."""
    cluster: list[Endpoint] = []
    local: list[Endpoint] = []
    if policies.uses_cluster:
        cluster = _hinted([e for e in endpoints if e.is_ready], node_name, zone)  # C2
        cluster = cluster or [e for e in endpoints if e.is_fallback]
    if policies.uses_local:
        here = [e for e in endpoints if e.node_name == node_name]  # C3, D6: hints do not count
        local = [e for e in here if e.is_ready] or [e for e in here if e.is_fallback]
    is_anywhere = any(e.is_ready or e.is_fallback for e in endpoints)
    return cluster, local, bool(cluster) or (policies.uses_local and is_anywhere)  # C5


def _hinted(ready: list[Endpoint], node_name: str, zone: str) -> list[Endpoint]:
    """D1-D5: hints narrow the ready endpoints only if each has one and one of them is for us."""
    if all(e.node_hints for e in ready) and any(node_name in e.node_hints for e in ready):
        return [e for e in ready if node_name in e.node_hints]
    if zone and all(e.zone_hints for e in ready) and any(zone in e.zone_hints for e in ready):
        return [e for e in ready if zone in e.zone_hints]
    return ready


def _of_slice(item: dict[str, Any], name: str, protocol: str) -> Iterator[Endpoint]:
    ports = item.get("ports") or ()
    numbers = [p.get("port") for p in ports if p.get("name") == name and p.get("protocol", "TCP") == protocol]
    for number in filter(None, numbers):  # A5
        for entry in item.get("endpoints") or ():
            address = parse_address(entry["addresses"][0]) if entry["addresses"] else None  # A6
            if address is not None:
                yield _endpoint(entry, address, number)


def _endpoint(entry: dict[str, Any], address: Address, port: int) -> Endpoint:
    conditions, hints = entry.get("conditions") or {}, entry.get("hints") or {}
    return Endpoint(
        address=address,
        port=port,
        is_ready=_or_else(conditions.get("ready"), default=True),  # A8
        is_serving=_or_else(conditions.get("serving"), default=True),
        is_terminating=_or_else(conditions.get("terminating"), default=False),
        node_name=entry.get("nodeName"),
        zone_hints=frozenset(hint["name"] for hint in hints.get("forZones") or ()),
        node_hints=frozenset(hint["name"] for hint in hints.get("forNodes") or ()),
    )


def _worth(endpoint: Endpoint) -> tuple[bool, bool, bool]:
    return not endpoint.is_terminating, endpoint.is_ready, endpoint.is_serving


def _or_else(value: bool | None, *, default: bool) -> bool:
    return default if value is None else value
