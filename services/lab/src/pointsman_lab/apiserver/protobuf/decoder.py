# SPDX-License-Identifier: Apache-2.0
r"""Decodes Kubernetes protobuf to the JSON form of the same object, by the table in schema.json.

A body is `k8s\0` and a runtime.Unknown: {1: {1: apiVersion, 2: kind}, 2: the object's own bytes}. Fields that are zero
and no pointers are left out, as Go leaves them out of JSON; unknown fields are skipped, as any reader skips them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman_lab.apiserver.encoding import Json

MAGIC: Final = b"k8s\0"
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_SIGN_BIT, _WORD = 1 << 63, 1 << 64
_GROUP_ALIASES: Final = {"": "core"}
_DEPTH_MAX: Final = 40
_SECONDS_MAX: Final = 253402300799  # the last second of the year 9999


class UnknownKindError(ValueError):
    """The body is of a kind that is not in the schema."""


class ProtobufDecoder:
    """Reads bodies of the kinds in the schema; build one and keep it."""

    def __init__(self) -> None:
        text = resources.files(__package__).joinpath("schema.json").read_text()
        self._messages: dict[str, dict[str, list[str]]] = json.loads(text)

    def decode(self, raw: bytes) -> Json:
        """Give the object in a body.

        Raises:
            UnknownKindError: for a kind that is not in the schema.
            ValueError: when the bytes are no Kubernetes protobuf.
        """
        if not raw.startswith(MAGIC):
            raise ValueError("the body does not start with k8s\\0")
        envelope = dict(_records(raw[len(MAGIC) :]))
        kind_of = dict(_records(_as_bytes(envelope.get(1, b""))))
        version, kind = _as_bytes(kind_of.get(1, b"")).decode(), _as_bytes(kind_of.get(2, b"")).decode()
        group = version.rpartition("/")[0].partition(".")[0]
        name = f"{_GROUP_ALIASES.get(group, group)}.{kind}"
        if kind == "DeleteOptions":
            name = "meta.DeleteOptions"
        if name not in self._messages:
            raise UnknownKindError(f"{kind} of {version} is not among the kinds this server reads so; send JSON")
        body = self._message(name, _as_bytes(envelope.get(2, b"")), 0)
        return {"kind": kind, "apiVersion": version, **body}

    def _message(self, name: str, raw: bytes, depth: int) -> Json:
        if depth > _DEPTH_MAX:
            raise ValueError(f"the object is nested deeper than {_DEPTH_MAX} levels")
        fields = self._messages[name]
        result: Json = {}
        for number, value in _records(raw):
            known = fields.get(str(number))
            if known is None:
                continue
            field, kind, flags = known
            if "m" in flags:
                entry = dict(_records(_as_bytes(value)))
                key = _as_bytes(entry.get(1, b"")).decode()
                result.setdefault(field, {})[key] = self._value(kind, entry.get(2, b""), depth)
                continue
            decoded = self._value(kind, value, depth)
            if "i" in flags:
                result.update(decoded)
            elif "r" in flags:
                result.setdefault(field, []).append(decoded)
            elif decoded is not None and ("p" in flags or decoded not in ("", 0, False)):
                result[field] = decoded
        return result

    def _value(self, kind: str, value: int | bytes, depth: int) -> Any:
        read = _SCALARS.get(kind)
        return self._message(kind, _as_bytes(value), depth + 1) if read is None else read(value)


def _records(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Give (field number, value) for each record of a message."""
    position = 0
    while position < len(raw):
        tag, position = _varint(raw, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(raw, position)
            yield number, value
            continue
        if wire == _DELIMITED:
            size, position = _varint(raw, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"the body has a record of wire type {wire}, which Kubernetes does not use")
        if position + size > len(raw):
            raise ValueError("the body ends in the middle of a record")
        yield number, raw[position : position + size]
        position += size


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(raw) or shift > 63:
            raise ValueError("the body ends in the middle of a number")
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _as_bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field holds a number where bytes belong")  # noqa: TRY004 - bad input, like the others
    return value


def _as_int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a field holds bytes where a number belongs")  # noqa: TRY004 - bad input, like the others
    return value


def _number(value: int | bytes) -> int:
    number = _as_int(value)
    return number - _WORD if number & _SIGN_BIT else number


def _text(value: int | bytes) -> str:
    return _as_bytes(value).decode()


def _first_bytes(value: int | bytes) -> bytes:
    """Give field 1 of a message that only wraps it."""
    return _as_bytes(dict(_records(_as_bytes(value))).get(1, b""))


def _time_text(value: int | bytes) -> str | None:
    """Give the time in the form of the API, None for the zero time; fractions stay when there are any."""
    parts = dict(_records(_as_bytes(value)))
    seconds, nanos = _number(parts.get(1, 0)), _as_int(parts.get(2, 0))
    if not parts or not 0 <= seconds <= _SECONDS_MAX:
        return None
    moment = datetime.fromtimestamp(seconds, UTC)
    fraction = f".{nanos // 1000:06d}" if nanos else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def _int_or_string(value: int | bytes) -> int | str:
    parts = dict(_records(_as_bytes(value)))
    return _text(parts.get(3, b"")) if parts.get(1, 0) == 1 else _number(parts.get(2, 0))


_SCALARS: Final[dict[str, Callable[[int | bytes], Any]]] = {
    "bool": lambda value: bool(_as_int(value)),
    "bytes": lambda value: base64.b64encode(_as_bytes(value)).decode(),
    "int": _number,
    "intorstring": _int_or_string,
    "quantity": lambda value: _first_bytes(value).decode(),
    "raw": lambda value: json.loads(_first_bytes(value) or b"null"),
    "string": _text,
    "time": _time_text,
}
