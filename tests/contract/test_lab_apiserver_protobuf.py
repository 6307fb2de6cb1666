# SPDX-License-Identifier: Apache-2.0
"""Protobuf bodies mean what the same objects mean in JSON: held against both encodings of one recorded world."""

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_lab.apiserver import ApiError
from pointsman_lab.apiserver.negotiation import PROTOBUF_TYPE, BodyReader
from pointsman_lab.apiserver.protobuf.decoder import MAGIC, ProtobufDecoder, _records

Json = dict[str, Any]


def recorded(name: str) -> Json:
    default = Path(__file__).resolve().parents[2].parent / "shared" / "recorded"
    folder = Path(os.environ.get("POINTSMAN_RECORDED") or default)
    if not (folder / name).is_file():
        pytest.skip(f"no recorded answers of a real API server in {folder}; set POINTSMAN_RECORDED to their folder")
    exchange: Json = json.loads((folder / name).read_text())
    return exchange


def field(number: int, value: bytes) -> bytes:
    size, encoded = len(value), b""
    while size > 0x7F:
        encoded, size = encoded + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + encoded + bytes([size]) + value


def body(version: str, kind: str, raw: bytes) -> bytes:
    return MAGIC + field(1, field(1, version.encode()) + field(2, kind.encode())) + field(2, raw)


def items_of(answer: Json) -> Iterator[bytes]:
    """Give the encoded items of a recorded protobuf list: field 2 of the object in the envelope."""
    raw = base64.b64decode(answer["body_base64"])
    (listed,) = (value for number, value in _records(raw[len(MAGIC) :]) if number == 2)
    assert isinstance(listed, bytes)
    for number, value in _records(listed):
        if number == 2:
            assert isinstance(value, bytes)
            yield value


@pytest.mark.parametrize(
    ("name", "version", "kind"),
    [("services", "v1", "Service"), ("endpointslices", "discovery.k8s.io/v1", "EndpointSlice")],
)
def test_every_recorded_object_decodes_to_its_json(name: str, version: str, kind: str) -> None:
    expected = recorded(f"list-{name}.json")["body"]["items"]
    decoder = ProtobufDecoder()
    decoded = [decoder.decode(body(version, kind, raw)) for raw in items_of(recorded(f"list-{name}-protobuf.json"))]
    assert len(decoded) == len(expected) > 0
    for mine, its in zip(decoded, expected, strict=True):
        stated = {name: value for name, value in its.items() if value is not None}
        assert mine == {"kind": kind, "apiVersion": version, **stated}


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_read_and_nothing_else(raw: bytes) -> None:
    decoder = ProtobufDecoder()
    for sent in (raw, MAGIC + raw, body("v1", "Service", raw)):
        with contextlib.suppress(ValueError):  # anything else fails the test
            assert isinstance(decoder.decode(sent), dict)


def test_kind_without_a_schema_is_an_unsupported_media_type_that_names_json() -> None:
    with pytest.raises(ApiError) as refused:
        BodyReader().read(PROTOBUF_TYPE, body("batch/v1", "Job", b""))
    assert refused.value.code == 415
    assert "Job of batch/v1" in refused.value.message
    assert "application/json" in refused.value.message
