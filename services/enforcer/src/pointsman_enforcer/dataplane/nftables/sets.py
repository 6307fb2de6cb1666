# SPDX-License-Identifier: Apache-2.0
"""What a set or map of ours looks like, and how the kernel and nft are told.

nft stores beside each set how its keys are to be printed. For plain keys a number for the type is enough. The slot of
an endpoint is a number that nft has no type name for, so the maps that contain it are declared by expression
(`typeof ip daddr . meta l4proto . th dport . numgen random mod 65536`). That form prints well in nft 1.0.6 and, unlike
the type `mark`, can also be loaded back from what was printed. Maps with a priority are declared so, too.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.attributes import attribute, comment, nested, text, u32, userdata
from pointsman_enforcer.dataplane.nftables.message import Family, Message, Table

_BYTEORDER_HOST: Final = 1
_BYTEORDER_BIG: Final = 2
_TYPE_BITS: Final = 6
_TYPEOF_CONCAT: Final = 13
_TYPEOF_PAYLOAD: Final = 7
_TYPEOF_META: Final = 9
_TYPEOF_NUMGEN: Final = 23
_HEADER_TRANSPORT: Final = 11
_TRANSPORT_DPORT: Final = 2
SLOTS: Final = 65536
"""Slots of one endpoint set; the local set's start here."""


class Field(Enum):
    """One part of a key or value."""

    ADDRESS = "address"
    PROTOCOL = "protocol"
    PORT = "port"
    SLOT = "slot"
    MARK = "mark"
    PRIORITY = "priority"
    """Of the packet (`meta priority`): four bytes that rules hand from one lookup to the next, see affinity.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSpec:
    """A set (no `data`), a map (`data` fields) or a verdict map (`verdicts`).

    Attributes:
        name: as in nft.
        key: parts of the key; each takes a multiple of four bytes, filled up with zeros at its end.
        data: parts of the value.
        verdicts: the value is the name of a chain to go to.
        interval: elements are ranges of keys, both ends included.
        timeout: elements may expire, and rules may add some.
        size: most elements it may have, 0 for no limit.
        words: comment for people.
    """

    name: str
    key: tuple[Field, ...]
    data: tuple[Field, ...] = ()
    verdicts: bool = False
    interval: bool = False
    timeout: bool = False
    size: int = 0
    words: str = ""

    @property
    def is_map(self) -> bool:
        """Whether elements have a value."""
        return self.verdicts or bool(self.data)

    def key_bytes(self, family: Family) -> int:
        """Length of an encoded key."""
        return sum(_padded(field, family) for field in self.key)

    def data_bytes(self, family: Family) -> int:
        """Length of an encoded value; 0 for sets and verdict maps."""
        return sum(_padded(field, family) for field in self.data)

    @property
    def by_expression(self) -> bool:
        """Whether a part has no type name that could be loaded back."""
        return not {Field.SLOT, Field.PRIORITY}.isdisjoint(self.key + self.data)


def add_set(table: Table, spec: SetSpec, number: int) -> Message:
    """Create the set; one that exists is left as it is. `number` is unique among the sets of one batch."""
    family = table.family
    parts = [
        text(uapi.NFTA_SET_TABLE, table.name),
        text(uapi.NFTA_SET_NAME, spec.name),
        u32(uapi.NFTA_SET_FLAGS, _flags(spec)),
        u32(uapi.NFTA_SET_KEY_TYPE, _type_number(spec.key, family)),
        u32(uapi.NFTA_SET_KEY_LEN, spec.key_bytes(family)),
    ]
    if spec.is_map:
        kind = uapi.NFT_DATA_VERDICT if spec.verdicts else _type_number(spec.data, family)
        parts += [u32(uapi.NFTA_SET_DATA_TYPE, kind), u32(uapi.NFTA_SET_DATA_LEN, spec.data_bytes(family))]
    parts.append(u32(uapi.NFTA_SET_ID, number))
    if spec.interval and len(spec.key) > 1:
        lengths = (
            nested(uapi.NFTA_LIST_ELEM, u32(uapi.NFTA_SET_FIELD_LEN, _length(field, family))) for field in spec.key
        )
        parts.append(nested(uapi.NFTA_SET_DESC, nested(uapi.NFTA_SET_DESC_CONCAT, *lengths)))
    if spec.size:
        parts.append(nested(uapi.NFTA_SET_DESC, u32(uapi.NFTA_SET_DESC_SIZE, spec.size)))
    parts.append(attribute(uapi.NFTA_SET_USERDATA, _userdata(spec, family)))
    return Message(
        kind=uapi.NFT_MSG_NEWSET,
        flags=uapi.NLM_F_CREATE,
        family=family,
        payload=b"".join(parts),
        what=f"add set {spec.name}: table {family.keyword} {table.name}",
    )


def _flags(spec: SetSpec) -> int:
    flags = uapi.NFT_SET_MAP if spec.is_map else 0
    if spec.interval:
        flags |= uapi.NFT_SET_INTERVAL | (uapi.NFT_SET_CONCAT if len(spec.key) > 1 else 0)
    if spec.timeout:
        flags |= uapi.NFT_SET_TIMEOUT | uapi.NFT_SET_EVAL
    return flags


def _length(field: Field, family: Family) -> int:
    if field is Field.ADDRESS:
        return family.address_bytes
    if field is Field.PROTOCOL:
        return 1
    return 2 if field is Field.PORT else 4


def _padded(field: Field, family: Family) -> int:
    return (_length(field, family) + 3) & ~3


def _type_number(fields: tuple[Field, ...], family: Family) -> int:
    """The number nft has for a data type; of a concatenation, six bits per part."""
    number = 0
    for field in fields:
        number = number << _TYPE_BITS | _datatype(field, family)
    return number


def _datatype(field: Field, family: Family) -> int:
    if field is Field.ADDRESS:
        return 7 if family is Family.IPV4 else 8
    return {Field.PROTOCOL: 12, Field.PORT: 13, Field.SLOT: 4, Field.MARK: 19, Field.PRIORITY: 23}[field]


def _userdata(spec: SetSpec, family: Family) -> bytes:
    parts = [_number(uapi.UDATA_SET_KEYBYTEORDER, _byteorder(spec.key))]
    if spec.is_map:
        parts.append(_number(uapi.UDATA_SET_DATABYTEORDER, _byteorder(spec.data)))
    if spec.by_expression:
        parts.append(userdata(uapi.UDATA_SET_KEY_TYPEOF, _typeof(spec.key, family)))
        parts.append(userdata(uapi.UDATA_SET_DATA_TYPEOF, _typeof(spec.data, family)))
    if spec.is_map:
        parts.append(_number(uapi.UDATA_SET_DATA_INTERVAL, 0))
    if spec.words:
        parts.append(comment(uapi.UDATA_SET_COMMENT, spec.words))
    return b"".join(parts)


def _byteorder(fields: tuple[Field, ...]) -> int:
    """Concatenations and verdicts have none of their own."""
    if len(fields) != 1:
        return 0
    return _BYTEORDER_HOST if fields[0] in (Field.SLOT, Field.MARK, Field.PRIORITY) else _BYTEORDER_BIG


def _typeof(fields: tuple[Field, ...], family: Family) -> bytes:
    """The expression nft prints after `typeof`."""
    if len(fields) == 1:
        return _typeof_field(fields[0], family)
    parts = (userdata(index, _typeof_field(field, family)) for index, field in enumerate(fields))
    return _number(0, _TYPEOF_CONCAT) + userdata(1, b"".join(parts))


def _typeof_field(field: Field, family: Family) -> bytes:
    if field is Field.ADDRESS:
        header, daddr = (12, 12) if family is Family.IPV4 else (13, 9)
        return _typeof_expression(_TYPEOF_PAYLOAD, header, daddr)
    if field is Field.PROTOCOL:
        return _typeof_expression(_TYPEOF_META, 16)
    if field is Field.PRIORITY:
        return _typeof_expression(_TYPEOF_META, 2)
    if field is Field.PORT:
        return _typeof_expression(_TYPEOF_PAYLOAD, _HEADER_TRANSPORT, _TRANSPORT_DPORT)
    return _typeof_expression(_TYPEOF_NUMGEN, 1, SLOTS, 0)


def _typeof_expression(kind: int, *numbers: int) -> bytes:
    inner = b"".join(_number(index, number) for index, number in enumerate(numbers))
    return _number(0, kind) + userdata(1, inner)


def _number(kind: int, number: int) -> bytes:
    return userdata(kind, struct.pack("=I", number))
