# SPDX-License-Identifier: Apache-2.0
"""Removing what is ours: chains, rules that lead to them, and sets, all recognised by their names. Needs no plan."""

from __future__ import annotations

from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.iptables.observe import parse_sets
from pointsman_enforcer.dataplane.xtables.text import parse_rules, restore_text
from pointsman_enforcer.dataplane.xtables.tools import Tools

_DESTROY_ATTEMPTS = 20
"""nf_tables lets go of the sets of deleted rules a moment after the rules are gone."""


async def cleanup(tools: Tools) -> int:
    """Remove everything of ours; returns how many chains there were. May be repeated. CommandError when refused."""
    removed = 0
    for family in tools.families:
        saved = parse_rules(await tools.save(family))
        removed += len(saved.chains)
        text = restore_text(dict.fromkeys(saved.chains), unjumps=sorted(saved.jumps))
        if text:
            await tools.restore(family, text)
    names, _ = parse_sets(await tools.ipset_save())
    for name in sorted(names):
        await _destroy(tools, name)
    return removed


async def _destroy(tools: Tools, name: str) -> None:
    for attempt in range(_DESTROY_ATTEMPTS):
        try:
            await tools.ipset(f"destroy {name}\n")
        except CommandError:
            if attempt == _DESTROY_ATTEMPTS - 1:
                raise
        else:
            return
