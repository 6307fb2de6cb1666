# SPDX-License-Identifier: Apache-2.0
"""The difference between renderings, and the books from which whole chains are written.

A chain is written whole or not at all: a leaf has rules of several services, an inner chain of the tree a link to each
child. So the `Ledger` knows every rule, and turns a change into the chains that differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

from pointsman_enforcer.core.stale_flows import Place
from pointsman_enforcer.dataplane.base import OccupiedError
from pointsman_enforcer.dataplane.iptables import layout
from pointsman_enforcer.dataplane.iptables.layout import Id, Kind, Records, unpack
from pointsman_enforcer.dataplane.iptables.static import memory_line
from pointsman_enforcer.dataplane.xtables.text import SET_PREFIX, Rules
from pointsman_model.names import Family

_CLOSED: Final = f"{SET_PREFIX}closed".encode()

ChainId = tuple[Family, str]


@dataclass(slots=True)
class IptablesChange:
    """Records to remove and to add. Built up by `include`, so not frozen."""

    removals: Records = field(default_factory=dict)
    additions: Records = field(default_factory=dict)
    """What is in both is replaced."""
    claims: dict[Id, int] = field(default_factory=dict)
    """Shared elements: by how much the number of services that want each grows."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.removals or self.additions or self.claims)

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


def diff(old: bytes, new: bytes) -> IptablesChange:
    """What turns one rendering into another."""
    change = IptablesChange()
    if old == new:
        return change
    had, has = unpack(old), unpack(new)
    for record, value in had.items():
        if has.get(record) == value:
            continue
        if record.kind is Kind.SHARED:
            change.claims[record] = -1
        else:
            change.removals[record] = value
    for record, value in has.items():
        if had.get(record) == value:
            continue
        if record.kind is Kind.SHARED:
            change.claims[record] = 1
        else:
            change.additions[record] = value
    return change


class Operations(NamedTuple):
    """What to tell the kernel, in this order: sets and elements that come, chains, elements and sets that go.

    An address is closed (its other ports are refused) after its chains have come: others may serve it until then.
    """

    sets_before: list[str]
    """Commands of `ipset restore`."""
    chains: dict[ChainId, Rules | None]
    """Chains of the nat table to write, or to delete."""
    sets_after: list[str]
    memories_after: list[str]
    """Sets to destroy, once the kernel lets go of them."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not any(self)


class Ledger:
    """Every rule and element that the kernel has. `resolve` only reads; `commit` enters a change."""

    def __init__(self) -> None:
        self.leaves: dict[ChainId, dict[bytes, bytes]] = {}
        """Rules by leaf and frontend."""
        self.endpoints: dict[ChainId, bytes] = {}
        self.owned: set[Id] = set()
        """Memories, and elements that have one owner."""
        self._memories: set[str] = set()
        self.counts: dict[Id, int] = {}
        self.unclaimed: set[Id] = set()
        """Elements of shared sets that the kernel has and no service has asked for."""
        self.taken: set[Id] = set()
        """Frontends that belong to a service."""

    def resolve(self, change: IptablesChange) -> Operations:
        """What turns the kernel's state into the one after the change.

        Raises:
            OccupiedError: an address that is added is taken, and the change does not free it.
        """
        for record in change.additions:
            if record.kind is Kind.FRONTEND and record in self.taken and record not in change.removals:
                raise OccupiedError(f"frontend {record.key.hex()} is still programmed for another service")
        before, after = self._set_lines(change)
        memories = [
            record.key.decode()
            for record in change.removals
            if record.kind is Kind.MEMORY and record not in change.additions
        ]
        return Operations(before, self._chains(change), after, memories)

    def commit(self, change: IptablesChange) -> None:
        """The kernel has made the change."""
        for record in change.removals:
            self._forget(record)
        for record, value in change.additions.items():
            self.enter(record, value)
            if record.kind is Kind.FRONTEND:
                self.taken.add(record)
        for record, delta in change.claims.items():
            count = self.counts.get(record, 0) + delta
            self.unclaimed.discard(record)
            if count:
                self.counts[record] = count
            else:
                self.counts.pop(record, None)

    def enter(self, record: Id, value: bytes) -> None:
        """The kernel has this, whosever it is."""
        if record.kind is Kind.FRONTEND:
            self.leaves.setdefault((record.family, layout.leaf_of(record.key)), {})[record.key] = value
        elif record.kind is Kind.ENDPOINTS:
            self.endpoints[record.family, record.key.decode()] = value
        elif record.kind is not Kind.SHARED:
            self.owned.add(record)
            if record.kind is Kind.MEMORY:
                self._memories.add(record.key.decode())
        elif record not in self.counts:
            self.unclaimed.add(record)

    def copy(self) -> Ledger:
        """The same rules and elements, for a thread to read; who claimed what is not copied."""
        copied = Ledger()
        copied.leaves = {chain: dict(frontends) for chain, frontends in self.leaves.items()}
        copied.endpoints, copied.owned, copied.counts = dict(self.endpoints), set(self.owned), dict(self.counts)
        copied.unclaimed = set(self.unclaimed)
        return copied

    def all_chains(self) -> dict[ChainId, Rules]:
        """Every chain below the static ones, as the kernel has it."""
        found: dict[ChainId, Rules] = {chain: _lines(rules) for chain, rules in self.endpoints.items()}
        for chain, frontends in self.leaves.items():
            found[chain] = _leaf_rules(frontends)
        for family in Family:
            names = {name for each, name in self.leaves if each is family}
            found.update({(family, name): rules for name, rules in _tree(names, family).items()})
        return found

    def all_sets(self) -> set[Id]:
        """Every element and memory, as the kernel has them."""
        return {*self.counts, *self.unclaimed, *self.owned}

    @property
    def memories(self) -> set[str]:
        """Names of the sets of clients. Not to be changed."""
        return self._memories

    def is_taken(self, place: Place) -> bool:
        """Whether some service has this place. May be asked in any thread."""
        key = layout.frontend_key(place.address, place.protocol, place.port)
        return Id(Kind.FRONTEND, Family(place.family), key) in self.taken

    def _forget(self, record: Id) -> None:
        if record.kind is Kind.FRONTEND:
            chain = (record.family, layout.leaf_of(record.key))
            leaf = self.leaves.get(chain, {})
            leaf.pop(record.key, None)
            if not leaf:
                self.leaves.pop(chain, None)
            self.taken.discard(record)
        elif record.kind is Kind.ENDPOINTS:
            self.endpoints.pop((record.family, record.key.decode()), None)
        elif record.kind is Kind.MEMORY:
            self._memories.discard(record.key.decode())
        self.owned.discard(record)
        self.unclaimed.discard(record)

    def _chains(self, change: IptablesChange) -> dict[ChainId, Rules | None]:
        written: dict[ChainId, Rules | None] = {}
        leaves: dict[ChainId, dict[bytes, bytes]] = {}
        for record, value in (*((each, None) for each in change.removals), *change.additions.items()):
            if record.kind is Kind.ENDPOINTS:
                written[record.family, record.key.decode()] = None if value is None else _lines(value)
            elif record.kind is Kind.FRONTEND:
                chain = (record.family, layout.leaf_of(record.key))
                leaf = leaves.setdefault(chain, dict(self.leaves.get(chain, {})))
                leaf.pop(record.key, None)
                if value is not None:
                    leaf[record.key] = value
        written.update({chain: _leaf_rules(leaf) if leaf else None for chain, leaf in leaves.items()})
        for family in Family:
            before = {name for each, name in self.leaves if each is family}
            changed = {name: bool(leaf) for (each, name), leaf in leaves.items() if each is family}
            after = (before - changed.keys()) | {name for name, is_used in changed.items() if is_used}
            if before != after:
                old, new = _tree(before, family), _tree(after, family)
                wanted = {name: new.get(name) for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
                written.update({(family, name): rules for name, rules in wanted.items()})
        return written

    def _set_lines(self, change: IptablesChange) -> tuple[list[str], list[str]]:
        come = [record for record in change.additions if record.kind in (Kind.MEMORY, Kind.MEMBER)]
        gone = [record for record in change.removals if record.kind is Kind.MEMBER and record not in change.additions]
        gone += [record for record in change.removals if record.kind is Kind.SHARED]
        for record, delta in change.claims.items():
            count = self.counts.get(record, 0)
            if count + delta < 0:
                raise ValueError(f"{record.key.decode()} would be wanted {count + delta} times")
            if delta > 0 and not count:
                come += [] if record in self.unclaimed else [record]
                gone = [each for each in gone if each != record]
            elif count + delta == 0 and delta:
                gone.append(record)
        before = [set_line(record) for record in sorted(come) if not record.key.startswith(_CLOSED)]
        after = [f"del {record.key.decode()}" for record in sorted(gone, reverse=True)]
        return before, after + [set_line(record) for record in sorted(come) if record.key.startswith(_CLOSED)]


def set_line(record: Id) -> str:
    """The command of `ipset restore` that makes a memory or adds an element."""
    if record.kind is Kind.MEMORY:
        return memory_line(record.key.decode(), record.family)
    return f"add {record.key.decode()}"


def _tree(leaves: Iterable[str], family: Family) -> dict[str, Rules]:
    """The inner chains that lead to these leaves; the two roots are always there."""
    children: dict[str, set[str]] = {layout.VIPS: set(), layout.PORTS: set()}
    for leaf in leaves:
        chain = leaf
        while not layout.is_root(chain):
            parent = layout.parent_of(chain)
            children.setdefault(parent, set()).add(chain)
            chain = parent
    return {name: tuple(layout.link(each, family) for each in sorted(below)) for name, below in children.items()}


def _leaf_rules(frontends: dict[bytes, bytes]) -> Rules:
    return tuple(line for key in sorted(frontends) for line in _lines(frontends[key]))


def _lines(rules: bytes) -> Rules:
    return tuple(rules.decode().splitlines())
