# SPDX-License-Identifier: Apache-2.0
"""What `ipset save` prints, as far as it is ours, and records found and not yet claimed. Pure.

A virtual server known by a mark is ours if the mark says so; one known by address and port is ours if a set of ours
leads to that place. All others are somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pointsman_enforcer.dataplane.ipvs import layout
from pointsman_enforcer.dataplane.ipvs.change import IpvsChange, Ledger, Sums
from pointsman_enforcer.dataplane.ipvs.genetlink.model import VirtualServerId
from pointsman_enforcer.dataplane.ipvs.layout import Id, Kind, Records, real_of, server_of
from pointsman_enforcer.dataplane.xtables.text import IPVS_SET_PREFIX as SET_PREFIX
from pointsman_enforcer.dataplane.xtables.text import WORDS
from pointsman_model.names import Family, parse_address

_SHARED: Final = frozenset(layout.set_name(role, family) for role in ("vips", "hairpin") for family in Family)
_NODE: Final = frozenset(layout.set_name(role, family) for role in ("nodes", "cidrs") for family in Family)
_PROTOCOLS: Final = {word: protocol for protocol, word in WORDS.items()}


def parse_sets(text: str) -> tuple[set[str], Records]:
    """Names of our sets, and their elements."""
    sets: set[str] = set()
    found: Records = {}
    for line in text.splitlines():
        verb, _, rest = line.strip().partition(" ")
        name, _, element = rest.partition(" ")
        if not name.startswith(SET_PREFIX):
            continue
        if verb == "create":
            sets.add(name)
        elif verb == "add":
            place, _, options = element.partition(" ")
            kind = Kind.SHARED if name in _SHARED else Kind.MEMBER
            found[Id(kind, Family(int(name[-1])), f"{name} {place}".encode())] = options.encode()
    return sets, found


def sums_of(text: str) -> Sums:
    """The sums over what `ipset save` prints."""
    sums = Sums()
    for line in text.splitlines():
        if line.startswith(f"add {SET_PREFIX}"):
            _, name, element, *options = line.split(" ", 3)
            sums.add(f"{name} {element}".encode(), options[0].strip().encode() if options else b"")
    return sums


def places_of(elements: Records, node_addresses: tuple[bytes, ...]) -> Iterator[VirtualServerId]:
    """Places to which sets of ours lead."""
    for record in elements:
        name, _, element = record.key.decode().partition(" ")
        role = name.removeprefix(SET_PREFIX)[:-1]
        if role not in ("others", "ports-others"):
            continue
        address, _, port = element.partition(",")
        word, _, number = port.partition(":")
        mine = (parse_address(address),) if role == "others" else node_addresses
        for each in mine:
            if len(each) == record.family.address_bytes:
                yield VirtualServerId(record.family, 0, _PROTOCOLS[word], each, int(number))


class Observation:
    """Records found and not yet claimed."""

    def __init__(self, found: Records, ledger: Ledger) -> None:
        self._found = {record: value for record, value in found.items() if record.kind is not Kind.SHARED}
        self._reals: dict[VirtualServerId, list[Id]] = {}
        for record, value in self._found.items():
            if record.kind is Kind.REAL:
                self._reals.setdefault(real_of(record, value)[0], []).append(record)
        ledger.found(found)

    def claim(self, wanted: Records, ledger: Ledger) -> Records:
        """Take out what stands under the keys of a service, and every real server of its virtual servers."""
        keys = list(wanted)
        for record, value in wanted.items():
            if record.kind is Kind.SERVER:
                keys += self._reals.pop(server_of(record, value)[0].id, [])
        claimed = self._pop(keys)
        ledger.take(claimed)
        return claimed

    def claim_node(self) -> Records:
        """Take out what belongs to the node."""
        return self._pop([each for each in self._found if each.key.decode("latin-1").partition(" ")[0] in _NODE])

    def leftover(self, ledger: Ledger) -> Iterator[IpvsChange]:
        """One change that removes the rest."""
        rest = IpvsChange(removals={**self._found, **dict.fromkeys(ledger.unclaimed, b"")})
        if not rest.is_empty:
            yield rest

    def _pop(self, keys: list[Id]) -> Records:
        return {key: self._found.pop(key) for key in keys if key in self._found}
