# SPDX-License-Identifier: Apache-2.0
"""One service's elements as bytes: what the reconciler remembers of what the kernel acknowledged.

A rendering is a sequence of sections, one for each set it has elements in, ascending:

    1 byte section number, 4 bytes length, then records of fixed width: key, value; sorted by key

Keys and values of data maps are exactly those of the kernel. The value of a verdict map is eight bytes, a target, not
the name of a chain. In interval sets the key is first and last key of the range, and there is no value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.chains import (
    DROP_CHAIN,
    REJECT_CHAIN,
    EndpointChain,
    EndpointSet,
    Frontend,
    endpoint_chain_of,
)
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.sets import SetSpec

_HEAD: Final = struct.Struct(">BI")
_TARGET: Final = struct.Struct(">HBBI")
TARGET_BYTES: Final = _TARGET.size
Records = dict[bytes, bytes]


class Section(NamedTuple):
    """A set or map of one family, and the widths of its records here."""

    number: int
    family: Family
    spec: SetSpec
    key_bytes: int
    data_bytes: int

    @property
    def width(self) -> int:
        """Bytes of one record."""
        return self.key_bytes + self.data_bytes


def _section(number: int, family: Family, spec: SetSpec) -> Section:
    ends = 2 if spec.interval else 1
    data = TARGET_BYTES if spec.verdicts else spec.data_bytes(family)
    return Section(number, family, spec, ends * spec.key_bytes(family), data)


SECTIONS: Final = tuple(
    _section(2 * index + offset, family, spec)
    for index, spec in enumerate(layout.ALL_SETS)
    for offset, family in enumerate((Family.IPV4, Family.IPV6))
)
"""Every section, at the index that is its number."""
_NUMBERS: Final = {section.spec.name: section.number for section in SECTIONS if section.family is Family.IPV4}
"""Of the IPv4 section of each set; the IPv6 one follows it. Looked up per element, so without hashing an enum."""
SHARED: Final = frozenset(
    section.number for section in SECTIONS if section.spec in (layout.CLUSTER_IPS, layout.HAIRPIN)
)
"""Sections whose elements several services may want at once: they are counted."""
DISPATCH: Final = frozenset(
    section.number for section in SECTIONS if section.spec in (layout.SERVICE_IPS, layout.NODEPORTS)
)
"""Sections whose keys have one owner, whose every frontend has a record there."""


def section_of(family: Family, spec: SetSpec) -> Section:
    """The section of a set in one family."""
    return SECTIONS[_NUMBERS[spec.name] + (family is Family.IPV6)]


def pack(sections: Mapping[int, Records]) -> bytes:
    """The rendering that has exactly these records; ValueError when one has not its section's width."""
    parts = []
    for number in sorted(sections):
        records = sections[number]
        if not records:
            continue
        body = b"".join([key + records[key] for key in sorted(records)])
        if len(body) != len(records) * SECTIONS[number].width:
            raise ValueError(f"a record of {SECTIONS[number].spec.name} has not {SECTIONS[number].width} bytes")
        parts += [_HEAD.pack(number, len(body)), body]
    return b"".join(parts)


def bodies(packed: bytes) -> dict[int, bytes]:
    """The sections of a rendering, still packed."""
    found = {}
    offset = 0
    while offset < len(packed):
        number, length = _HEAD.unpack_from(packed, offset)
        offset += _HEAD.size
        found[number] = packed[offset : offset + length]
        offset += length
    return found


def records(number: int, body: bytes) -> Records:
    """The records of one section's body."""
    section = SECTIONS[number]
    width, key = section.width, section.key_bytes
    return {body[at : at + key]: body[at + key : at + width] for at in range(0, len(body), width)}


def unpack(packed: bytes) -> dict[int, Records]:
    """All records of a rendering by section."""
    return {number: records(number, body) for number, body in bodies(packed).items()}


def merge(packed: bytes, more: Mapping[int, Records]) -> bytes:
    """The rendering with some records added; of one key the added value counts."""
    if not any(more.values()):
        return packed
    sections = unpack(packed)
    for number, added in more.items():
        sections.setdefault(number, {}).update(added)
    return pack(sections)


class Kind:
    """What a target does."""

    REJECT: Final = 0
    DROP: Final = 1
    FORWARD: Final = 2
    UNKNOWN: Final = 255
    """A chain that none of our renderings names: something else wrote it, so it differs from anything we want."""


_LOCAL: Final = 1
_MASQUERADE: Final = 2

REJECT: Final = _TARGET.pack(0, Kind.REJECT, 0, 0)
DROP: Final = _TARGET.pack(0, Kind.DROP, 0, 0)
UNKNOWN: Final = _TARGET.pack(0, Kind.UNKNOWN, 0, 0)


def forward(*, slots: int, endpoints: EndpointSet, masquerade: bool, affinity_seconds: int = 0) -> bytes:
    """The target that picks among `slots` slots, or that many buckets of the clients it remembers for so long."""
    flags = (_LOCAL if endpoints is EndpointSet.LOCAL else 0) | (_MASQUERADE if masquerade else 0)
    return _TARGET.pack(slots, Kind.FORWARD, flags, affinity_seconds)


@lru_cache(maxsize=1024)
def chain_name(target: bytes, frontend: Frontend) -> bytes:
    """The chain a target stands for, for a verdict of a map of service IPs or of node ports."""
    slots, kind, flags, affinity_seconds = _TARGET.unpack(target)
    if kind == Kind.REJECT:
        return REJECT_CHAIN.encode()
    if kind == Kind.DROP:
        return DROP_CHAIN.encode()
    if kind != Kind.FORWARD:
        raise ValueError(f"target {target.hex()} names no chain")
    chain = EndpointChain(
        slots=slots,
        frontend=frontend,
        endpoints=EndpointSet.LOCAL if flags & _LOCAL else EndpointSet.CLUSTER,
        masquerade=bool(flags & _MASQUERADE),
        affinity_seconds=affinity_seconds,
    )
    return chain.name.encode()


@lru_cache(maxsize=1024)
def target_of(chain: bytes) -> bytes:
    """The target of a verdict that the kernel holds."""
    name = chain.decode("ascii", "replace")
    if name == REJECT_CHAIN:
        return REJECT
    if name == DROP_CHAIN:
        return DROP
    found = endpoint_chain_of(name)
    if found is None:
        return UNKNOWN
    return forward(
        slots=found.slots,
        endpoints=found.endpoints,
        masquerade=found.masquerade,
        affinity_seconds=found.affinity_seconds,
    )


def frontend_of(section: Section) -> Frontend:
    """Which kind of chain the verdicts of a section name."""
    is_nodeport = section.spec in (layout.NODEPORTS, layout.NODEPORTS_FROM_POD, layout.NODEPORTS_FROM_HOST)
    return Frontend.NODEPORT if is_nodeport else Frontend.SERVICE_IP


def split(packed: bytes) -> Iterator[tuple[Section, bytes, bytes]]:
    """Every record of a rendering as (section, key, value)."""
    for number, found in unpack(packed).items():
        for key, data in found.items():
            yield SECTIONS[number], key, data
