# SPDX-License-Identifier: Apache-2.0
"""nf_tables in memory: takes the very batches that go to the kernel, and behaves like it where the enforcer can tell.

Tables, chains with the expressions of their rules, sets and elements are kept (`FakeTable`); what rules do to a packet
is not known here. A batch is applied as a whole or not at all. An element added with another value is EBUSY; whatever
else a message names and that is not there is ENOENT.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.attributes import parse, walk
from pointsman_enforcer.dataplane.nftables.elements import Element, Timed, parse_elements
from pointsman_enforcer.dataplane.nftables.errors import NetlinkError
from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Message, Table
from pointsman_enforcer.dataplane.nftables.netlink import Counters
from pointsman_enforcer.dataplane.nftables.sets import SetSpec

Elements = dict[tuple[bytes, bytes, bool], Element]


class Expression(NamedTuple):
    """One expression of a rule: its name, and its attributes by number."""

    name: str
    attributes: dict[int, bytes]


Rule = tuple[Expression, ...]


class Shape(NamedTuple):
    """What a set was declared to be.

    Attributes:
        key_bytes: length of a key.
        is_interval: its elements are ranges.
        fields: padded lengths of the parts of a key whose elements are ranges in each part.
        has_verdicts: its values are chains to go to.
        size: most elements it may have, 0 for no limit.
    """

    key_bytes: int
    is_interval: bool = False
    fields: tuple[int, ...] = ()
    has_verdicts: bool = False
    size: int = 0


@dataclass
class FakeTable:
    """One table. `hooks` names the base chain at each hook, `policies` those that base chains were given."""

    sets: dict[str, Elements] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    chains: dict[str, list[Rule]] = field(default_factory=dict)
    hooks: dict[int, str] = field(default_factory=dict)
    policies: dict[str, int] = field(default_factory=dict)

    def copy(self) -> FakeTable:
        """Another one with the same in it."""
        return FakeTable(
            sets={name: dict(elements) for name, elements in self.sets.items()},
            shapes=dict(self.shapes),
            chains={name: list(rules) for name, rules in self.chains.items()},
            hooks=dict(self.hooks),
            policies=dict(self.policies),
        )

    def find(self, name: str, key: bytes) -> Element | None:
        """The element of a set that a key is in."""
        shape, elements = self.shapes[name], self.sets[name]
        if not shape.is_interval:
            return elements.get((key, b"", False))
        if shape.fields:
            return next((each for each in elements.values() if _is_between(each, key, shape.fields)), None)
        edges = [each for each in elements.values() if each.key <= key]
        last = max(edges, key=lambda each: (each.key, not each.interval_end), default=None)
        return None if last is None or last.interval_end else last

    def pass_time(self, milliseconds: int) -> None:
        """Elements whose time has come are gone."""
        for elements in self.sets.values():
            for place, element in list(elements.items()):
                if element.expiration_ms > milliseconds:
                    elements[place] = element._replace(expiration_ms=element.expiration_ms - milliseconds)
                elif element.expiration_ms:
                    del elements[place]


Tables = dict[tuple[Family, str], FakeTable]


class FakeNftables:
    """One namespace's nf_tables. `refuse` may name an errno for a message that would otherwise work."""

    def __init__(self) -> None:
        self.tables: Tables = {}
        self.counters = Counters()
        self.refuse: Callable[[Message], int] = lambda _: 0
        self.batches: list[Batch] = []

    async def commit(self, batch: Batch) -> None:
        self.commit_blocking(batch)

    def commit_blocking(self, batch: Batch) -> None:
        if not batch.messages:
            return
        after = {key: table.copy() for key, table in self.tables.items()}
        for index, message in enumerate(batch.messages):
            code = self.refuse(message) or _take(after, message)
            if code:
                self.counters.failed_commits += 1
                raise NetlinkError(errno=code, message_index=index, what=message.what)
        self.tables = after
        self.batches.append(batch)
        self.counters.commits += 1
        self.counters.messages += len(batch)
        self.counters.bytes += batch.payload_bytes()

    def table_exists(self, table: Table) -> bool:
        return (table.family, table.name) in self.tables

    def chain_names(self, table: Table) -> list[str]:
        found = self.tables.get((table.family, table.name))
        return sorted(found.chains) if found else []

    def set_names(self, table: Table) -> list[str]:
        found = self.tables.get((table.family, table.name))
        return sorted(found.sets) if found else []

    def dump_elements(self, table: Table, spec: SetSpec, *, is_watched: bool = False) -> Iterator[Element]:
        del is_watched
        self.counters.dumps += 1
        found = self.tables.get((table.family, table.name))
        yield from list(found.sets.get(spec.name, {}).values()) if found else ()

    def get_element(self, table: Table, spec: SetSpec, key: bytes) -> Element | None:
        self.counters.gets += 1
        table_found = self.tables.get((table.family, table.name))
        if table_found is None or spec.name not in table_found.sets:
            return None
        found = table_found.find(spec.name, key)
        return found if found is not None and found.key == key else None

    def read_timed(self, table: Table, spec: SetSpec, most: int) -> Iterator[list[Timed]]:
        found = list(self.dump_elements(table, spec))[:most]
        yield [(each.key, each.data, each.timeout_ms, each.expiration_ms) for each in found]

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass

    def elements(self) -> dict[tuple[Family, str, str], frozenset[Element]]:
        """Everything in every set that is not empty, for comparison."""
        return {
            (family, name, set_name): frozenset(elements.values())
            for (family, name), table in self.tables.items()
            for set_name, elements in table.sets.items()
            if elements
        }


def _take(tables: Tables, message: Message) -> int:
    attributes = parse(message.payload)
    key = (message.family, _text(attributes[uapi.NFTA_TABLE_NAME]))
    if message.kind == uapi.NFT_MSG_NEWTABLE:
        tables.setdefault(key, FakeTable())
        return 0
    table = tables.get(key)
    if table is None:
        return errno.ENOENT
    if message.kind == uapi.NFT_MSG_DELTABLE:
        del tables[key]
        return 0
    return _KINDS[message.kind](table, attributes, message)


Attributes = dict[int, bytes]


def _new_set(table: FakeTable, attributes: Attributes, _: Message) -> int:
    name = _text(attributes[uapi.NFTA_SET_NAME])
    if name not in table.sets:
        table.sets[name], table.shapes[name] = {}, _shape(attributes)
    return 0


def _delete_set(table: FakeTable, attributes: Attributes, _: Message) -> int:
    name = _text(attributes[uapi.NFTA_SET_NAME])
    if name not in table.sets:
        return errno.ENOENT
    del table.sets[name], table.shapes[name]
    return 0


def _new_chain(table: FakeTable, attributes: Attributes, _: Message) -> int:
    name = _text(attributes[uapi.NFTA_CHAIN_NAME])
    table.chains.setdefault(name, [])
    if uapi.NFTA_CHAIN_HOOK in attributes:
        hook = _number(parse(attributes[uapi.NFTA_CHAIN_HOOK])[uapi.NFTA_HOOK_HOOKNUM])
        if table.hooks.setdefault(hook, name) != name:
            raise ValueError(f"{name} and {table.hooks[hook]} at one hook: their order is not known here")
    if uapi.NFTA_CHAIN_POLICY in attributes:
        table.policies[name] = _number(attributes[uapi.NFTA_CHAIN_POLICY])
    return 0


def _delete_chain(table: FakeTable, attributes: Attributes, _: Message) -> int:
    name = _text(attributes[uapi.NFTA_CHAIN_NAME])
    if name not in table.chains:
        return errno.ENOENT
    with_verdicts = (table.sets[each] for each, shape in table.shapes.items() if shape.has_verdicts)
    if any(element.data.decode() == name for elements in with_verdicts for element in elements.values()):
        return errno.EBUSY
    del table.chains[name]
    return 0


def _new_rule(table: FakeTable, attributes: Attributes, _: Message) -> int:
    rules = table.chains.get(_text(attributes[uapi.NFTA_RULE_CHAIN]))
    if rules is None:
        return errno.ENOENT
    rules.append(tuple(_expression(encoded) for _, encoded in walk(attributes[uapi.NFTA_RULE_EXPRESSIONS])))
    return 0


def _delete_rules(table: FakeTable, attributes: Attributes, _: Message) -> int:
    rules = table.chains.get(_text(attributes[uapi.NFTA_RULE_CHAIN]))
    if rules is None:
        return errno.ENOENT
    rules.clear()
    return 0


def _new_elements(table: FakeTable, attributes: Attributes, message: Message) -> int:
    name = _text(attributes[uapi.NFTA_SET_ELEM_LIST_SET])
    elements = table.sets.get(name)
    if elements is None:
        return errno.ENOENT
    for element in parse_elements(message.payload):
        place = (element.key, element.key_end, element.interval_end)
        held = elements.get(place)
        if held is not None and held.data != element.data:
            return errno.EBUSY
        if table.shapes[name].has_verdicts and element.data.decode() not in table.chains:
            return errno.ENOENT
        elements[place] = element
    return 0


def _delete_elements(table: FakeTable, attributes: Attributes, message: Message) -> int:
    elements = table.sets.get(_text(attributes[uapi.NFTA_SET_ELEM_LIST_SET]))
    if elements is None:
        return errno.ENOENT
    if uapi.NFTA_SET_ELEM_LIST_ELEMENTS not in attributes:
        elements.clear()
    for element in parse_elements(message.payload):
        if elements.pop((element.key, element.key_end, element.interval_end), None) is None:
            return errno.ENOENT
    return 0


_KINDS: dict[int, Callable[[FakeTable, Attributes, Message], int]] = {
    uapi.NFT_MSG_NEWSET: _new_set,
    uapi.NFT_MSG_DELSET: _delete_set,
    uapi.NFT_MSG_NEWCHAIN: _new_chain,
    uapi.NFT_MSG_DELCHAIN: _delete_chain,
    uapi.NFT_MSG_NEWRULE: _new_rule,
    uapi.NFT_MSG_DELRULE: _delete_rules,
    uapi.NFT_MSG_NEWSETELEM: _new_elements,
    uapi.NFT_MSG_DELSETELEM: _delete_elements,
}


def _shape(attributes: Attributes) -> Shape:
    description = parse(attributes.get(uapi.NFTA_SET_DESC, b""))
    parts = walk(description.get(uapi.NFTA_SET_DESC_CONCAT, b""))
    lengths = (_number(parse(part)[uapi.NFTA_SET_FIELD_LEN]) for _, part in parts)
    return Shape(
        key_bytes=_number(attributes[uapi.NFTA_SET_KEY_LEN]),
        is_interval=bool(_number(attributes[uapi.NFTA_SET_FLAGS]) & uapi.NFT_SET_INTERVAL),
        fields=tuple((length + 3) & ~3 for length in lengths),
        has_verdicts=_number(attributes.get(uapi.NFTA_SET_DATA_TYPE, b"")) == uapi.NFT_DATA_VERDICT,
        size=_number(description.get(uapi.NFTA_SET_DESC_SIZE, b"")),
    )


def _expression(encoded: bytes) -> Expression:
    parts = parse(encoded)
    return Expression(_text(parts[uapi.NFTA_EXPR_NAME]), parse(parts.get(uapi.NFTA_EXPR_DATA, b"")))


def _is_between(element: Element, key: bytes, fields: Sequence[int]) -> bool:
    """Every part of the key lies between the same parts of both ends."""
    start = 0
    for length in fields:
        part = slice(start, start + length)
        if not element.key[part] <= key[part] <= (element.key_end or element.key)[part]:
            return False
        start += length
    return True


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("ascii")


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")
