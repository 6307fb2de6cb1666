# SPDX-License-Identifier: Apache-2.0
"""What a node's kernel does with packets, read from `nft -j list table` and from nothing else.

The rules are static (their text is the business of other tests); what they look up is walked here in their order.
"""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any

from conformance.model import Expectation, Origin, Outcome, Probe, Target
from conformance.oracle_addresses import Address

_CHAIN = re.compile(r"(?:nodeport-)?(cluster|local)-(\d+)(-affinity-\d+)?(-masq)?")
_LOCAL_SLOTS = 65536
Key = tuple[Any, ...]


class KernelTables:
    """One family of one node."""

    def __init__(self, listing: str) -> None:
        """Takes the JSON of one table."""
        self._maps: dict[str, dict[Key, Any]] = {}
        self._sets: dict[str, list[Any]] = {}
        for entry in json.loads(listing)["nftables"]:
            if "map" in entry:
                shown = entry["map"]
                self._maps[shown["name"]] = {_key(key): _value(value) for key, value in shown.get("elem", ())}
            elif "set" in entry:
                self._sets[entry["set"]["name"]] = entry["set"].get("elem", [])

    @property
    def frontends(self) -> set[Key]:
        """Addresses with protocol and port, and node ports with protocol, that have a verdict."""
        return set(self._maps["service_ips"]) | set(self._maps["service_nodeports"])

    def fate(self, probe: Probe) -> Expectation:
        """What happens to the first packet of a connection."""
        protocol = probe.protocol.lower()
        is_cluster_ip = probe.destination in self._sets["cluster_ips"]
        masquerade = is_cluster_ip and probe.origin is not Origin.POD
        frontend: Key = (probe.destination, protocol, probe.port)
        chain = self._verdict("service_ips", frontend, probe.origin)
        if chain is None and is_cluster_ip:
            return Expectation(Outcome.REJECT)
        destination = ipaddress.ip_address(probe.destination)
        if chain is None and _is_in(destination, self._sets["service_cidrs"]):
            return Expectation(Outcome.DROP)
        if chain is None and _is_in(destination, self._sets["nodeport_addresses"]):
            frontend = (protocol, probe.port)
            chain = self._verdict("service_nodeports", frontend, probe.origin)
        if chain is None:
            return Expectation(Outcome.NONE)
        if chain in {"reject-traffic", "drop-traffic"}:
            return Expectation(Outcome.REJECT if chain == "reject-traffic" else Outcome.DROP)
        return self._through(chain, frontend, masquerade=masquerade)

    def _verdict(self, name: str, frontend: Key, origin: Origin) -> str | None:
        overrides = {Origin.POD: "_from_pod", Origin.HOST: "_from_host"}
        names = [name + overrides[origin]] if origin in overrides else []
        for each in (*names, name):
            if frontend in self._maps[each]:
                return str(self._maps[each][frontend])
        return None

    def _through(self, chain: str, frontend: Key, *, masquerade: bool) -> Expectation:
        matched = _CHAIN.fullmatch(chain)
        if matched is None:
            raise ValueError(f"a verdict leads to {chain!r}, which is no chain of ours")
        which, count, affinity, masq = matched.groups()
        found = self._affine(frontend, which) if affinity else self._slots(frontend, which, int(count))
        targets = {Target(ip, port, masquerade or masq is not None) for ip, port in found}
        return Expectation(Outcome.FORWARD, tuple(sorted(targets)))

    def _slots(self, frontend: Key, which: str, count: int) -> list[tuple[str, int]]:
        first = _LOCAL_SLOTS if which == "local" else 0
        endpoints = self._maps["endpoints" if len(frontend) == 3 else "nodeport_endpoints"]
        # A slot that is missing shows as an endpoint that nobody planned.
        return [endpoints.get((*frontend, first + slot), ("missing", slot)) for slot in range(count)]

    def _affine(self, frontend: Key, which: str) -> list[tuple[str, int]]:
        ids = self._maps["affinity_ids" if len(frontend) == 3 else "affinity_nodeport_ids"]
        number = ids.get(frontend)
        if number is None:
            return [("without id", 0)]
        prefix = str(number).partition(":")[0] + ":"
        held = self._maps["affinity_endpoints" if which == "cluster" else "affinity_local_endpoints"]
        return [endpoint for (_, each), endpoint in held.items() if str(each).startswith(prefix)]


def _key(shown: Any) -> Key:
    if isinstance(shown, dict) and "elem" in shown:  # with a timeout, or a comment
        shown = shown["elem"]["val"]
    parts = shown["concat"] if isinstance(shown, dict) and "concat" in shown else [shown]
    return tuple(parts)


def _value(shown: Any) -> Any:
    if isinstance(shown, dict) and "goto" in shown:
        return shown["goto"]["target"]
    if isinstance(shown, dict) and "concat" in shown:
        return tuple(shown["concat"])
    return shown


def _is_in(address: Address, elements: list[Any]) -> bool:
    for element in elements:
        if isinstance(element, dict) and "prefix" in element:
            text = f"{element['prefix']['addr']}/{element['prefix']['len']}"
        elif isinstance(element, dict) and "range" in element:
            first, last = map(ipaddress.ip_address, element["range"])
            if first.version == address.version and first <= address <= last:  # type: ignore[operator]  # same version
                return True
            continue
        else:
            text = str(element)
        if address in ipaddress.ip_network(text):
            return True
    return False
