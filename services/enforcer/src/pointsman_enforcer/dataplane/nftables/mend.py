# SPDX-License-Identifier: Apache-2.0
"""What puts our tables right again after somebody else changed them: elements compared, chains written anew. Pure.

Elements are compared with the renderings that the reconciler remembers, only in the sets that were touched, and only
what differs is sent. Rules are not compared, as the kernel does not return the bytes it was given: a chain that was
touched is flushed and written anew in one transaction, which no packet notices. What others put into our tables goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.nftables import layout, uapi
from pointsman_enforcer.dataplane.nftables.affinity import ID_SPECS
from pointsman_enforcer.dataplane.nftables.apply import TABLES, chain_messages, messages
from pointsman_enforcer.dataplane.nftables.attributes import text, u32
from pointsman_enforcer.dataplane.nftables.change import Operations
from pointsman_enforcer.dataplane.nftables.elements import Element
from pointsman_enforcer.dataplane.nftables.message import Family, Message, Table, delete_chain, flush_chain
from pointsman_enforcer.dataplane.nftables.notifications import Touched
from pointsman_enforcer.dataplane.nftables.observe import ranges_of
from pointsman_enforcer.dataplane.nftables.packed import SECTIONS, Records, Section, bodies, records, target_of
from pointsman_enforcer.dataplane.nftables.rules import (
    OUTPUT_CHAIN,
    POSTROUTING_CHAIN,
    PREROUTING_CHAIN,
    static_rules,
)
from pointsman_enforcer.dataplane.nftables.sets import SetSpec
from pointsman_enforcer.dataplane.nftables.settings import SkeletonSettings
from pointsman_enforcer.dataplane.nftables.skeleton import replacement, skeleton

_SPECS: Final = {spec.name: spec for spec in layout.ALL_SETS}
_SEEN: Final = b"seen"
"""In the place of a value: this element was found; a dump may list one twice."""
_ANONYMOUS: Final = "__"
"""Sets and chains that live and die with one rule have such names."""
_POLICY_ACCEPT: Final = 1
_RENDERINGS_PER_TRANSACTION: Final = 100


@dataclass(slots=True)
class Repair:
    """Messages for one transaction, and what they are for. Not frozen: put together table by table."""

    removals: list[Message] = field(default_factory=list)
    structure: list[Message] = field(default_factory=list)
    additions: list[Message] = field(default_factory=list)
    objects: int = 0
    """Elements that differed, chains written anew, and foreign objects removed."""
    surplus: int = 0
    """Elements found that no rendering has."""

    @property
    def messages(self) -> list[Message]:
        """All of them: what refers to a chain goes before it and comes after it."""
        return [*self.removals, *self.structure, *self.additions]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """One table as it should be, and the names it has."""

    family: Family
    settings: SkeletonSettings
    endpoint_chains: frozenset[str]
    """Made by us and not deleted by us."""
    chain_names: tuple[str, ...] = ()
    """In the kernel."""
    set_names: tuple[str, ...] = ()


class Rebuilding(NamedTuple):
    """One of the transactions that make tables anew.

    Attributes:
        messages: all of it.
        ports: `ID:0` of the ports with session affinity that begin to work with it, by family.
    """

    messages: list[Message]
    ports: Mapping[Family, AbstractSet[bytes]] = MappingProxyType({})


def sections_to_compare(touched: Touched, family: Family) -> list[Section]:
    """The sets whose elements may differ."""
    is_all = touched.is_lost or family in touched.deleted
    return [
        section
        for section in SECTIONS
        if section.family is family
        and section.spec is not layout.STATE
        and not section.spec.timeout
        and (is_all or (family, section.spec.name) in touched.sets)
    ]


def named_keys(touched: Touched, section: Section) -> frozenset[bytes]:
    """The elements of a set that alone may differ, if they are known; else none, and all of them may."""
    if touched.is_lost or section.family in touched.deleted or section.spec.interval:
        return frozenset()
    keys = touched.keys.get((section.family, section.spec.name), ())
    return frozenset(keys) if all(len(key) == section.key_bytes for key in keys) else frozenset()


def by_section(renderings: Iterable[bytes]) -> dict[int, list[bytes]]:
    """The sections of all renderings, still packed."""
    found: dict[int, list[bytes]] = {}
    for rendering in renderings:
        for number, body in bodies(rendering).items():
            found.setdefault(number, []).append(body)
    return found


class Wanted:
    """What all renderings together say of each section, as packed bodies; taken apart when first asked for."""

    def __init__(self, renderings: Sequence[bytes]) -> None:
        self._renderings = renderings
        self._by_section: dict[int, list[bytes]] | None = None

    def of(self, section: Section) -> Sequence[bytes]:
        """All of a section."""
        if self._by_section is None:
            self._by_section = by_section(self._renderings)
        return self._by_section.get(section.number, ())

    def of_keys(self, section: Section, keys: AbstractSet[bytes]) -> Sequence[bytes]:
        """Of a section only the elements with these keys. Most renderings are done with by a search of their bytes."""
        found = []
        for rendering in self._renderings:
            if any(key in rendering for key in keys):
                has = records(section.number, bodies(rendering).get(section.number, b""))
                found += [key + has[key] for key in keys & has.keys()]
        return found


def compare(
    repair: Repair, section: Section, found: Iterable[Element], packed: Iterable[bytes], *, may_remove: bool
) -> None:
    """Add what makes the elements found those of the section's `packed` bodies, and of no others.

    Without `may_remove`, elements that are in none of them stay: they may be what an earlier process left.
    """
    wanted: Records = {}
    for body in packed:
        wanted.update(records(section.number, body))
    surplus: Records = {}
    wrong: Records = {}
    for key, value in _records(section, found):
        expected = wanted.get(key)
        if expected is None:
            surplus[key] = value
        elif expected == value:
            wanted[key] = _SEEN
        elif expected is not _SEEN:
            wrong[key] = value
    missing = {key: value for key, value in wanted.items() if value is not _SEEN}
    removed = {**wrong, **surplus} if may_remove else wrong
    repair.removals += messages(Operations({section.number: removed} if removed else {}, {}))
    repair.additions += messages(Operations({}, {section.number: missing} if missing else {}))
    repair.objects += len(missing) + (len(surplus) if may_remove else 0)
    repair.surplus += len(surplus)


def rebuild(
    families: AbstractSet[Family],
    renderings: Sequence[bytes],
    settings: Callable[[Family], SkeletonSettings],
    endpoint_chains: Iterable[tuple[Family, str]],
) -> Iterator[Rebuilding]:
    """Transactions, one after the other, that make tables anew with everything in them, in the renderings' order.

    Nothing is decoded or rendered anew, so it takes less than a cold start. The rule that drops what no service has is
    there from the first moment: a dropped packet is repeated, one let through would keep its connection undirected.
    Clients that session affinity remembers are to be there before their port is, so that nobody is taken for new.
    """
    first = [message for family in sorted(families) for message in replacement(TABLES[family], settings(family))]
    for family, name in sorted(endpoint_chains):
        if family in families:
            first += chain_messages(family, name)
    yield Rebuilding(first)
    for start in range(0, len(renderings), _RENDERINGS_PER_TRANSACTION):
        additions = {
            number: {key: value for body in packed for key, value in records(number, body).items()}
            for number, packed in sorted(by_section(renderings[start : start + _RENDERINGS_PER_TRANSACTION]).items())
            if SECTIONS[number].family in families
        }
        ports: dict[Family, set[bytes]] = {}
        for number, found in additions.items():
            if SECTIONS[number].spec in ID_SPECS:
                ports.setdefault(SECTIONS[number].family, set()).update(found.values())
        yield Rebuilding(messages(Operations({}, additions)), ports)


def restructure(repair: Repair, touched: Touched, state: TableState) -> None:
    """Add what makes chains, rules and sets ours again."""
    family, table = state.family, TABLES[state.family]
    is_all = touched.is_lost or family in touched.deleted
    static = frozenset(static_rules(family, state.settings))
    is_certain = family in touched.structure or not touched.is_lost
    chains = {name for each, name in touched.chains if each is family}
    if is_all or "table" in touched.kinds or chains & static or _lacks_sets(state) or _touches_state(touched, family):
        repair.structure += [*skeleton(table, state.settings), *_policies(table)]
        repair.objects += max(len(chains & static), 1) if is_certain else 0
    endpoint_chains = sorted(state.endpoint_chains if is_all else state.endpoint_chains & chains)
    for name in endpoint_chains:
        repair.structure += chain_messages(family, name)
    repair.objects += len(endpoint_chains) if is_certain else 0
    _remove_foreign(repair, table, state, static)


def is_structure_suspect(touched: Touched, family: Family) -> bool:
    """Whether chains, rules or sets of this table, or its stamp, may have been changed."""
    is_all = touched.is_lost or family in touched.deleted
    return is_all or family in touched.structure or _touches_state(touched, family)


def _touches_state(touched: Touched, family: Family) -> bool:
    return (family, layout.STATE.name) in touched.sets


def _lacks_sets(state: TableState) -> bool:
    return not _SPECS.keys() <= set(state.set_names)


def _remove_foreign(repair: Repair, table: Table, state: TableState, static: frozenset[str]) -> None:
    ours = static | state.endpoint_chains
    chains = [name for name in state.chain_names if name not in ours and not name.startswith(_ANONYMOUS)]
    sets = [name for name in state.set_names if name not in _SPECS and not name.startswith(_ANONYMOUS)]
    repair.structure += [flush_chain(table, name) for name in chains]
    repair.structure += [delete_chain(table, name) for name in chains]
    repair.structure += [_delete_set(table, name) for name in sets]
    repair.objects += len(chains) + len(sets)


def _policies(table: Table) -> list[Message]:
    """Base chains let pass what no rule decides. Creating one that exists leaves its policy as somebody set it."""
    return [
        Message(
            kind=uapi.NFT_MSG_NEWCHAIN,
            flags=0,
            family=table.family,
            payload=text(uapi.NFTA_CHAIN_TABLE, table.name)
            + text(uapi.NFTA_CHAIN_NAME, name)
            + u32(uapi.NFTA_CHAIN_POLICY, _POLICY_ACCEPT),
            what=f"set policy of {name}: table {table.family.keyword} {table.name}",
        )
        for name in (PREROUTING_CHAIN, OUTPUT_CHAIN, POSTROUTING_CHAIN)
    ]


def _delete_set(table: Table, name: str) -> Message:
    return Message(
        kind=uapi.NFT_MSG_DELSET,
        flags=0,
        family=table.family,
        payload=text(uapi.NFTA_SET_TABLE, table.name) + text(uapi.NFTA_SET_NAME, name),
        what=f"delete set {name}: table {table.family.keyword} {table.name}",
    )


def _records(section: Section, found: Iterable[Element]) -> Iterable[tuple[bytes, bytes]]:
    """Elements of the kernel in the form of renderings."""
    spec: SetSpec = section.spec
    if spec.interval and len(spec.key) == 1:
        return ((first + last, b"") for first, last in ranges_of(found))
    if spec.interval:
        return ((element.key + element.key_end, b"") for element in found)
    convert: Callable[[bytes], bytes] = target_of if spec.verdicts else bytes
    return ((element.key, convert(element.data)) for element in found)
