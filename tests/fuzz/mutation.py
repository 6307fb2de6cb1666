# SPDX-License-Identifier: Apache-2.0
"""Sound values made hostile: bytes, JSON documents, protobuf messages. All draws shrink towards the sound value."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

_INTEGERS = (0, 1, -1, 2, 80, 127, 128, 255, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63))
_HUGE = (2**64 - 1, 2**64, 10**30, -(10**30))
TEXTS = (
    "",
    "a",
    "A b/c",
    "x" * 300,
    "..",
    "\0",
    "\n\u2028",
    "\U0001f600",
    "10.0.0.1",
    "010.0.0.01",
    "256.1.1.1",
    "::",
    "::ffff:10.0.0.1",
    "fe80::1%eth0",
    "127.0.0.1",
    "224.0.0.1",
    "0.0.0.0/0",
    "10.0.0.0/33",
    "::/129",
    "10.1.2.3/8",
    "None",
    "Local",
    "TCP",
    "SCTP",
    "9999-12-31T23:59:59.999999999Z",
    "0001-01-01T00:00:00+23:59",
    "2024-02-30T00:00:00Z",
)
_BYTES = (*(bytes(range(1, size + 1)) for size in (0, 1, 3, 4, 5, 15, 16, 17, 64)), bytes(4), bytes(16), b"\xff" * 4)
_SCALARS: tuple[Any, ...] = (None, True, False, 1.5, -0.0, 1e308, *_INTEGERS, *_HUGE, *TEXTS)
_JSON = st.one_of(
    st.sampled_from(_SCALARS),
    st.just([]),
    st.just({}),
    st.just([None]),
    st.just([[], {}]),
    st.just({"a": {"b": [1]}}),
    st.text(max_size=20),
    st.integers(),
    st.lists(st.sampled_from(TEXTS), max_size=4),
)


@st.composite
def mutated_bytes(draw: st.DrawFn, sound: st.SearchStrategy[bytes], *, changes_max: int = 5) -> bytes:
    """Sound bytes with up to `changes_max` flips, cuts, repeats, insertions."""
    data = bytearray(draw(sound))
    for _ in range(draw(st.integers(0, changes_max))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        size = draw(st.integers(1, 16))
        kind = draw(st.sampled_from(("flip", "set", "cut", "repeat", "insert", "end", "move")))
        if kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            data[at] = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x5B, 0x7B)))
        elif kind == "cut":
            del data[at : at + size]
        elif kind == "repeat":
            data[at:at] = data[at : at + size] * draw(st.integers(1, 3))
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif kind == "move":
            piece = data[at : at + size]
            del data[at : at + size]
            to = draw(st.integers(0, len(data)))
            data[to:to] = piece
        else:
            del data[at:]
    return bytes(data)


@st.composite
def mutated_json(draw: st.DrawFn, sound: Any, *, changes_max: int = 4) -> Any:
    """A JSON document with up to `changes_max` values replaced, removed, repeated, or keys added."""
    document = {"root": copy.deepcopy(sound)}
    for _ in range(draw(st.integers(0, changes_max))):
        place: Any = document
        key: Any = "root"
        while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 4)):
            place = place[key]
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        kind = draw(st.sampled_from(("replace", "replace", "remove", "repeat", "add")))
        if kind == "remove" and place is not document:
            del place[key]
        elif kind == "repeat" and isinstance(place, list):
            place[key:key] = copy.deepcopy(place[key : key + 1]) * draw(st.sampled_from((1, 2, 200)))
        elif kind == "add" and isinstance(place[key], dict):
            place[key][draw(st.sampled_from(TEXTS))] = copy.deepcopy(draw(_JSON))
        else:
            place[key] = copy.deepcopy(draw(_JSON))
    return document["root"]


@st.composite
def mutated_message(draw: st.DrawFn, sound: st.SearchStrategy[Message], *, changes_max: int = 4) -> Message:
    """A protobuf message with up to `changes_max` fields, at any depth, set to something hostile."""
    message = copy.deepcopy(draw(sound))
    for _ in range(draw(st.integers(0, changes_max))):
        _disturb(draw, message)
    return message


def _disturb(draw: st.DrawFn, message: Message) -> None:
    place = message
    while True:
        below = [value for field, value in place.ListFields() for value in _messages(field, value)]
        if not below or not draw(st.integers(0, 3)):
            break
        place = draw(st.sampled_from(below))
    fields: list[Any] = list(place.DESCRIPTOR.fields)
    if not fields:
        return
    field: FieldDescriptor = draw(st.sampled_from(fields))
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = getattr(place, field.name)
        if field.message_type.fields_by_name["value"].message_type is None:
            value[draw(st.sampled_from(TEXTS))] = draw(st.sampled_from(TEXTS))
    elif field.is_repeated:
        _disturb_repeated(draw, place, field)
    elif field.message_type is not None:
        if draw(st.booleans()):
            place.ClearField(field.name)
        else:
            getattr(place, field.name).SetInParent()
    else:
        setattr(place, field.name, draw(_scalar(field)))


def _disturb_repeated(draw: st.DrawFn, place: Message, field: FieldDescriptor) -> None:
    values = getattr(place, field.name)
    kind = draw(st.sampled_from(("add", "clear", "repeat", "drop", "swap")))
    if kind == "clear":
        place.ClearField(field.name)
    elif kind == "drop" and len(values):
        del values[draw(st.integers(0, len(values) - 1))]
    elif kind == "repeat" and len(values):
        index = draw(st.integers(0, len(values) - 1))
        values.extend([values[index]] * draw(st.sampled_from((1, 2, 300))))
    elif kind == "swap" and len(values) > 1:
        first = copy.deepcopy(values[0])
        del values[0]
        values.append(first)
    elif field.message_type is not None:
        values.add()
    else:
        values.append(draw(_scalar(field)))


def _messages(field: FieldDescriptor, value: Any) -> Sequence[Message]:
    if field.message_type is None or field.message_type.GetOptions().map_entry:
        return ()
    return list(value)[:20] if field.is_repeated else (value,)


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return st.sampled_from(_BYTES) if field.type == FieldDescriptor.TYPE_BYTES else st.sampled_from(TEXTS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return st.sampled_from((0.0, -1.0, 1e300, float("inf"), float("nan")))
    bits = 31 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM) else 63
    if kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        low, high = 0, (1 << (32 if kind == FieldDescriptor.CPPTYPE_UINT32 else 64)) - 1
    else:
        low, high = -(1 << bits), (1 << bits) - 1
    return st.sampled_from([number for number in (*_INTEGERS, low, high) if low <= number <= high])
