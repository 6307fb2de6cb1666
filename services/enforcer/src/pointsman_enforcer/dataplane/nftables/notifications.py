# SPDX-License-Identifier: Apache-2.0
"""What nf_tables says about other people's commits: datagrams in, what of ours they touched out. Pure.

The kernel announces every object of every commit, then the new generation with the process that made it. The socket's
filter leaves out our own commits, so whatever arrives is foreign; most of it is about foreign tables, and a datagram
that does not contain our table's name anywhere is done with one search of its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from pointsman_enforcer.dataplane.nftables import layout, uapi
from pointsman_enforcer.dataplane.nftables.answers import read_answers
from pointsman_enforcer.dataplane.nftables.attributes import name_of, parse
from pointsman_enforcer.dataplane.nftables.elements import parse_elements
from pointsman_enforcer.dataplane.nftables.message import Family

_NAME: Final = b"pointsman\0"
_NAMES_MAX: Final = 20_000
"""Several times what there is of ours; whoever makes more in our tables gets all of it looked at instead."""
_HEADER: Final = struct.Struct("=IHHII")
_FAMILY_AT: Final = _HEADER.size
_NEWGEN: Final = uapi.NFNL_SUBSYS_NFTABLES << 8 | uapi.NFT_MSG_NEWGEN
_FAMILIES: Final = {int(family): family for family in Family}
_TABLE_ATTRIBUTE: Final = 1
"""Every kind of object names its table in attribute 1."""
_SET_KINDS: Final = (uapi.NFT_MSG_NEWSET, uapi.NFT_MSG_DELSET)
_ELEMENT_KINDS: Final = (uapi.NFT_MSG_NEWSETELEM, uapi.NFT_MSG_DELSETELEM)
_CHAIN_KINDS: Final = (uapi.NFT_MSG_NEWCHAIN, uapi.NFT_MSG_DELCHAIN)
_RULE_KINDS: Final = (uapi.NFT_MSG_NEWRULE, uapi.NFT_MSG_DELRULE)
_TABLE_KINDS: Final = (uapi.NFT_MSG_NEWTABLE, uapi.NFT_MSG_DELTABLE)
_OUR_SETS: Final = frozenset(spec.name for spec in layout.ALL_SETS)
KEYS_MAX: Final = 32
"""Most elements of one set that are looked at one by one: 3 ms each with ten thousand services, the whole set 0.6 s."""


@dataclass(slots=True)
class Touched:
    """What foreign commits did to our tables, as far as it is known. Not frozen: notifications add to it."""

    kinds: set[str] = field(default_factory=set)
    deleted: set[Family] = field(default_factory=set)
    """Tables that were deleted."""
    remade: set[Family] = field(default_factory=set)
    """Tables that somebody else deleted and made anew, or one of our sets in them: they may be of another kind."""
    deleted_sets: set[tuple[Family, str]] = field(default_factory=set)
    """Those of our sets that were deleted."""
    structure: set[Family] = field(default_factory=set)
    """Tables of which anything but elements was touched."""
    chains: set[tuple[Family, str]] = field(default_factory=set)
    """Chains made, changed, deleted, or with rules made or deleted."""
    sets: set[tuple[Family, str]] = field(default_factory=set)
    """Sets made or deleted, or with elements added or deleted."""
    keys: dict[tuple[Family, str], set[bytes]] = field(default_factory=dict)
    """The keys of the elements touched, for those of `sets` of which they are known and few."""
    is_lost: bool = False
    """Notifications did not fit the socket: anything may have been touched."""
    process: str = ""
    process_id: int = 0

    @property
    def is_any(self) -> bool:
        """Whether there is anything to look at."""
        return self.is_lost or bool(self.kinds)

    def touch_elements(self, which: tuple[Family, str], keys: Collection[bytes]) -> None:
        """Some elements of a set were touched; without `keys`, any of them may have been."""
        are_named = bool(keys) and not self.is_lost and (which in self.keys or which not in self.sets)
        known = self.keys.get(which, set()).union(keys)
        if are_named and len(known) <= KEYS_MAX:
            self.keys[which] = known
        else:
            self.keys.pop(which, None)
        self.sets.add(which)

    def touch_set(self, which: tuple[Family, str], *, is_deleted: bool) -> None:
        """A set was deleted, or made or changed."""
        self.touch_elements(which, ())
        if which[1] not in _OUR_SETS:
            return
        if is_deleted:
            self.deleted_sets.add(which)
        elif which in self.deleted_sets:
            self.remade.add(which[0])

    def lose(self) -> None:
        """Some notifications are missing."""
        self.is_lost = True
        self.kinds.add("lost")
        self.keys.clear()

    def without(self, families: set[Family]) -> Touched:
        """What is left to be looked at when these families' tables are made anew: nothing if both are."""
        rest = Touched(
            deleted=self.deleted - families,
            remade=self.remade - families,
            deleted_sets={each for each in self.deleted_sets if each[0] not in families},
            structure=self.structure - families,
            chains={each for each in self.chains if each[0] not in families},
            sets={each for each in self.sets if each[0] not in families},
            keys={each: keys for each, keys in self.keys.items() if each[0] not in families},
            is_lost=self.is_lost and families != set(Family),
            process=self.process,
            process_id=self.process_id,
        )
        if rest.deleted or rest.structure or rest.sets or rest.is_lost:
            rest.kinds = set(self.kinds)
        return rest

    def include(self, other: Touched) -> None:
        """Also what `other` knows."""
        self.kinds |= other.kinds
        self.deleted |= other.deleted
        self.remade |= other.remade
        self.deleted_sets |= other.deleted_sets
        self.structure |= other.structure
        self.chains |= other.chains
        for which in other.sets:
            self.touch_elements(which, other.keys.get(which, ()))
        self.is_lost = self.is_lost or other.is_lost
        if other.process_id:
            self.process, self.process_id = other.process, other.process_id


class Notifications:
    """Reads datagrams of the group NFNLGRP_NFTABLES."""

    def __init__(self) -> None:
        self.touched = Touched()
        self._is_ours = False
        """Whether the commit whose notifications are being read touched anything of ours."""

    def take(self) -> Touched:
        """What was touched since the last call."""
        taken, self.touched = self.touched, Touched()
        return taken

    def lost(self) -> None:
        """The socket dropped notifications."""
        self.touched.lose()

    def read(self, datagram: bytes) -> None:
        """Take in one datagram. One that cannot be read counts as lost."""
        try:
            if _NAME in datagram:
                self._read_objects(datagram)
            if self._is_ours:
                self._read_generation(datagram)
        except (ValueError, KeyError, struct.error):
            self.lost()
        touched = self.touched
        if len(touched.chains) + len(touched.sets) > _NAMES_MAX:
            touched.chains.clear()
            touched.sets.clear()
            self.lost()

    def _read_objects(self, datagram: bytes) -> None:
        start = 0
        while start < len(datagram):
            if start + _FAMILY_AT + 4 > len(datagram):
                raise ValueError(f"{len(datagram) - start} bytes at byte {start} are no message")
            length, kind = _HEADER.unpack_from(datagram, start)[:2]
            if length < _FAMILY_AT or start + length > len(datagram):
                raise ValueError(f"message at byte {start} claims {length} bytes")
            family = _FAMILIES.get(datagram[start + _FAMILY_AT])
            if family is not None and kind >> 8 == uapi.NFNL_SUBSYS_NFTABLES and kind != _NEWGEN:
                self._read_object(kind & 0xFF, family, datagram[start + _FAMILY_AT + 4 : start + length])
            start += (length + 3) & ~3

    def _read_object(self, kind: int, family: Family, payload: bytes) -> None:
        attributes = parse(payload)
        if attributes.get(_TABLE_ATTRIBUTE) != _NAME:
            return
        touched, self._is_ours = self.touched, True
        if kind in _ELEMENT_KINDS:
            touched.kinds.add("element")
            which = (family, name_of(attributes[uapi.NFTA_SET_ELEM_LIST_SET]))
            is_whole = which in touched.sets and which not in touched.keys
            touched.touch_elements(which, () if is_whole else _keys(payload))
            return
        touched.structure.add(family)
        if kind in _SET_KINDS:
            touched.kinds.add("set")
            which = (family, name_of(attributes[uapi.NFTA_SET_NAME]))
            touched.touch_set(which, is_deleted=kind == uapi.NFT_MSG_DELSET)
        elif kind in _CHAIN_KINDS:
            touched.kinds.add("chain")
            touched.chains.add((family, name_of(attributes[uapi.NFTA_CHAIN_NAME])))
        elif kind in _RULE_KINDS:
            touched.kinds.add("rule")
            touched.chains.add((family, name_of(attributes[uapi.NFTA_RULE_CHAIN])))
        elif kind in _TABLE_KINDS:
            touched.kinds.add("table")
            if kind == uapi.NFT_MSG_DELTABLE:
                touched.deleted.add(family)
            elif family in touched.deleted:
                touched.remade.add(family)
        else:
            touched.kinds.add("other")

    def _read_generation(self, datagram: bytes) -> None:
        """The end of a commit that touched ours: who made it."""
        for answer in read_answers(datagram):
            if answer.kind == uapi.NFT_MSG_NEWGEN:
                attributes = parse(answer.payload)
                process = attributes.get(uapi.NFTA_GEN_PROC_NAME, b"").partition(b"\0")[0]
                self.touched.process = process.decode("utf-8", "replace")
                self.touched.process_id = int.from_bytes(attributes.get(uapi.NFTA_GEN_PROC_PID, b""), "big")
                self._is_ours = False


def _keys(payload: bytes) -> set[bytes]:
    """The keys of the elements that a message names; none when one of them is part of a range."""
    elements = list(parse_elements(payload))
    is_plain = all(each.key and not (each.key_end or each.interval_end) for each in elements)
    return {each.key for each in elements} if is_plain else set()
