# SPDX-License-Identifier: Apache-2.0
"""Text for iptables-restore: chains written whole, chains deleted, rules in front of built-in chains. Pure.

`--noflush` leaves every chain alone that the text does not name, with its counters; a chain that it does name begins
empty. Built-in chains are never named so, only rules put in front of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pointsman_enforcer.dataplane.ipvs.static import TABLES

Jump = tuple[str, str, str]


def restore_text(
    chains: Mapping[tuple[str, str], tuple[str, ...] | None],
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
