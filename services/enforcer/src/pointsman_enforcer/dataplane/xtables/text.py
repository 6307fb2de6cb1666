# SPDX-License-Identifier: Apache-2.0
"""Text for iptables-restore and of iptables-save: chains written whole, chains deleted, rules that lead to ours. Pure.

`--noflush` leaves every chain alone that the text does not name, with its counters; a chain that it does name begins
empty. Built-in chains are never named so, only rules put in front of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pointsman_model.names import Protocol

PREFIX: Final = "POINTSMAN-"
"""Every chain of ours begins so, and no other."""
SET_PREFIX: Final = "pointsman-"
"""The same of sets."""
IPVS_PREFIX: Final = f"{PREFIX}IPVS-"
IPVS_SET_PREFIX: Final = f"{SET_PREFIX}ipvs-"
"""Those of ipvs mode, which are not iptables mode's: while a node changes between the two, both are there."""
TABLES: Final = ("mangle", "nat", "filter")
WORDS: Final = {Protocol.TCP: "tcp", Protocol.UDP: "udp", Protocol.SCTP: "sctp"}

Rules = tuple[str, ...]
Chains = dict[tuple[str, str], Rules]
"""By table and chain: its rules, without `-A CHAIN`."""
Jump = tuple[str, str, str]
"""(table, built-in chain, chain of ours): a rule that leads to us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """One family's tables, as far as they are ours."""

    chains: Chains = field(default_factory=dict)
    jumps: frozenset[Jump] = frozenset()


def restore_text(
    chains: Mapping[tuple[str, str], Rules | None],
    *,
    jumps: Iterable[Jump] = (),
    unjumps: Iterable[Jump] = (),
) -> str:
    """One transaction: chains (None: delete) by table and name, jumps to add and to remove; empty for nothing."""
    come, gone = list(jumps), list(unjumps)
    parts = []
    for table in TABLES:
        mine = {name: rules for (of, name), rules in chains.items() if of == table}
        lines = [f":{name} - [0:0]" for name in mine]
        lines += [f"-D {chain} -j {ours}" for of, chain, ours in gone if of == table]
        for name, rules in mine.items():
            lines += [f"-A {name} {rule}" for rule in rules or ()]
        lines += [f"-I {chain} 1 -j {ours}" for of, chain, ours in come if of == table]
        lines += [f"-X {name}" for name, rules in mine.items() if rules is None]
        if lines:
            parts += [f"*{table}", *lines, "COMMIT"]
    return "\n".join(parts) + "\n" if parts else ""


def is_of(name: str, prefix: str) -> bool:
    """Whether a chain or a set is of the mode whose names begin so."""
    return name.startswith(prefix) and (prefix != PREFIX or not name.startswith(IPVS_PREFIX))


def parse_rules(text: str, prefix: str = PREFIX) -> Saved:
    """One mode's part of what iptables-save prints."""
    table = ""
    found: dict[tuple[str, str], list[str]] = {}
    jumps = set()
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":") and is_of(line[1:], prefix):
            found.setdefault((table, line[1:].split(" ", 1)[0]), [])
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            if is_of(chain, prefix):
                found.setdefault((table, chain), []).append(rule)
            elif rule.startswith("-j ") and is_of(rule[3:], prefix):
                jumps.add((table, chain, rule[3:]))
    return Saved(chains={name: tuple(rules) for name, rules in found.items()}, jumps=frozenset(jumps))
