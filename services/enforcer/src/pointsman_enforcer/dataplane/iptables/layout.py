# SPDX-License-Identifier: Apache-2.0
"""Names of chains and sets, the tree in which an address is found, and how a rendering is packed.

A rendering is a sequence of records (kind, family, key, value). A leaf of the tree is a chain with the rules of a few
frontends; `POINTSMAN-VIPS` leads to it by the lowest eight bits of an address, four at a time, and `POINTSMAN-PORTS` by
protocol, the upper eight bits of a port and the next four.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.xtables.text import SET_PREFIX, WORDS
from pointsman_model.names import Family, Protocol

VIPS: Final = "POINTSMAN-VIPS"
PORTS: Final = "POINTSMAN-PORTS"
_VIP_NODE: Final = "POINTSMAN-V-"
_PORT_NODE: Final = "POINTSMAN-P-"
_ENDPOINTS: Final = "POINTSMAN-E-"
_HEAD: Final = struct.Struct(">BBHI")
_NAME_BYTES: Final = 8
_LEAF: Final = re.compile(f"{_VIP_NODE}[0-9a-f]{{2}}|{_PORT_NODE}[tus][0-9a-f]{{3}}")
_LETTERS: Final = {"t": Protocol.TCP, "u": Protocol.UDP, "s": Protocol.SCTP}


class Kind(IntEnum):
    """Of a record; the order is that in which a change makes them."""

    MEMORY = 1
    """An ipset of remembered clients: key is its name."""
    MEMBER = 2
    """An element of a set that has one owner: key is set, space, element."""
    SHARED = 3
    """The same of a set whose elements several services may want."""
    ENDPOINTS = 4
    """The chain of an endpoint set: key is its name, value is its rules, a line for each."""
    FRONTEND = 5
    """Rules in a leaf: key is the frontend's, value is the rules, a line for each."""


class Id(NamedTuple):
    """What a record is about."""

    kind: Kind
    family: Family
    key: bytes


Records = dict[Id, bytes]


def pack(records: Mapping[Id, bytes]) -> bytes:
    """The rendering that has exactly these records."""
    parts = []
    for record in sorted(records):
        value = records[record]
        parts += [_HEAD.pack(record.kind, record.family, len(record.key), len(value)), record.key, value]
    return b"".join(parts)


def unpack(rendering: bytes) -> Records:
    """The records of a rendering."""
    return dict(records(rendering))


def records(rendering: bytes) -> Iterator[tuple[Id, bytes]]:
    """The same, one by one, in the order in which a change makes them."""
    at = 0
    while at < len(rendering):
        kind, family, key_bytes, value_bytes = _HEAD.unpack_from(rendering, at)
        at += _HEAD.size
        key = rendering[at : at + key_bytes]
        at += key_bytes
        yield Id(Kind(kind), Family(family), key), rendering[at : at + value_bytes]
        at += value_bytes


def frontend_key(address: bytes, protocol: int, port: int) -> bytes:
    """Key of a frontend; `address` is empty for a node port."""
    return address + struct.pack(">BH", protocol, port)


def endpoint_chain(family: Family, first_frontend: bytes, index: int) -> str:
    """Chain of an endpoint set of a port of a Service, which is known by its first frontend."""
    return f"{_ENDPOINTS}{_hash(family, first_frontend, bytes((index,)))}"


def memory_name(family: Family, first_frontend: bytes, endpoint: bytes) -> str:
    """Set of the clients that an endpoint of a port of a Service has."""
    return f"{SET_PREFIX}a{family.value}-{_hash(family, first_frontend, endpoint)}"


def is_memory(name: str) -> bool:
    """Whether a set of that name remembers clients."""
    return name.startswith((f"{SET_PREFIX}a4-", f"{SET_PREFIX}a6-"))


def memory_family(name: str) -> Family:
    """The family of the clients of a set that remembers them."""
    return Family.IPV4 if name.startswith(f"{SET_PREFIX}a4-") else Family.IPV6


def is_endpoint_chain(name: str) -> bool:
    """Whether it is the chain of an endpoint set."""
    return name.startswith(_ENDPOINTS)


def is_leaf(name: str) -> bool:
    """Whether it is a chain with rules of frontends."""
    return _LEAF.fullmatch(name) is not None


def is_dynamic(name: str) -> bool:
    """Whether a chain is part of the tree or below it."""
    return name in (VIPS, PORTS) or name.startswith((_VIP_NODE, _PORT_NODE, _ENDPOINTS))


def leaf_of(frontend: bytes) -> str:
    """The chain that has the rules of a frontend."""
    if len(frontend) > 3:
        low = frontend[-4]
        return f"{_VIP_NODE}{low & 15:x}{low >> 4:x}"
    letter = next(each for each, protocol in _LETTERS.items() if protocol == frontend[0])
    return f"{_PORT_NODE}{letter}{frontend[1]:02x}{frontend[2] >> 4:x}"


def parent_of(chain: str) -> str:
    """The chain that leads to a leaf or an inner chain."""
    if chain.startswith(_VIP_NODE):
        return VIPS if len(chain) == len(_VIP_NODE) + 1 else chain[:-1]
    return PORTS if len(chain) == len(_PORT_NODE) + 3 else chain[:-1]


def is_root(chain: str) -> bool:
    """Whether it is the top of a tree."""
    return chain in (VIPS, PORTS)


def link(chain: str, family: Family) -> str:
    """The rule in the parent that leads to a chain of the tree, without its `-A PARENT`."""
    if chain.startswith(_VIP_NODE):
        digits = chain[len(_VIP_NODE) :]
        value, mask = (int(digits, 16), 0x0F) if len(digits) == 1 else (int(digits[1], 16) << 4, 0xF0)
        text = f"0.0.0.{value}/0.0.0.{mask}" if family is Family.IPV4 else f"::{value:x}/::{mask:x}"
        return f"-d {text.replace('::0/', '::/')} -j {chain}"
    digits = chain[len(_PORT_NODE) :]
    word = WORDS[_LETTERS[digits[0]]]
    bits = 16 - 4 * len(digits[1:])
    first = int(digits[1:], 16) << bits
    return f"-p {word} -m {word} --dport {first}:{first + (1 << bits) - 1} -j {chain}"


def _hash(*parts: bytes | int) -> str:
    digest = hashlib.blake2b(digest_size=_NAME_BYTES)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else bytes((part,)))
    return digest.hexdigest()
