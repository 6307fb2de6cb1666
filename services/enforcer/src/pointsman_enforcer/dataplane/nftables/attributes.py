# SPDX-License-Identifier: Apache-2.0
"""Netlink attributes (type, length, value), both ways: the alphabet every message is written in."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from pointsman_enforcer.dataplane.nftables import uapi

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTRIBUTE_BYTES_MAX: Final = 0xFFFF
_HEADER: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes; raises ValueError when the value does not fit a 16-bit length."""
    length = len(value) + 4
    if length > ATTRIBUTE_BYTES_MAX:
        raise ValueError(f"netlink attribute {kind} of {length} bytes is over the limit of {ATTRIBUTE_BYTES_MAX}")
    return _HEADER.pack(length, kind) + value + b"\0" * (-length & 3)


def nested(kind: int, *children: bytes) -> bytes:
    """One attribute that contains attributes."""
    return attribute(kind | uapi.NLA_F_NESTED, b"".join(children))


def u32(kind: int, value: int) -> bytes:
    """A 32-bit number, big-endian as all of nf_tables is."""
    return attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def u64(kind: int, value: int) -> bytes:
    """A 64-bit number, big-endian."""
    return attribute(kind, value.to_bytes(8, "big"))


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated name, ours or one that `name_of` gave."""
    return attribute(kind, value.encode("latin-1") + b"\0")


def name_of(value: bytes) -> str:
    """The name in an attribute. To the kernel it is bytes, any that somebody gave it; here each is a character."""
    return value.partition(b"\0")[0].decode("latin-1")


def userdata(kind: int, value: bytes) -> bytes:
    """One entry of nft's own list inside *_USERDATA: one byte of type, one of length, no padding."""
    if len(value) > 0xFF:
        raise ValueError(f"userdata entry {kind} of {len(value)} bytes is over the limit of 255")
    return bytes((kind, len(value))) + value


def comment(kind: int, words: str) -> bytes:
    """The userdata entry that nft prints as `comment "words"`."""
    value = words.encode("ascii") + b"\0"
    if len(value) > uapi.UDATA_COMMENT_BYTES_MAX:
        raise ValueError(f"comment of {len(value) - 1} bytes is over nft's limit of {uapi.UDATA_COMMENT_BYTES_MAX - 1}")
    return userdata(kind, value)


def parse(data: bytes) -> dict[int, bytes]:
    """The attributes of a message or nested attribute, by type; of a repeated type the last one counts."""
    return dict(walk(data))


def walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in order, as (type, value); raises ValueError when a length contradicts the data."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _HEADER.unpack_from(data, offset)
        if length < 4 or offset + length > len(data):
            raise ValueError(f"netlink attribute at byte {offset} claims {length} of {len(data)} bytes")
        yield kind & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
