# SPDX-License-Identifier: Apache-2.0
"""Elements of sets and maps: the only thing a change of a Service or an endpoint is made of.

Keys and values are packed bytes, in and out: no object per endpoint exists anywhere. Per set, the bytes around a key
and around a value are constant, so encoding an element is joining four byte strings.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.attributes import attribute, comment, nested, text, u32, walk
from pointsman_enforcer.dataplane.nftables.expressions import verdict_data
from pointsman_enforcer.dataplane.nftables.message import Message, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pointsman_enforcer.dataplane.nftables.sets import SetSpec

_LIST_BYTES_MAX: Final = 60_000
"""Elements of one message: an attribute's length is 16 bits."""
_NESTED: Final = struct.Struct("=HH")
_U64: Final = struct.Struct(">Q")


class Element(NamedTuple):
    """An element as the kernel has it.

    Attributes:
        key: packed as the set's fields say.
        data: packed value; for a verdict map the name of the chain it goes to; empty for a set.
        key_end: last key of a range in a set of concatenated intervals.
        interval_end: in a set of plain intervals, `key` is the first one after a range and not its beginning.
        comment: the words stored with it.
        expiration_ms: time left, 0 when it does not expire.
        timeout_ms: how long it is kept, 0 when it does not expire.
    """

    key: bytes
    data: bytes = b""
    key_end: bytes = b""
    interval_end: bool = False
    comment: str = ""
    expiration_ms: int = 0
    timeout_ms: int = 0


Timed = tuple[bytes, bytes, int, int]
"""An element of a map that expires: key, value, timeout and time left, both in milliseconds."""


def add_elements(table: Table, spec: SetSpec, elements: Iterable[tuple[bytes, bytes]]) -> list[Message]:
    """Add (key, value) pairs to a map or verdict map.

    A pair that is there already is no error; the same key with another value is (EBUSY): delete the key first, which
    may happen in the same batch. Values of a verdict map are chain names in ASCII.
    """
    if spec.verdicts:
        return _messages(table, spec, _verdict_elements(table, spec, elements), delete=False)
    key_bytes, data_bytes = spec.key_bytes(table.family), spec.data_bytes(table.family)
    before = _around(uapi.NFTA_LIST_ELEM, key_bytes + 8 + data_bytes + 8) + _key_prefix(key_bytes)
    between = _around(uapi.NFTA_SET_ELEM_DATA, data_bytes + 4) + _NESTED.pack(data_bytes + 4, uapi.NFTA_DATA_VALUE)
    size = len(before) + key_bytes + len(between) + data_bytes
    encoded = (before + key + between + data for key, data in elements)
    return _messages(table, spec, encoded, delete=False, element_bytes=size)


def add_keys(table: Table, spec: SetSpec, keys: Iterable[bytes]) -> list[Message]:
    """Add keys to a set; one that is there already is no error."""
    return _key_messages(table, spec, keys, delete=False)


def delete_keys(table: Table, spec: SetSpec, keys: Iterable[bytes]) -> list[Message]:
    """Delete elements of a set or of any map by their keys; ENOENT when one is not there."""
    return _key_messages(table, spec, keys, delete=True)


def add_ranges(table: Table, spec: SetSpec, ranges: Iterable[tuple[bytes, bytes]]) -> list[Message]:
    """Add ranges (first key, last key), both included, to an interval set. They must not overlap."""
    return _messages(table, spec, _range_elements(spec, ranges), delete=False)


def delete_ranges(table: Table, spec: SetSpec, ranges: Iterable[tuple[bytes, bytes]]) -> list[Message]:
    """Delete ranges exactly as they were added."""
    return _messages(table, spec, _range_elements(spec, ranges), delete=True)


def add_commented(table: Table, spec: SetSpec, key: bytes, words: str) -> list[Message]:
    """Add a key with words that nft prints and that a restarted process reads back."""
    note = attribute(uapi.NFTA_SET_ELEM_USERDATA, comment(uapi.UDATA_ELEM_COMMENT, words))
    return _messages(table, spec, [nested(uapi.NFTA_LIST_ELEM, _key(key), note)], delete=False)


def add_timed(table: Table, spec: SetSpec, elements: Iterable[Timed]) -> list[Message]:
    """Add elements that expire to a map.

    One that is there already is refused (EEXIST; EBUSY with another value): the kernel would else change its time.
    """
    key_bytes, data_bytes = spec.key_bytes(table.family), spec.data_bytes(table.family)
    around = _timed_parts(key_bytes, data_bytes)
    encoded = (
        b"".join((around[0], key, around[1], data, around[2], _U64.pack(timeout_ms), around[3], _U64.pack(left_ms)))
        for key, data, timeout_ms, left_ms in elements
    )
    size = _timed_bytes(key_bytes, data_bytes)
    return _messages(table, spec, encoded, delete=False, element_bytes=size, flags=uapi.NLM_F_CREATE | uapi.NLM_F_EXCL)


def parse_timed(payload: bytes, key_bytes: int, data_bytes: int) -> Iterable[Timed]:
    """The elements of one NFT_MSG_NEWSETELEM message of a map whose elements expire, given its attributes.

    The kernel lays them out alike, and one call takes each apart: there may be a hundred thousand.
    """
    width, around = _timed_bytes(key_bytes, data_bytes), _timed_parts(key_bytes, data_bytes)
    layout = struct.Struct(f">{len(around[0])}s{key_bytes}s{len(around[1])}s{data_bytes}s4sQ4sQ")
    for kind, value in walk(payload):
        if kind != uapi.NFTA_SET_ELEM_LIST_ELEMENTS:
            continue
        if len(value) % width == 0:
            found = list(layout.iter_unpack(value))
            if all((each[0], each[2], each[4], each[6]) == around for each in found):
                return [(key, data, timeout_ms, left_ms) for _, key, _, data, _, timeout_ms, _, left_ms in found]
    elements = list(parse_elements(payload))
    return [(each.key, each.data, each.timeout_ms, each.expiration_ms) for each in elements if each.expiration_ms]


def _timed_parts(key_bytes: int, data_bytes: int) -> tuple[bytes, bytes, bytes, bytes]:
    """The constant bytes in front of key, value, timeout and time left."""
    return (
        _around(uapi.NFTA_LIST_ELEM, _timed_bytes(key_bytes, data_bytes) - 4) + _key_prefix(key_bytes),
        _around(uapi.NFTA_SET_ELEM_DATA, data_bytes + 4) + _NESTED.pack(data_bytes + 4, uapi.NFTA_DATA_VALUE),
        _NESTED.pack(12, uapi.NFTA_SET_ELEM_TIMEOUT),
        _NESTED.pack(12, uapi.NFTA_SET_ELEM_EXPIRATION),
    )


def _timed_bytes(key_bytes: int, data_bytes: int) -> int:
    return 4 + 8 + key_bytes + 8 + data_bytes + 12 + 12


def element_question(table: Table, spec: SetSpec, key: bytes) -> bytes:
    """The attributes of NFT_MSG_GETSETELEM for one element."""
    head = text(uapi.NFTA_SET_ELEM_LIST_TABLE, table.name) + text(uapi.NFTA_SET_ELEM_LIST_SET, spec.name)
    return head + nested(uapi.NFTA_SET_ELEM_LIST_ELEMENTS, nested(uapi.NFTA_LIST_ELEM, _key(key)))


def flush_set(table: Table, spec: SetSpec) -> Message:
    """Delete all elements of a set or map."""
    payload = text(uapi.NFTA_SET_ELEM_LIST_TABLE, table.name) + text(uapi.NFTA_SET_ELEM_LIST_SET, spec.name)
    return Message(
        kind=uapi.NFT_MSG_DELSETELEM, flags=0, family=table.family, payload=payload, what=_what(table, spec, "flush")
    )


def parse_elements(payload: bytes) -> Iterator[Element]:
    """The elements of one NFT_MSG_NEWSETELEM message, given its attributes."""
    for kind, value in walk(payload):
        if kind == uapi.NFTA_SET_ELEM_LIST_ELEMENTS:
            for _, element in walk(value):
                yield _parse_element(element)


def _parse_element(encoded: bytes) -> Element:
    key = data = key_end = b""
    interval_end, words, expiration_ms, timeout_ms = False, "", 0, 0
    for kind, value in walk(encoded):
        if kind == uapi.NFTA_SET_ELEM_KEY:
            key = value[4:]
        elif kind == uapi.NFTA_SET_ELEM_DATA:
            data = _parse_data(value)
        elif kind == uapi.NFTA_SET_ELEM_KEY_END:
            key_end = value[4:]
        elif kind == uapi.NFTA_SET_ELEM_FLAGS:
            interval_end = bool(int.from_bytes(value, "big") & uapi.NFT_SET_ELEM_INTERVAL_END)
        elif kind == uapi.NFTA_SET_ELEM_USERDATA and value[:1] == bytes((uapi.UDATA_ELEM_COMMENT,)):
            words = value[2 : 2 + value[1]].rstrip(b"\0").decode("ascii", "replace")
        elif kind == uapi.NFTA_SET_ELEM_EXPIRATION:
            expiration_ms = int.from_bytes(value, "big")
        elif kind == uapi.NFTA_SET_ELEM_TIMEOUT:
            timeout_ms = int.from_bytes(value, "big")
    return Element(key, data, key_end, interval_end, words, expiration_ms, timeout_ms)


def _parse_data(encoded: bytes) -> bytes:
    for kind, value in walk(encoded):
        if kind == uapi.NFTA_DATA_VALUE:
            return value
        if kind == uapi.NFTA_DATA_VERDICT:
            return dict(walk(value)).get(uapi.NFTA_VERDICT_CHAIN, b"").rstrip(b"\0")
    return b""


def _key_messages(table: Table, spec: SetSpec, keys: Iterable[bytes], *, delete: bool) -> list[Message]:
    key_bytes = spec.key_bytes(table.family)
    before = _around(uapi.NFTA_LIST_ELEM, key_bytes + 8) + _key_prefix(key_bytes)
    encoded = (before + key for key in keys)
    return _messages(table, spec, encoded, delete=delete, element_bytes=len(before) + key_bytes)


def _verdict_elements(table: Table, spec: SetSpec, elements: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    key_bytes = spec.key_bytes(table.family)
    around: dict[bytes, tuple[bytes, bytes]] = {}
    for key, chain in elements:
        if chain not in around:
            after = nested(uapi.NFTA_SET_ELEM_DATA, verdict_data(uapi.NFT_GOTO, chain.decode("ascii")))
            before = _around(uapi.NFTA_LIST_ELEM, key_bytes + 8 + len(after)) + _key_prefix(key_bytes)
            around[chain] = before, after
        if len(key) != key_bytes:
            raise ValueError(f"a key of {spec.name} has {key_bytes} bytes, got {len(key)}")
        before, after = around[chain]
        yield before + key + after


def _range_elements(spec: SetSpec, ranges: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Concatenations carry both ends in one element; plain keys are two: the first, and the first one after."""
    for first, last in ranges:
        if len(spec.key) > 1:
            end = nested(uapi.NFTA_SET_ELEM_KEY_END, attribute(uapi.NFTA_DATA_VALUE, last))
            yield nested(uapi.NFTA_LIST_ELEM, _key(first), end)
            continue
        yield nested(uapi.NFTA_LIST_ELEM, _key(first))
        if last != b"\xff" * len(last):
            after = (int.from_bytes(last, "big") + 1).to_bytes(len(last), "big")
            flags = u32(uapi.NFTA_SET_ELEM_FLAGS, uapi.NFT_SET_ELEM_INTERVAL_END)
            yield nested(uapi.NFTA_LIST_ELEM, flags, _key(after))


def _key(key: bytes) -> bytes:
    return nested(uapi.NFTA_SET_ELEM_KEY, attribute(uapi.NFTA_DATA_VALUE, key))


def _key_prefix(key_bytes: int) -> bytes:
    return _around(uapi.NFTA_SET_ELEM_KEY, key_bytes + 4) + _NESTED.pack(key_bytes + 4, uapi.NFTA_DATA_VALUE)


def _around(kind: int, inside: int) -> bytes:
    return _NESTED.pack(inside + 4, kind | uapi.NLA_F_NESTED)


def _messages(
    table: Table,
    spec: SetSpec,
    encoded: Iterable[bytes],
    *,
    delete: bool,
    element_bytes: int = 0,
    flags: int = uapi.NLM_F_CREATE,
) -> list[Message]:
    """As many messages as the elements need. `element_bytes`: what each of them must measure, if not 0."""
    kind = uapi.NFT_MSG_DELSETELEM if delete else uapi.NFT_MSG_NEWSETELEM
    what = _what(table, spec, "delete elements of" if delete else "add elements to")
    head = text(uapi.NFTA_SET_ELEM_LIST_TABLE, table.name) + text(uapi.NFTA_SET_ELEM_LIST_SET, spec.name)
    return [
        Message(
            kind=kind,
            flags=0 if delete else flags,
            family=table.family,
            payload=head + nested(uapi.NFTA_SET_ELEM_LIST_ELEMENTS, chunk),
            what=what,
        )
        for chunk in _chunks(spec, encoded, element_bytes)
    ]


def _chunks(spec: SetSpec, encoded: Iterable[bytes], element_bytes: int) -> Iterator[bytes]:
    chunk: list[bytes] = []
    size = 0
    for element in encoded:
        if element_bytes and len(element) != element_bytes:
            wrong = len(element) - element_bytes
            raise ValueError(f"key or value of an element of {spec.name} is {wrong:+d} bytes off its fixed length")
        if size + len(element) > _LIST_BYTES_MAX:
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk.append(element)
        size += len(element)
    if chunk:
        yield b"".join(chunk)


def _what(table: Table, spec: SetSpec, verb: str) -> str:
    return f"{verb} {spec.name}: table {table.family.keyword} {table.name}"
