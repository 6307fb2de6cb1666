# SPDX-License-Identifier: Apache-2.0
"""Session affinity as elements: numbers of ports and endpoints, and the table of first picks.

The rules (affinity_rules.py) hand one 32-bit number from lookup to lookup, `ID:N`. The upper half, ID, names a
ServicePort of one family, the lower half one of its endpoints. Frontends of one port have one ID: that is what makes
them share the memory. N comes from the endpoint's address and port alone, so an endpoint keeps it through restarts, and
an endpoint that takes another's place does not take its clients.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.affinity_rules import BORROWED_PRIORITY, PORT_MASK
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.packed import SECTIONS, Records, bodies, records, section_of
from pointsman_model.affinity import endpoint_number, pick_table
from pointsman_model.plan import PlanEndpoint

PORTS_MAX: Final = (PORT_MASK ^ BORROWED_PRIORITY) >> 16
"""Most ServicePorts with session affinity, of one family."""
MEMBERS_MAX: Final = 0xFFFF
"""Most endpoints of one of them, of both its sets together."""
SET_SPECS: Final = (layout.AFFINITY_ENDPOINTS, layout.AFFINITY_LOCAL_ENDPOINTS)
"""Where the endpoints of a port's first and second endpoint set are."""
ID_SPECS: Final = (layout.AFFINITY_IDS, layout.AFFINITY_NODEPORT_IDS)

_NUMBER: Final = struct.Struct("=I")
_PROTOCOL: Final = struct.Struct(">Bxxx")
_MEMBER_SECTIONS: Final = frozenset(section.number for section in SECTIONS if section.spec in SET_SPECS)
_ID_SECTIONS: Final = frozenset(section.number for section in SECTIONS if section.spec in ID_SPECS)


class PortNumbers:
    """Which numbers the frontends of ports with session affinity have: what the kernel has, and what was promised.

    A port's number is promised to one of its frontends, the first, so that asking again gives the same, and no other
    port gets it that took over another frontend. Clients of a port that is gone are remembered until their time is over
    under its number; so one that became free is taken again only when no other is left, the longest free first.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, bytes], bytes] = {}
        self._promised: dict[tuple[Family, bytes], tuple[int, bytes]] = {}
        self._users: dict[tuple[Family, bytes], int] = {}
        self._left: dict[tuple[Family, bytes], None] = {}
        """Numbers that had users and have none, the longest free first."""

    @property
    def are_used(self) -> bool:
        """Whether any port has one."""
        return bool(self._users)

    def promise(self, section: int, frontend: bytes) -> bytes:
        """The number of the port whose first frontend this is, `ID:0` as four bytes.

        Raises:
            UnsupportedPlanError: all are taken.
        """
        family, port = SECTIONS[section].family, (section, frontend)
        found = self._numbers.get(port)
        if found is not None and self._promised.setdefault((family, found), port) == port:
            return found
        number = self._free(family, frontend)
        self._enter(section, frontend, number)
        self._promised[family, number] = port
        return number

    def _free(self, family: Family, frontend: bytes) -> bytes:
        """A number without users. The search starts at the frontend's hash."""
        start = int.from_bytes(hashlib.blake2b(frontend, digest_size=4).digest())
        for step in range(PORTS_MAX):
            number = _NUMBER.pack(BORROWED_PRIORITY | ((start + step) % PORTS_MAX + 1) << 16)
            user = family, number
            if user not in self._users and user not in self._left:
                return number
        for left_family, number in self._left:
            if left_family is family:
                return number
        raise UnsupportedPlanError(f"this node has its {PORTS_MAX} ports with session affinity already")

    def found(self, section: int, elements: Mapping[bytes, bytes]) -> None:
        """The kernel has these elements of a map of numbers."""
        for frontend, number in elements.items():
            self._enter(section, frontend, number)

    def commit(self, removals: Mapping[int, Records], additions: Mapping[int, Records]) -> None:
        """The kernel has made this change; a key in both is replaced."""
        for section in _ID_SECTIONS & removals.keys():
            for frontend in removals[section].keys() - additions.get(section, {}).keys():
                self._leave(section, frontend)
        for section in _ID_SECTIONS & additions.keys():
            self.found(section, additions[section])

    def _enter(self, section: int, frontend: bytes, number: bytes) -> None:
        if self._numbers.get((section, frontend)) == number:
            return
        self._leave(section, frontend)
        self._numbers[section, frontend] = number
        user = SECTIONS[section].family, number
        self._users[user] = self._users.get(user, 0) + 1
        self._left.pop(user, None)

    def _leave(self, section: int, frontend: bytes) -> None:
        number = self._numbers.pop((section, frontend), None)
        if number is None:
            return
        user = SECTIONS[section].family, number
        if self._promised.get(user) == (section, frontend):
            del self._promised[user]
        self._users[user] -= 1
        if not self._users[user]:
            del self._users[user]
            self._left[user] = None


class AffinityPort(NamedTuple):
    """A ServicePort of one family, as the rules see it.

    Attributes:
        family: of its addresses.
        protocol: its IP number.
        number: `ID:0`.
        members: `ID:N` of each endpoint that the previous rendering had, by packed address and port.
    """

    family: Family
    protocol: int
    number: bytes
    members: Mapping[bytes, bytes]

    def render(self, sections: dict[int, Records], endpoint_sets: Mapping[int, tuple[PlanEndpoint, ...]]) -> list[int]:
        """Enter endpoints and picks of the sets in use, by their index 0 or 1; the number of buckets of each.

        Raises:
            UnsupportedPlanError: there are too many endpoints.
        """
        buckets = [0] * len(SET_SPECS)
        members = self._number(endpoint_sets)
        for index, endpoints in endpoint_sets.items():
            if index >= len(SET_SPECS):
                raise UnsupportedPlanError(f"a port with session affinity has {len(SET_SPECS)} endpoint sets at most")
            values = [layout.endpoint_value(endpoint.address, endpoint.port) for endpoint in endpoints]
            found = sections.setdefault(section_of(self.family, SET_SPECS[index]).number, {})
            for value in values:
                found[_PROTOCOL.pack(self.protocol) + members[value]] = value
            try:
                table = pick_table(endpoints)
            except ValueError as error:
                raise UnsupportedPlanError(str(error)) from error
            picks = sections.setdefault(section_of(self.family, layout.AFFINITY_PICKS).number, {})
            for bucket, pick in enumerate(table, start=index * layout.LOCAL_SLOT_BASE):
                picks[layout.slot_key(self.number, bucket)] = members[values[pick]]
            buckets[index] = len(table)
        return buckets

    def _number(self, endpoint_sets: Mapping[int, tuple[PlanEndpoint, ...]]) -> dict[bytes, bytes]:
        """`ID:N` of each endpoint by its value: what it had, else what its address says, else the next that is free."""
        endpoints = {
            layout.endpoint_value(endpoint.address, endpoint.port): endpoint
            for chosen in endpoint_sets.values()
            for endpoint in chosen
        }
        if len(endpoints) > MEMBERS_MAX:
            raise UnsupportedPlanError(f"a port with session affinity has at most {MEMBERS_MAX} endpoints here")
        members = {value: self.members[value] for value in endpoints if value in self.members}
        taken = set(members.values())
        base = int.from_bytes(self.number, sys.byteorder)
        for value, endpoint in endpoints.items():
            if value in members:
                continue
            number = endpoint_number(endpoint) % MEMBERS_MAX
            while (member := _NUMBER.pack(base | number + 1)) in taken:
                number = (number + 1) % MEMBERS_MAX
            members[value] = member
            taken.add(member)
        return members


def previous_members(previous: bytes) -> dict[tuple[Family, bytes], dict[bytes, bytes]]:
    """What `AffinityPort.members` is to be, by family and `ID:0`, as a rendering has it."""
    found: dict[tuple[Family, bytes], dict[bytes, bytes]] = {}
    for number, body in bodies(previous).items() if previous else ():
        section = SECTIONS[number]
        if number in _MEMBER_SECTIONS:
            for key, value in records(number, body).items():
                found.setdefault((section.family, port_of(key[4:])), {})[value] = key[4:]
    return found


def port_of(number: bytes) -> bytes:
    """`ID:0` of an `ID:N`."""
    return _NUMBER.pack(_NUMBER.unpack(number)[0] & PORT_MASK)
