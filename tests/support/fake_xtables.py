# SPDX-License-Identifier: Apache-2.0
"""iptables and ipset in memory: takes the very text that the programs are given, and prints what they would print.

Chains and their rules, sets and their elements are kept; what rules do to a packet is not known here. A restore is
applied as a whole or not at all. A rule that leads to a chain or asks a set that is not there is refused, and so is the
removal of one that a rule still needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.xtables.text import TABLES
from pointsman_enforcer.dataplane.xtables.tools import Tools, Variant
from pointsman_model.names import Family

Result = TypeVar("Result")
BUILT_IN = {
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
_LEADS_TO = re.compile(r"-[jg] ([A-Z]+-\S+)")
_ASKS = re.compile(r"--(?:match|add|del)-set (\S+)")
Table = dict[str, list[str]]


@dataclass
class FakeSet:
    """A set: the words that made it, and its elements, each with the seconds it has left or None."""

    words: str
    elements: dict[str, float | None] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """For example `hash:ip,port`."""
        return self.words.split()[0]


@dataclass
class FakeXtables:
    """All tables and sets of a host."""

    tables: dict[Family, dict[str, Table]] = field(
        default_factory=lambda: {
            family: {table: {chain: [] for chain in BUILT_IN[table]} for table in TABLES} for family in Family
        }
    )
    sets: dict[str, FakeSet] = field(default_factory=dict)

    def rules(self) -> Iterable[str]:
        """Every rule."""
        return (
            rule
            for tables in self.tables.values()
            for table in tables.values()
            for chain in table.values()
            for rule in chain
        )

    def restore(self, family: Family, text: str) -> None:
        """What `iptables-restore --noflush` does; CommandError, and nothing done, when a line is refused."""
        changed = deepcopy(self.tables[family])
        table: Table = {}
        for line in text.splitlines():
            if line.startswith("*"):
                table = changed[line[1:]]
            elif line.startswith(":"):
                table[line[1:].split()[0]] = []
            elif line != "COMMIT":
                self._line(table, line)
        self.tables[family] = changed

    def ipset(self, text: str) -> None:
        """What `ipset restore -exist` does, line by line until one is refused."""
        for line in text.splitlines():
            verb, name, *rest = line.split(" ", 2)
            if verb == "create":
                self.sets.setdefault(name, FakeSet(rest[0]))
            elif verb == "destroy":
                if any(name in _ASKS.findall(rule) for rule in self.rules()):
                    raise CommandError(f"set {name} is in use by a kernel component")
                self.sets.pop(name, None)
            elif name not in self.sets:
                raise CommandError(f"{line}: there is no such set")
            elif verb == "flush":
                self.sets[name].elements.clear()
            elif verb == "add":
                element, _, options = rest[0].partition(" timeout ")
                self.sets[name].elements[element] = int(options) if options else None
            else:
                self.sets[name].elements.pop(rest[0], None)

    def forget(self) -> None:
        """Elements that would be forgotten one day are forgotten now."""
        self.pass_time(float("inf"))

    def pass_time(self, seconds: float) -> None:
        """Elements whose time is over are gone."""
        for each in self.sets.values():
            left = {name: time if time is None else max(time - seconds, 0) for name, time in each.elements.items()}
            each.elements = {name: time for name, time in left.items() if time is None or time > 0}

    def _line(self, table: Table, line: str) -> None:
        verb, chain, *rest = line.split(" ", 2)
        rule = rest[0] if rest else ""
        if chain not in table:
            raise CommandError(f"{line}: there is no such chain")
        if verb == "-X":
            if table[chain] or any(chain in _LEADS_TO.findall(each) for rules in table.values() for each in rules):
                raise CommandError(f"{line}: something is in it or leads to it")
            del table[chain]
        elif verb == "-D":
            table[chain].remove(rule)
        else:
            gone = [name for name in _LEADS_TO.findall(rule) if name not in table]
            gone += [name for name in _ASKS.findall(rule) if name not in self.sets]
            if gone:
                raise CommandError(f"{line}: there is no {', '.join(gone)}")
            if verb == "-I":
                table[chain].insert(0, rule.removeprefix("1 "))
            else:
                table[chain].append(rule)


class FakeTools(Tools):
    """The programs, run on tables in memory."""

    def __init__(self, host: FakeXtables) -> None:
        self.host = host
        self.variant, self.families = Variant.NFT, tuple(Family)
        self.runs, self.process_ids = 0, set()

    def inside(self, function: Callable[[], Result]) -> Result:
        return function()

    def sysctl(self, path: Path) -> str:
        del path
        return "0"

    def set_sysctl(self, path: Path, value: str) -> None:
        """Nobody routes here."""

    async def restore(self, family: Family, text: str) -> None:
        self.runs += 1
        self.host.restore(family, text)

    async def save(self, family: Family) -> str:
        return self.save_blocking(family)

    def save_blocking(self, family: Family) -> str:
        self.runs += 1
        lines = []
        for name, table in self.host.tables[family].items():
            lines += [f"*{name}", *(f":{chain} - [0:0]" for chain in table)]
            lines += [f"-A {chain} {rule}" for chain, rules in table.items() for rule in rules]
            lines.append("COMMIT")
        return "\n".join(lines)

    async def ipset(self, lines: str) -> None:
        self.runs += 1
        self.host.ipset(lines)

    async def ipset_save(self) -> str:
        return self.ipset_save_of(self.host.sets)

    def ipset_names(self) -> list[str]:
        return list(self.host.sets)

    def ipset_save_of(self, names: Iterable[str]) -> str:
        chosen = {name: self.host.sets[name] for name in names if name in self.host.sets}
        lines = [f"create {name} {each.words}" for name, each in chosen.items()]
        return "\n".join([*lines, *(f"add {name} {element}" for name in chosen for element in chosen[name].elements)])

    def list_chain(self, family: Family, table: str, chain: str) -> str:
        return "\n".join(f"-A {chain} {rule} -c 0 0" for rule in self.host.tables[family][table].get(chain, ()))

    def look(self, function: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        future.set_result(function())
        return future

    def close(self) -> None:
        """No thread was started."""
