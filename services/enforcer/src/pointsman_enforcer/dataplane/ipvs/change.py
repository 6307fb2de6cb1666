# SPDX-License-Identifier: Apache-2.0
"""The difference between renderings, and the books of what the kernel has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from pointsman_enforcer.core.stale_flows import Place
from pointsman_enforcer.dataplane.base import OccupiedError
from pointsman_enforcer.dataplane.ipvs.layout import ROLES, Id, Kind, Records, set_name, unpack
from pointsman_enforcer.dataplane.xtables.text import WORDS
from pointsman_model.names import Family, Protocol, format_address


@dataclass(slots=True)
class IpvsChange:
    """Records to remove and to add. Built up by `include`, so not frozen."""

    removals: Records = field(default_factory=dict)
    additions: Records = field(default_factory=dict)
    """What is in both is replaced."""
    claims: dict[Id, int] = field(default_factory=dict)
    """Shared elements: by how much the number of services that want each grows."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.removals or self.additions or any(self.claims.values()))

    @property
    def operations(self) -> int:
        """Records touched."""
        return len(self.removals) + len(self.additions) + len(self.claims)

    def include(self, other: Self) -> None:
        """Also do what `other` does."""
        self.removals.update(other.removals)
        self.additions.update(other.additions)
        for record, count in other.claims.items():
            self.claims[record] = self.claims.get(record, 0) + count


def diff(old: bytes, new: bytes) -> IpvsChange:
    """What turns one rendering into another."""
    change = IpvsChange()
    if old == new:
        return change
    had, has = unpack(old), unpack(new)
    for record in had.keys() | has.keys():
        before, after = had.get(record), has.get(record)
        if before == after:
            continue
        if record.kind is Kind.SHARED:
            change.claims[record] = 1 if before is None else -1
            continue
        if before is not None:
            change.removals[record] = before
        if after is not None:
            change.additions[record] = after
    return change


class Operations(NamedTuple):
    """What to tell the kernel: servers and elements that come, then elements and servers that go."""

    servers: list[tuple[Id, bytes]]
    """Virtual servers, then real servers, to add or to change."""
    elements: list[str]
    """Commands of `ipset restore`."""
    gone: list[tuple[Id, bytes]]
    """Real servers, then virtual servers, to remove."""


class Sums:
    """How many elements each set should have, and a sum over them: enough to see that a set is another."""

    def __init__(self) -> None:
        self._sums = {set_name(role, family): (0, 0) for role in ROLES for family in Family}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sums) and self._sums == other._sums

    __hash__ = None  # type: ignore[assignment]  # it changes

    def sizes(self) -> dict[str, int]:
        """Elements of each set."""
        return {name: count for name, (count, _) in self._sums.items()}

    def add(self, element: bytes, options: bytes) -> None:
        """One element more: set and element as ipset prints them, and what follows."""
        self._count(element, options, 1)

    def remove(self, element: bytes, options: bytes) -> None:
        """One less."""
        self._count(element, options, -1)

    def _count(self, element: bytes, options: bytes, delta: int) -> None:
        name = element.partition(b" ")[0].decode()
        count, total = self._sums.get(name, (0, 0))
        self._sums[name] = (count + delta, total ^ hash((element, options)))


class Ledger:
    """What sets have, and who wants it. `resolve` only reads; `commit` enters a change.

    Virtual and real servers are the business of `servers.Servers`.
    """

    def __init__(self) -> None:
        self.sums = Sums()
        self.counts: dict[Id, int] = {}
        self.unclaimed: set[Id] = set()
        """Elements of shared sets that the kernel has and no service has asked for."""
        self.taken: set[Id] = set()
        """Elements that belong to a service."""

    def found(self, records: Records) -> None:
        """These are in the kernel, and nobody has claimed them yet."""
        for record, value in records.items():
            if record.kind in (Kind.MEMBER, Kind.SHARED):
                self.sums.add(record.key, value)
        self.unclaimed.update(record for record in records if record.kind is Kind.SHARED)

    def resolve(self, change: IpvsChange) -> Operations:
        """What turns the kernel's state into the one after the change.

        Raises:
            OccupiedError: an address that is added is taken, and the change does not free it.
        """
        for record in change.additions:
            if record.kind is Kind.MEMBER and record in self.taken and record not in change.removals:
                raise OccupiedError(f"{record.key.decode()} is still programmed for another service")
        added = [f"add {each.key.decode()} {value.decode()}".rstrip() for each, value in _elements(change.additions)]
        gone = [f"del {each.key.decode()}" for each, _ in _elements(change.removals) if each not in change.additions]
        stale = {each for each in change.removals if each.kind is Kind.SHARED}
        for record, delta in change.claims.items():
            count = self.counts.get(record, 0)
            if count + delta < 0:
                raise ValueError(f"{record.key.decode()} would be wanted {count + delta} times")
            if delta > 0 and not count:
                added.append(f"add {record.key.decode()}")
                stale.discard(record)
            elif delta and count + delta == 0:
                stale.add(record)
        gone += [f"del {record.key.decode()}" for record in sorted(stale)]
        removed = [(each, value) for each, value in _servers(change.removals) if each not in change.additions]
        return Operations(_servers(change.additions), added + gone, removed[::-1])

    def commit(self, change: IpvsChange) -> None:
        """The kernel has made the change."""
        for record, value in change.removals.items():
            if record.kind is Kind.MEMBER or record in self.unclaimed:
                self.sums.remove(record.key, value)
            self.taken.discard(record)
            self.unclaimed.discard(record)
        for record, value in change.additions.items():
            if record.kind is Kind.MEMBER:
                self.sums.add(record.key, value)
        self.take(change.additions)
        for record, delta in change.claims.items():
            self._claim(record, delta)

    def _claim(self, record: Id, delta: int) -> None:
        before = self.counts.get(record, 0)
        was_there = bool(before) or record in self.unclaimed
        after = before + delta
        self.unclaimed.discard(record)
        if after:
            self.counts[record] = after
        else:
            self.counts.pop(record, None)
        if after and not was_there:
            self.sums.add(record.key, b"")
        elif was_there and not after:
            self.sums.remove(record.key, b"")

    def take(self, records: Iterable[Id]) -> None:
        """These belong to a service from now on."""
        self.taken.update(record for record in records if record.kind is Kind.MEMBER)

    def is_taken(self, place: Place) -> bool:
        """Whether some service has this place. May be asked in any thread."""
        family, port = Family(place.family), f"{WORDS[Protocol(place.protocol)]}:{place.port}"
        if place.address:
            key = f"{set_name('others', family)} {format_address(place.address)},{port}"
        else:
            key = f"{set_name('ports-others', family)} {'0.0.0.0/1' if family is Family.IPV4 else '::/1'},{port}"
        return Id(Kind.MEMBER, family, key.encode()) in self.taken


def _elements(records: Records) -> list[tuple[Id, bytes]]:
    return sorted((record, value) for record, value in records.items() if record.kind is Kind.MEMBER)


def _servers(records: Records) -> list[tuple[Id, bytes]]:
    return sorted((record, value) for record, value in records.items() if record.kind in (Kind.SERVER, Kind.REAL))
