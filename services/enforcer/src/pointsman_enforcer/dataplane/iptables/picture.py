# SPDX-License-Identifier: Apache-2.0
"""Compares what the tools print with what the ledger says, chain by chain and element by element. Pure.

It runs in a thread, on copies of the books that were made when the read began.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.iptables import layout, static
from pointsman_enforcer.dataplane.iptables.change import ChainId, Ledger
from pointsman_enforcer.dataplane.iptables.layout import Id, Kind
from pointsman_enforcer.dataplane.iptables.observe import parse_sets
from pointsman_enforcer.dataplane.iptables.static import StaticSettings
from pointsman_enforcer.dataplane.xtables.text import Chains, parse_rules
from pointsman_model.names import Family

Thing = ChainId | Id
"""A chain, by family and `table name`, or an element or a set."""
_JUMPS: Final = "jumps"


class Differing(NamedTuple):
    """What is not as it should be."""

    things: frozenset[Thing]
    printed: int = 0
    """A hash of how that reads, to tell a second finding from the same one again."""


def chain_thing(family: Family, table: str, name: str) -> ChainId:
    """How a chain is called here."""
    return (family, f"{table} {name}")


def thing_of(record: Id) -> Thing:
    """Where a record of a rendering is to be found."""
    if record.kind is Kind.ENDPOINTS:
        return chain_thing(record.family, "nat", record.key.decode())
    if record.kind is Kind.FRONTEND:
        return chain_thing(record.family, "nat", layout.leaf_of(record.key))
    return record


def wanted_chains(ledger: Ledger, family: Family, settings: StaticSettings) -> Chains:
    """Every chain that a family should have."""
    wanted: Chains = {("nat", name): rules for (of, name), rules in ledger.all_chains().items() if of is family}
    wanted.update(static.static_chains(family, settings))
    return wanted


def differing_rules(ledger: Ledger, settings: StaticSettings, saved: Mapping[Family, str]) -> Differing:
    """Chains and jumps that are missing, that are more, or that read otherwise."""
    things: set[Thing] = set()
    printed = []
    for family, text in saved.items():
        found, wanted = parse_rules(text), wanted_chains(ledger, family, settings)
        for table, name in wanted.keys() | found.chains.keys():
            rules = found.chains.get((table, name))
            if rules != wanted.get((table, name)):
                things.add(chain_thing(family, table, name))
                printed.append((table, name, rules))
        if found.jumps != frozenset(static.jumps(family, settings)):
            things.add((family, _JUMPS))
    return Differing(frozenset(things), hash(frozenset(printed)) if printed else 0)


def differing_sets(wanted: set[Id], names: set[str], printed: str) -> Differing:
    """Elements that are missing or more, and memories that are gone; of memories only that they are there."""
    found = parse_sets(printed)[1]
    there = {record for record in wanted if record.kind is Kind.MEMORY and record.key.decode() in names}
    return Differing(frozenset((wanted - found - there) | (found - wanted)))
