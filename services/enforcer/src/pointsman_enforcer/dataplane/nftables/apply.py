# SPDX-License-Identifier: Apache-2.0
"""Operations -> one netlink batch, and the same operations as lines for `nft -f`. Pure.

The number of messages depends on how many sets are touched, not on how many services; the number of bytes on how many
elements.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Final

from pointsman_enforcer.dataplane.nftables import affinity_rules, elements, layout
from pointsman_enforcer.dataplane.nftables.chains import EndpointSet, endpoint_chain_of
from pointsman_enforcer.dataplane.nftables.change import Operations
from pointsman_enforcer.dataplane.nftables.message import Family, Message, Table
from pointsman_enforcer.dataplane.nftables.packed import (
    SECTIONS,
    UNKNOWN,
    Records,
    Section,
    chain_name,
    frontend_of,
)
from pointsman_enforcer.dataplane.nftables.sets import Field
from pointsman_model.affinity import HASH_SEED
from pointsman_model.names import Protocol, format_address

TABLES: Final = {family: Table(family=family) for family in Family}
"""Our two tables: everything that is ours lies in them, and everything in them is ours."""


def chains_of(operations: Operations) -> set[tuple[Family, str]]:
    """The endpoint chains that the additions name."""
    found = set()
    for number, records in operations.additions.items():
        section = SECTIONS[number]
        if section.spec.verdicts:
            frontend = frontend_of(section)
            found |= {(section.family, chain_name(target, frontend).decode()) for target in set(records.values())}
    return {(family, name) for family, name in found if endpoint_chain_of(name) is not None}


def chain_messages(family: Family, name: str) -> list[Message]:
    """Messages that make an endpoint chain."""
    chain = endpoint_chain_of(name)
    if chain is None:
        raise ValueError(f"{name} is no endpoint chain")
    return chain.messages(TABLES[family])


def messages(operations: Operations) -> list[Message]:
    """All removals, then all additions, so that a key may go and come back with another value."""
    found: list[Message] = []
    for number, records in operations.removals.items():
        section = SECTIONS[number]
        table = TABLES[section.family]
        if section.spec.interval:
            found += elements.delete_ranges(table, section.spec, _ranges(section, records))
        else:
            found += elements.delete_keys(table, section.spec, records)
    for number, records in operations.additions.items():
        found += _additions(SECTIONS[number], records)
    return found


def _additions(section: Section, records: Records) -> list[Message]:
    table, spec = TABLES[section.family], section.spec
    if spec.verdicts:
        frontend = frontend_of(section)
        pairs = ((key, chain_name(target, frontend)) for key, target in records.items())
        return elements.add_elements(table, spec, pairs)
    if spec.interval:
        return elements.add_ranges(table, spec, _ranges(section, records))
    if spec.is_map:
        return elements.add_elements(table, spec, records.items())
    return elements.add_keys(table, spec, records)


def _ranges(section: Section, records: Records) -> Iterator[tuple[bytes, bytes]]:
    half = section.key_bytes // 2
    return ((key[:half], key[half:]) for key in records)


def describe(operations: Operations) -> Iterator[str]:
    """One nft command for each element, removals first."""
    for verb, sections in (("delete", operations.removals), ("add", operations.additions)):
        for number, records in sections.items():
            section = SECTIONS[number]
            for key, value in sorted(records.items()):
                body = _key_words(section, key)
                if verb == "add" and section.spec.is_map:
                    body += f" : {_value_words(section, value)}"
                yield f"{verb} element {section.family.keyword} pointsman {section.spec.name} {{ {body} }}"


def describe_chain(family: Family, name: str) -> str:
    """The nft commands that make an endpoint chain with its rules, as lines."""
    chain = endpoint_chain_of(name)
    if chain is None:
        raise ValueError(f"{name} is no endpoint chain")
    keyword = family.keyword
    is_nodeport = name.startswith("nodeport-")
    key = "meta l4proto . th dport" if is_nodeport else f"{keyword} daddr . meta l4proto . th dport"
    base = chain.endpoints.value
    offset = f" offset {base}" if chain.endpoints is EndpointSet.LOCAL else ""
    target = layout.NODEPORT_ENDPOINTS.name if is_nodeport else layout.ENDPOINTS.name
    rules = ["jump mark-for-masquerade"] if chain.masquerade else []
    if chain.affinity_seconds:
        rules += affinity_rules.describe(
            family,
            ids=layout.AFFINITY_NODEPORT_IDS if is_nodeport else layout.AFFINITY_IDS,
            frontend=key,
            endpoints=layout.AFFINITY_LOCAL_ENDPOINTS if offset else layout.AFFINITY_ENDPOINTS,
            pick=f"jhash {keyword} saddr mod {chain.slots} seed 0x{HASH_SEED:x}{offset}",
            timeout_seconds=chain.affinity_seconds,
        )
    else:
        picks = (f"numgen random mod {chain.slots}", "numgen random mod 1")
        rules += [f"dnat {keyword} to {key} . {pick}{offset} map @{target}" for pick in picks]
    where = f"{keyword} pointsman {name}"
    return "\n".join([f"add chain {where}", *(f"add rule {where} {rule}" for rule in (*rules, "counter drop"))])


def _key_words(section: Section, key: bytes) -> str:
    if not section.spec.interval:
        return " . ".join(_words(section.family, section.spec.key, key))
    half = section.key_bytes // 2
    firsts = _words(section.family, section.spec.key, key[:half])
    lasts = _words(section.family, section.spec.key, key[half:])
    return " . ".join(first if first == last else f"{first}-{last}" for first, last in zip(firsts, lasts, strict=True))


def _value_words(section: Section, value: bytes) -> str:
    if not section.spec.verdicts:
        return " . ".join(_words(section.family, section.spec.data, value))
    if value == UNKNOWN:
        return "(a chain that is not ours)"
    return f"goto {chain_name(value, frontend_of(section)).decode()}"


def _words(family: Family, fields: tuple[Field, ...], data: bytes) -> list[str]:
    formats: dict[Field, Callable[[bytes], str]] = {
        Field.ADDRESS: format_address,
        Field.PROTOCOL: lambda raw: Protocol(raw[0]).name.lower() if raw[0] in set(Protocol) else str(raw[0]),
        Field.PORT: lambda raw: str(int.from_bytes(raw[:2])),
        Field.SLOT: lambda raw: str(int.from_bytes(raw, sys.byteorder)),
        Field.MARK: lambda raw: f"0x{int.from_bytes(raw, sys.byteorder):x}",
        Field.PRIORITY: affinity_rules.describe_number,
    }
    words = []
    offset = 0
    for field in fields:
        length = family.address_bytes if field is Field.ADDRESS else 4
        words.append(formats[field](data[offset : offset + length]))
        offset += length
    return words
