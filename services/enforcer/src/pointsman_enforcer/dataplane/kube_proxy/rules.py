# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's part of what iptables-save prints, and the text for iptables-restore that removes it. Pure.

A chain goes with all its rules, and a rule in a built-in chain that leads to it goes when it carries kube-proxy's
comment. A chain that anybody else's rule leads to stays, with all that it leads to itself: a CNI's port mappings may
use KUBE-MARK-MASQ, and then KUBE-POSTROUTING must go on doing what the mark asks for.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pointsman_enforcer.dataplane.kube_proxy.names import (
    BUILT_IN,
    JUMP_COMMENTS,
    KUBELET_DROP,
    LASTING,
    MARK_MASQUERADE,
    MASQUERADE_CHAINS,
    POSTROUTING,
    is_chain,
)

_TABLES: Final = ("nat", "filter", "mangle")
Chain = tuple[str, str]
"""Table and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """A rule in a built-in chain that leads to one of kube-proxy's; `rule` is as printed, without `-A CHAIN`."""

    table: str
    chain: str
    rule: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """One family's rules of kube-proxy.

    Attributes:
        chains: to be removed.
        jumps: to be removed, in their order.
        kept: chains of kube-proxy that stay, because others use them.
    """

    chains: frozenset[Chain] = frozenset()
    jumps: tuple[Jump, ...] = ()
    kept: frozenset[Chain] = frozenset()

    @property
    def count(self) -> int:
        """Chains and jumps to be removed."""
        return len(self.chains) + len(self.jumps)


@dataclass(slots=True)
class _Table:
    """What was read of one table; not frozen, as it is read line by line."""

    name: str
    chains: set[str] = field(default_factory=set)
    rules: list[tuple[str, str]] = field(default_factory=list)
    """Chain and rule, of those that mention a KUBE chain at all."""


def read_rules(saved: str) -> Rules:
    """kube-proxy's rules in the output of iptables-save."""
    chains: set[Chain] = set()
    kept: set[Chain] = set()
    jumps: list[Jump] = []
    for table in _tables(saved):
        present = {name for name in table.chains if is_chain(table.name, name)}
        if not present:
            continue
        leading = list(_leading(table, present))
        staying = _staying(table, present, leading)
        kept.update((table.name, name) for name in staying)
        chains.update((table.name, name) for name in present - staying)
        jumps += [each for each in leading if _is_own(each) and each.target not in staying]
    return Rules(chains=frozenset(chains), jumps=tuple(jumps), kept=frozenset(kept))


def removal_text(rules: Rules) -> str:
    """Input of `iptables-restore --noflush`: dispatch first, then what finishes with packets it sent on."""
    lasting = rules.chains & LASTING
    parts = [
        line
        for chains in (rules.chains - lasting, lasting)
        for line in _transaction(chains, [each for each in rules.jumps if (each.table, each.target) in chains])
    ]
    return "\n".join(parts) + "\n" if parts else ""


def _transaction(chains: Iterable[Chain], jumps: Iterable[Jump]) -> Iterator[str]:
    """Every chain is emptied before one is deleted, so their order does not matter."""
    leading = list(jumps)
    for table in _TABLES:
        names = sorted(name for of, name in chains if of == table)
        if not names:
            continue
        yield f"*{table}"
        yield from (f":{name} - [0:0]" for name in names)
        yield from (f"-D {each.chain} {each.rule}" for each in leading if each.table == table)
        yield from (f"-X {name}" for name in names)
        yield "COMMIT"


def _tables(saved: str) -> Iterator[_Table]:
    table = _Table("")
    for line in saved.splitlines():
        if line.startswith("*"):
            table = _Table(line[1:])
        elif line.startswith(":"):
            table.chains.add(line[1:].split(" ", 1)[0])
        elif line == "COMMIT":
            yield table
        elif line.startswith("-A ") and "KUBE-" in line:
            _, chain, rule = line.split(" ", 2)
            table.rules.append((chain, rule))


def _leading(table: _Table, present: set[str]) -> Iterator[Jump]:
    """Rules outside of `present` that lead into it."""
    for chain, rule in table.rules:
        if chain not in present:
            target = _option(rule, "-j", "-g")
            if target in present:
                yield Jump(table=table.name, chain=chain, rule=rule, target=target)


def _staying(table: _Table, present: set[str], leading: list[Jump]) -> set[str]:
    """Chains that others use, and what those lead to."""
    found: set[str] = set()
    if table.name == "nat" and KUBELET_DROP in table.chains:
        found |= MASQUERADE_CHAINS & present
    waiting = {each.target for each in leading if not _is_own(each)}
    while waiting:
        name = waiting.pop()
        found.add(name)
        if name == MARK_MASQUERADE:
            waiting |= {POSTROUTING} & present
        for chain, rule in table.rules:
            if chain == name:
                waiting |= {_option(rule, "-j", "-g")} & present
        waiting -= found
    return found


def _is_own(jump: Jump) -> bool:
    return jump.chain in BUILT_IN and _option(jump.rule, "--comment") in JUMP_COMMENTS


def _option(rule: str, *names: str) -> str:
    """The word after the first of these options, as the tool quotes it; empty without one."""
    words = shlex.split(rule)
    return next((words[at + 1] for at, word in enumerate(words[:-1]) if word in names), "")
