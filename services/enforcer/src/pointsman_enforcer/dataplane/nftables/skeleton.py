# SPDX-License-Identifier: Apache-2.0
"""The static part of the table: sets, base chains and the rules that read as the life of a packet.

Pure: settings in, messages out. The messages create what is missing and rewrite the rules of what exists, so they suit
an empty kernel and a running one alike; elements of sets and maps stay. DESIGN.md beside this file says why each rule
stands where it stands.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import TYPE_CHECKING, Final

from pointsman_enforcer.dataplane.nftables import layout, uapi
from pointsman_enforcer.dataplane.nftables.chains import DROP_CHAIN, MARK_CHAIN, REJECT_CHAIN
from pointsman_enforcer.dataplane.nftables.elements import add_commented, add_keys, delete_keys
from pointsman_enforcer.dataplane.nftables.message import (
    Message,
    Table,
    add_chain,
    add_nat_chain,
    add_rule,
    add_table,
    delete_table,
    flush_chain,
)
from pointsman_enforcer.dataplane.nftables.rules import (
    NODEPORTS_CHAIN,
    OUTPUT_CHAIN,
    POSTROUTING_CHAIN,
    PREROUTING_CHAIN,
    SERVICES_CHAIN,
    static_rules,
)
from pointsman_enforcer.dataplane.nftables.sets import add_set

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman_enforcer.dataplane.nftables.elements import Element
    from pointsman_enforcer.dataplane.nftables.settings import SkeletonSettings

SCHEMA: Final = 2
"""Raised whenever a set, a key layout or the meaning of a chain name changes: such a table is replaced, not adopted."""

_TABLE_WORDS: Final = "Pointsman: Kubernetes Services. Changes made by hand are undone."


class Adoption(Enum):
    """What a starting enforcer does with the table it finds."""

    KEEP = "keep"
    """The skeleton is exactly ours: nothing to send."""
    REWRITE = "rewrite"
    """Settings changed: send `skeleton(...)`; elements and endpoint chains stay."""
    REPLACE = "replace"
    """Unknown or of another schema: send `replacement(...)` and all elements, in one batch."""


def skeleton(table: Table, settings: SkeletonSettings) -> list[Message]:
    """Messages that make the static part, or make it anew without touching any element.

    One batch applies all of it at once: there is no moment without rules.
    """
    messages = _objects(table, settings)
    stamp = add_commented(table, layout.STATE, layout.STATE_SKELETON, stamp_of(table, settings))
    forget = [
        *add_keys(table, layout.STATE, [layout.STATE_SKELETON]),
        *delete_keys(table, layout.STATE, [layout.STATE_SKELETON]),
    ]
    return [*messages, *forget, *stamp]


def replacement(table: Table, settings: SkeletonSettings) -> list[Message]:
    """Messages that delete the table, if there is one, with all in it, and make the static part; for one batch."""
    return [add_table(table), delete_table(table), *skeleton(table, settings)]


def stamp_of(table: Table, settings: SkeletonSettings) -> str:
    """What `skeleton` records about itself in the set `state`: the schema, and a hash of every message."""
    digest = hashlib.blake2b(digest_size=8)
    for message in _objects(table, settings):
        digest.update(bytes((message.kind,)) + message.payload)
    return f"schema {SCHEMA} skeleton {digest.hexdigest()}"


def adoption(state: Iterable[Element], table: Table, settings: SkeletonSettings) -> Adoption:
    """What to do with a table whose set `state` has these elements (none: there is no table, or no such set)."""
    found = {element.key: element.comment for element in state}.get(layout.STATE_SKELETON, "")
    if found == stamp_of(table, settings):
        return Adoption.KEEP
    return Adoption.REWRITE if found.startswith(f"schema {SCHEMA} ") else Adoption.REPLACE


def _objects(table: Table, settings: SkeletonSettings) -> list[Message]:
    sets = [add_set(table, spec, number) for number, spec in enumerate(layout.ALL_SETS, start=1)]
    rules = static_rules(table.family, settings)
    return [
        add_table(table, _TABLE_WORDS),
        *sets,
        *_chains(table),
        *(flush_chain(table, chain) for chain in rules),
        *(add_rule(table, chain, rule, words) for chain, lines in rules.items() for rule, words in lines),
    ]


def _chains(table: Table) -> list[Message]:
    dstnat, srcnat = uapi.PRIORITY_DSTNAT, uapi.PRIORITY_SRCNAT
    return [
        add_chain(table, MARK_CHAIN, "the source becomes an address of this node"),
        add_chain(table, REJECT_CHAIN, "no endpoint anywhere"),
        add_chain(table, DROP_CHAIN, "no endpoint this traffic may use"),
        add_chain(table, NODEPORTS_CHAIN, "to an address where node ports answer"),
        add_chain(table, SERVICES_CHAIN, "first packet of every connection"),
        add_nat_chain(
            table, PREROUTING_CHAIN, hook=uapi.NF_INET_PRE_ROUTING, priority=dstnat, words="from pods and outside"
        ),
        add_nat_chain(table, OUTPUT_CHAIN, hook=uapi.NF_INET_LOCAL_OUT, priority=dstnat, words="from this host"),
        add_nat_chain(
            table, POSTROUTING_CHAIN, hook=uapi.NF_INET_POST_ROUTING, priority=srcnat, words="source addresses"
        ),
    ]
