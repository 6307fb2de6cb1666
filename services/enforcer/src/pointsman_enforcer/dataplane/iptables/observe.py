# SPDX-License-Identifier: Apache-2.0
"""What iptables-save and `ipset save` print, as records. Pure.

Rules carry no owner: those of a frontend are known by address, protocol and port, a chain and a set by their name. What
nobody has claimed when the whole plan is programmed belongs to no service and may go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pointsman_enforcer.dataplane.iptables import layout, static
from pointsman_enforcer.dataplane.iptables.change import IptablesChange, Ledger
from pointsman_enforcer.dataplane.iptables.layout import Id, Kind, Records
from pointsman_enforcer.dataplane.xtables.text import IPVS_SET_PREFIX, SET_PREFIX, WORDS, Rules, Saved
from pointsman_model.names import Family, parse_address

_FRONTEND: Final = re.compile(
    r"(?:-s \S+ )?(?:-d (?P<address>[0-9a-f.:]+)/\d+ )?(?:-i \S+ )?-p (?P<protocol>\w+) -m \w+ --dport (?P<port>\d+) "
)
_SHARED_ROLES: Final = ("vips", "closed", "hairpin", "health")
_SHARED: Final = frozenset(static.set_name(role, family) for role in _SHARED_ROLES for family in Family)
_PROTOCOLS: Final = {word: protocol for protocol, word in WORDS.items()}


def parse_sets(text: str) -> tuple[set[str], set[Id]]:
    """Of what `ipset save` prints: names of our sets, and elements and memories."""
    sets: set[str] = set()
    found: set[Id] = set()
    for line in text.splitlines():
        verb, _, rest = line.partition(" ")
        name = rest.partition(" ")[0]
        if not name.startswith(SET_PREFIX) or name.startswith(IPVS_SET_PREFIX):
            continue
        if verb == "create":
            sets.add(name)
            if layout.is_memory(name):
                found.add(Id(Kind.MEMORY, _family(name), name.encode()))
        elif verb == "add" and not layout.is_memory(name):
            kind = Kind.SHARED if name in _SHARED else Kind.MEMBER
            found.add(Id(kind, _family(name), rest.strip().encode()))
    return sets, found


class Observation:
    """Records found and not yet claimed."""

    def __init__(self) -> None:
        self._found: Records = {}

    def read(self, family: Family, saved: Saved, ledger: Ledger) -> None:
        """Take what the kernel has of one family."""
        for (table, chain), rules in saved.chains.items():
            if table != "nat" or not layout.is_dynamic(chain):
                continue
            if layout.is_endpoint_chain(chain):
                self._enter(Id(Kind.ENDPOINTS, family, chain.encode()), "\n".join(rules).encode(), ledger)
            elif layout.is_leaf(chain):
                for key, lines in _by_frontend(rules).items():
                    self._enter(Id(Kind.FRONTEND, family, key), "\n".join(lines).encode(), ledger)

    def read_sets(self, text: str, ledger: Ledger) -> None:
        """Take what the kernel has in sets."""
        for record in parse_sets(text)[1]:
            if record.kind is Kind.SHARED:
                ledger.enter(record, b"")
            else:
                self._enter(record, b"", ledger)

    def claim(self, wanted: Records, ledger: Ledger) -> Records:
        """Take out what stands under the keys of a service."""
        claimed: Records = {}
        for record in wanted:
            value = self._found.pop(record, None)
            if value is not None:
                claimed[record] = value
                if record.kind is Kind.FRONTEND:
                    ledger.taken.add(record)
        return claimed

    def claim_node(self) -> Records:
        """Take out what belongs to the node."""
        sets = tuple(f"{static.set_name(role, family)} ".encode() for role in ("nodes", "cidrs") for family in Family)
        mine = [record for record in self._found if record.kind is Kind.MEMBER and record.key.startswith(sets)]
        return {record: self._found.pop(record) for record in mine}

    def leftover(self, ledger: Ledger) -> Iterator[IptablesChange]:
        """One change that removes the rest: the kernel replaces the table once."""
        rest = IptablesChange(removals={**self._found, **dict.fromkeys(ledger.unclaimed, b"")})
        if not rest.is_empty:
            yield rest

    def _enter(self, record: Id, value: bytes, ledger: Ledger) -> None:
        self._found[record] = value
        ledger.enter(record, value)


def _by_frontend(rules: Rules) -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = {}
    for rule in rules:
        match = _FRONTEND.match(rule)
        if match is None or match["protocol"] not in _PROTOCOLS:
            continue
        address = parse_address(match["address"]) if match["address"] else b""
        key = layout.frontend_key(address, _PROTOCOLS[match["protocol"]], int(match["port"]))
        found.setdefault(key, []).append(rule)
    return found


def _family(name: str) -> Family:
    if layout.is_memory(name):
        return layout.memory_family(name)
    return Family(int(name[-1]))
