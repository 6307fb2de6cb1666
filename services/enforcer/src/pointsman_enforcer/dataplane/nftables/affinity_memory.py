# SPDX-License-Identifier: Apache-2.0
"""The kernel's memory of clients: packed, as a look found it, and in the words of plans. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from pointsman_enforcer.dataplane.affinity import AffinityClient
from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.affinity import ID_SPECS, SET_SPECS, port_of
from pointsman_enforcer.dataplane.nftables.elements import Timed
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.packed import Records, section_of, unpack
from pointsman_enforcer.dataplane.nftables.render import family_of, frontend_key
from pointsman_model.affinity import bucket_of
from pointsman_model.plan import FrontendKind, ServicePlan, ServicePortPlan

SECOND_MS: Final = 1000
_RECORDS: Final = {family: struct.Struct(f"={family.address_bytes}s4sII") for family in Family}
"""Client, `ID:N`, timeout and time left in milliseconds."""
_NUMBER_BYTES: Final = 4


class Remembered:
    """What one look found of one family, 16 bytes a client (28 for IPv6). Built up once, then read."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.count = 0
        """How many were seen; some may have been seen twice."""
        self._by_port: dict[bytes, bytearray] = {}
        self._carried: dict[bytes, bytearray] = {}

    def include(self, elements: Iterable[Timed]) -> None:
        """Elements of `affinity`."""
        pack = _RECORDS[self.family].pack
        for key, data, timeout_ms, left_ms in elements:
            port = key[:_NUMBER_BYTES]
            held = self._by_port.get(port)
            if held is None:
                held = self._by_port[port] = bytearray()
            held += pack(key[_NUMBER_BYTES:], data, timeout_ms, left_ms)
            self.count += 1

    def carry(self, before: Remembered, passed_ms: int) -> None:
        """Also remember whom the look before saw, `passed_ms` ago, and this one did not, if their time is not over.

        While the kernel's hash table grows or shrinks, a dump sees some twice and others not at all (6 % of 100,000 in
        one look). Missing once proves nothing, missing twice does: what was carried itself is not carried on.
        """
        pack = _RECORDS[self.family].pack
        for number, held in before._by_port.items():
            seen = {record[0] for record in _records_of(self.family, self._by_port.get(number, b""))}
            carried = bytearray()
            for client, member, timeout_ms, left_ms in _records_of(self.family, held):
                if left_ms > passed_ms and client not in seen:
                    carried += pack(client, member, timeout_ms, left_ms - passed_ms)
            if carried:
                self._carried[number] = carried

    def ports(self) -> list[bytes]:
        """`ID:0` of each port with clients."""
        return list(self._by_port | self._carried)

    def of_port(self, number: bytes, passed_ms: int) -> Iterator[tuple[bytes, bytes, int, int]]:
        """Client, `ID:N`, timeout and time left of each client of a port whose time is not over.

        `passed_ms` have passed since the look. Somebody may be listed twice who was seen while the map was rearranged.
        """
        for held in (self._by_port, self._carried):
            for client, member, timeout_ms, left_ms in _records_of(self.family, held.get(number, b"")):
                if left_ms > passed_ms:
                    yield client, member, timeout_ms, left_ms - passed_ms

    def elements(self, ports: Iterable[bytes], passed_ms: int) -> Iterator[Timed]:
        """The elements that make the kernel remember these ports' clients again, each once."""
        for number in ports:
            once = {each[0]: each[1:] for each in self.of_port(number, passed_ms)}
            for client, (member, timeout_ms, left_ms) in once.items():
                yield number + client, member, timeout_ms, left_ms

    def without(self, other: Remembered, passed_ms: int) -> Iterator[Timed]:
        """The same, without the clients that are in `other`."""
        for number in self.ports():
            known = {each[0] for each in other.of_port(number, 0)}
            for element in self.elements((number,), passed_ms):
                if element[0][_NUMBER_BYTES:] not in known:
                    yield element


def _records_of(family: Family, held: bytes | bytearray) -> Iterator[tuple[bytes, bytes, int, int]]:
    return _RECORDS[family].iter_unpack(held)


def clients_of(
    plan: ServicePlan, rendering: bytes, memory: Mapping[Family, Remembered], passed_ms: int
) -> Iterator[AffinityClient]:
    """Clients of a service whose endpoint it still has. `rendering` is what the kernel has of the plan."""
    sections = unpack(rendering)
    for port in plan.ports:
        number = _number_of(port, sections)
        found = memory.get(family_of(port.family))
        if not number or found is None:
            continue
        endpoints = {member: endpoint for endpoint, member in _members_of(port, sections, number).items()}
        tables = _tables(port, sections, number)
        for client, member, _, left_ms in found.of_port(number, passed_ms):
            endpoint = endpoints.get(member)
            if endpoint is not None:
                is_pick = any(table[bucket_of(client, len(table))] == member for table in tables)
                yield AffinityClient(port.name, port.protocol, client, endpoint, left_ms, is_pick)


def seeds_of(plan: ServicePlan, rendering: bytes, clients: Sequence[AffinityClient]) -> Iterator[tuple[Family, Timed]]:
    """Elements that make the kernel remember clients whose endpoint is known here."""
    sections = unpack(rendering)
    timeout_ms = plan.affinity_timeout_seconds * SECOND_MS
    for port in plan.ports:
        number = _number_of(port, sections)
        if not (number and timeout_ms):
            continue
        members = _members_of(port, sections, number)
        here = (port.name, port.protocol, port.family.address_bytes)
        for each in clients:
            is_here = (each.name, each.protocol, len(each.client)) == here
            member = members.get(each.endpoint) if is_here else None
            if member is not None and each.left_ms > 0:
                left_ms = min(each.left_ms, timeout_ms)
                yield family_of(port.family), (number + each.client, member, timeout_ms, left_ms)


def _number_of(port: ServicePortPlan, sections: Mapping[int, Records]) -> bytes:
    """`ID:0` of a port, empty when it has none."""
    if not port.frontends:
        return b""
    first = port.frontends[0]
    spec = ID_SPECS[first.kind is FrontendKind.NODE_PORT]
    found = sections.get(section_of(family_of(port.family), spec).number, {})
    return found.get(frontend_key(port, first), b"")


def _members_of(
    port: ServicePortPlan, sections: Mapping[int, Records], number: bytes
) -> dict[tuple[bytes, int], bytes]:
    """`ID:N` of each endpoint of a port."""
    family = family_of(port.family)
    found: dict[tuple[bytes, int], bytes] = {}
    for spec in SET_SPECS:
        for key, value in sections.get(section_of(family, spec).number, {}).items():
            if port_of(key[4:]) == number:
                end = family.address_bytes
                found[value[:end], int.from_bytes(value[end : end + 2])] = key[4:]
    return found


def _tables(port: ServicePortPlan, sections: Mapping[int, Records], number: bytes) -> list[list[bytes]]:
    """The tables of first picks of a port, as the kernel has them: the `ID:N` of each bucket."""
    picks = sections.get(section_of(family_of(port.family), layout.AFFINITY_PICKS).number, {})
    tables = []
    for index in range(len(SET_SPECS)):
        key = partial(layout.slot_key, number)
        first, table = index * layout.LOCAL_SLOT_BASE, list[bytes]()
        while (member := picks.get(key(first + len(table)))) is not None:
            table.append(member)
        if table:
            tables.append(table)
    return tables
