# SPDX-License-Identifier: Apache-2.0
"""The difference between renderings, and the books that keep several services' differences consistent.

A change lists elements to remove and to add, by section, and for shared sections (a cluster IP, a hairpin address)
only how many more or fewer services want each element. The `Ledger` knows how many do, turns that into elements, and
refuses to add an address that another service still has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from pointsman_enforcer.core.stale_flows import Place
from pointsman_enforcer.dataplane.base import OccupiedError
from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.affinity import PortNumbers
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.packed import (
    DISPATCH,
    SECTIONS,
    SHARED,
    Records,
    bodies,
    records,
    section_of,
)


@dataclass(slots=True)
class NftChange:
    """Elements to remove and to add. Built up by `include`, so not frozen."""

    removals: dict[int, Records] = field(default_factory=dict)
    """By section: key -> value that goes."""
    additions: dict[int, Records] = field(default_factory=dict)
    """By section: key -> value that comes. A key that is in both is replaced."""
    claims: dict[int, dict[bytes, int]] = field(default_factory=dict)
    """By shared section: key -> by how much the number of services that want it grows."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not (any(self.removals.values()) or any(self.additions.values()) or any(self.claims.values()))

    @property
    def operations(self) -> int:
        """Elements touched."""
        groups: tuple[Iterable[dict[bytes, bytes] | dict[bytes, int]], ...] = (
            self.removals.values(),
            self.additions.values(),
            self.claims.values(),
        )
        return sum(len(each) for group in groups for each in group)

    def include(self, other: Self) -> None:
        """Also do what `other` does."""
        for mine, theirs in ((self.removals, other.removals), (self.additions, other.additions)):
            for number, found in theirs.items():
                mine.setdefault(number, {}).update(found)
        for number, counts in other.claims.items():
            total = self.claims.setdefault(number, {})
            for key, count in counts.items():
                total[key] = total.get(key, 0) + count


def diff(old: bytes, new: bytes) -> NftChange:
    """What turns one rendering into another. Costs their size; equal sections cost a comparison."""
    change = NftChange()
    if old == new:
        return change
    before, after = bodies(old), bodies(new)
    if not before:
        for number, body in after.items():
            _add_all(change, number, records(number, body))
        return change
    for number in before.keys() | after.keys():
        was, will = before.get(number, b""), after.get(number, b"")
        if was == will:
            continue
        had, has = records(number, was), records(number, will)
        if number in SHARED:
            counts = dict.fromkeys(has.keys() - had.keys(), 1) | dict.fromkeys(had.keys() - has.keys(), -1)
            change.claims[number] = counts
            continue
        gone = {key: value for key, value in had.items() if has.get(key) != value}
        come = {key: value for key, value in has.items() if had.get(key) != value}
        if gone:
            change.removals[number] = gone
        if come:
            change.additions[number] = come
    return change


def _add_all(change: NftChange, number: int, has: Records) -> None:
    """The whole of a section is new: a cold start is made of this."""
    if number in SHARED:
        change.claims[number] = dict.fromkeys(has, 1)
    else:
        change.additions[number] = has


class Operations(NamedTuple):
    """What to tell the kernel: removals, all of them before the additions, by section in ascending order."""

    removals: dict[int, Records]
    additions: dict[int, Records]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.removals or self.additions)


class Ledger:
    """Who wants what: counts of shared elements, and which addresses are taken.

    `resolve` only reads; `commit` enters a change once the kernel has it.
    """

    def __init__(self) -> None:
        self._counts: dict[int, dict[bytes, int]] = {number: {} for number in SHARED}
        self._taken: dict[int, set[bytes]] = {number: set() for number in DISPATCH}
        self._unclaimed: dict[int, set[bytes]] = {number: set() for number in SHARED}
        self.numbers = PortNumbers()
        """Of ports with session affinity."""

    def found(self, number: int, key: bytes) -> None:
        """The kernel has a shared element that no service has asked for yet."""
        self._unclaimed[number].add(key)

    def take(self, claimed: dict[int, Records]) -> None:
        """The kernel has these elements, and they belong to a service from now on."""
        for number in DISPATCH & claimed.keys():
            self._taken[number].update(claimed[number])

    def resolve(self, change: NftChange) -> Operations:
        """The elements to remove and to add.

        Raises:
            OccupiedError: an address that is added is taken, and the change does not free it.
        """
        for number in DISPATCH & change.additions.keys():
            freed = change.removals.get(number, {})
            for key in change.additions[number]:
                if key in self._taken[number] and key not in freed:
                    name = SECTIONS[number].spec.name
                    raise OccupiedError(f"{key.hex()} in {name} is still programmed for another service")
        removals = {number: dict(found) for number, found in change.removals.items() if found}
        additions = {number: dict(found) for number, found in change.additions.items() if found}
        for number, key, delta in _nonzero(change):
            before = self._counts[number].get(key, 0)
            if delta > 0:
                removals.get(number, {}).pop(key, None)
            if before + delta < 0:
                raise ValueError(f"{key.hex()} in {SECTIONS[number].spec.name} would be wanted {before + delta} times")
            if before == 0 and key not in self._unclaimed[number]:
                additions.setdefault(number, {})[key] = b""
            elif before + delta == 0:
                removals.setdefault(number, {})[key] = b""
        return Operations(_tidy(removals), _tidy(additions))

    def commit(self, change: NftChange) -> None:
        """The kernel has made the change."""
        self.numbers.commit(change.removals, change.additions)
        for number in DISPATCH:
            self._taken[number].difference_update(change.removals.get(number, ()))
            self._taken[number].update(change.additions.get(number, ()))
        for number in SHARED:
            self._unclaimed[number].difference_update(change.removals.get(number, ()))
        for number, key, delta in _nonzero(change):
            count = self._counts[number].get(key, 0) + delta
            self._unclaimed[number].discard(key)
            if count:
                self._counts[number][key] = count
            else:
                self._counts[number].pop(key, None)

    def is_taken(self, place: Place) -> bool:
        """Whether some service has this place. May be asked in any thread."""
        family = Family.IPV4 if place.family == 4 else Family.IPV6
        if place.address:
            number = section_of(family, layout.SERVICE_IPS).number
            return layout.frontend_key(place.address, place.protocol, place.port) in self._taken[number]
        number = section_of(family, layout.NODEPORTS).number
        return layout.nodeport_key(place.protocol, place.port) in self._taken[number]

    def unclaimed(self) -> dict[int, set[bytes]]:
        """Shared elements of the kernel that no service wants."""
        return {number: set(keys) for number, keys in self._unclaimed.items() if keys}


def _tidy(sections: dict[int, Records]) -> dict[int, Records]:
    """Without empty sections, in the order of their numbers."""
    return {number: sections[number] for number in sorted(sections) if sections[number]}


def _nonzero(change: NftChange) -> Iterator[tuple[int, bytes, int]]:
    for number, counts in change.claims.items():
        for key, delta in counts.items():
            if delta:
                yield number, key, delta
