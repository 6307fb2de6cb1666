# SPDX-License-Identifier: Apache-2.0
"""nf_tables in memory: takes the very batches that go to the kernel, and behaves like it where the enforcer can tell.

Tables, sets, chains and elements are kept; rules are not looked at. A batch is applied as a whole or not at all. An
element added with another value is EBUSY, one deleted that is not there ENOENT, a verdict to an unknown chain ENOENT.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.attributes import parse
from pointsman_enforcer.dataplane.nftables.elements import Element, parse_elements
from pointsman_enforcer.dataplane.nftables.errors import NetlinkError
from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Message, Table
from pointsman_enforcer.dataplane.nftables.netlink import Counters
from pointsman_enforcer.dataplane.nftables.sets import SetSpec

Elements = dict[tuple[bytes, bytes, bool], Element]


@dataclass
class FakeTable:
    sets: dict[str, Elements] = field(default_factory=dict)
    chains: set[str] = field(default_factory=set)


class FakeNftables:
    """One namespace's nf_tables. `refuse` may name an errno for a message that would otherwise work."""

    def __init__(self) -> None:
        self.tables: dict[tuple[Family, str], FakeTable] = {}
        self.counters = Counters()
        self.refuse: Callable[[Message], int] = lambda _: 0
        self.batches: list[Batch] = []

    async def commit(self, batch: Batch) -> None:
        self.commit_blocking(batch)

    def commit_blocking(self, batch: Batch) -> None:
        if not batch.messages:
            return
        after = copy.deepcopy(self.tables)
        for index, message in enumerate(batch.messages):
            code = self.refuse(message) or self._take(after, message)
            if code:
                self.counters.failed_commits += 1
                raise NetlinkError(errno=code, message_index=index, what=message.what)
        self.tables = after
        self.batches.append(batch)
        self.counters.commits += 1
        self.counters.messages += len(batch)
        self.counters.bytes += len(batch.encode(1))

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

    def _take(self, tables: dict[tuple[Family, str], FakeTable], message: Message) -> int:
        attributes = parse(message.payload)
        name = attributes[1].rstrip(b"\0").decode()
        key = (message.family, name)
        if message.kind == uapi.NFT_MSG_NEWTABLE:
            tables.setdefault(key, FakeTable())
            return 0
        table = tables.get(key)
        if table is None:
            return errno.ENOENT
        if message.kind == uapi.NFT_MSG_DELTABLE:
            del tables[key]
        elif message.kind == uapi.NFT_MSG_NEWSET:
            table.sets.setdefault(_name(attributes[uapi.NFTA_SET_NAME]), {})
        elif message.kind == uapi.NFT_MSG_NEWCHAIN:
            table.chains.add(_name(attributes[uapi.NFTA_CHAIN_NAME]))
        elif message.kind in (uapi.NFT_MSG_NEWSETELEM, uapi.NFT_MSG_DELSETELEM):
            return _take_elements(table, message, _name(attributes[uapi.NFTA_SET_ELEM_LIST_SET]))
        return 0


def _take_elements(table: FakeTable, message: Message, set_name: str) -> int:
    elements = table.sets.get(set_name)
    if elements is None:
        return errno.ENOENT
    for element in parse_elements(message.payload):
        key = (element.key, element.key_end, element.interval_end)
        held = elements.get(key)
        if message.kind == uapi.NFT_MSG_DELSETELEM:
            if held is None:
                return errno.ENOENT
            del elements[key]
        elif held is not None and held.data != element.data:
            return errno.EBUSY
        elif set_name.startswith("service_") and element.data and element.data.decode() not in table.chains:
            return errno.ENOENT
        else:
            elements[key] = element
    return 0


def _name(value: bytes) -> str:
    return value.rstrip(b"\0").decode()
