# SPDX-License-Identifier: Apache-2.0
"""The difference between renderings, and the books of what the kernel has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from pointsman_enforcer.core.stale_flows import Place
from pointsman_enforcer.dataplane.base import OccupiedError
from pointsman_enforcer.dataplane.ipvs.layout import Id, Kind, Records, set_name, unpack
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


class Ledger:
    """Every record that the kernel has. `resolve` only reads; `commit` enters a change."""

    def __init__(self) -> None:
        self.owned: Records = {}
        self.counts: dict[Id, int] = {}
        self.unclaimed: set[Id] = set()
        """Elements of shared sets that the kernel has and no service has asked for."""
        self.taken: set[Id] = set()
        """Elements that belong to a service."""

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
        for record in change.removals:
            self.owned.pop(record, None)
            self.taken.discard(record)
            self.unclaimed.discard(record)
        self.owned.update(change.additions)
        self.take(change.additions)
        for record, delta in change.claims.items():
            count = self.counts.get(record, 0) + delta
            self.unclaimed.discard(record)
            if count:
                self.counts[record] = count
            else:
                self.counts.pop(record, None)

    def take(self, records: Iterable[Id]) -> None:
        """These belong to a service from now on."""
        self.taken.update(record for record in records if record.kind is Kind.MEMBER)

    def elements(self) -> dict[Id, bytes]:
        """Every element of a set, as the kernel has it."""
        mine = {record: value for record, value in self.owned.items() if record.kind is Kind.MEMBER}
        return {**mine, **dict.fromkeys((*self.counts, *self.unclaimed), b"")}

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
