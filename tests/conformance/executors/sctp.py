# SPDX-License-Identifier: Apache-2.0
"""Just enough SCTP (RFC 9260) for a probe: an INIT that opens an association and an INIT ACK that says who answered.

Made by hand on raw sockets, because a kernel need not have SCTP to forward and translate it.
"""

from __future__ import annotations

import socket
import struct
from array import array
from typing import NamedTuple

PROTOCOL = 132
INIT, INIT_ACK = 1, 2
_COOKIE = 7
_HEADER = struct.Struct(">HHII")
_CHUNK = struct.Struct(">BBH")
_INIT = struct.Struct(">IIHHI")
_PARAMETER = struct.Struct(">HH")
_POLYNOMIAL = 0x82F63B78
_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_HEADER_LENGTH, _LOAD_BEHIND_HEADER, _LOAD = (0xB1, 0, 0, 0), (0x48, 0, 0, 2), (0x28, 0, 0, 2)
"""IPv4 raw sockets see the packet from its IP header on, whose length counts; IPv6 ones what follows it."""
_RETURN_ALL, _RETURN_NOTHING = (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)


class Packet(NamedTuple):
    """What matters of a packet with one INIT or INIT ACK chunk."""

    source_port: int
    destination_port: int
    chunk: int
    initiate_tag: int
    text: str


def take_only(opened: socket.socket, port: int) -> None:
    """Have a raw socket receive what is sent to this port, and not what others between the same addresses get."""
    load = [_LOAD_HEADER_LENGTH, _LOAD_BEHIND_HEADER] if opened.family is socket.AF_INET else [_LOAD]
    program = [*load, (0x15, 0, 1, port), _RETURN_ALL, _RETURN_NOTHING]
    held = array("B", b"".join(_INSTRUCTION.pack(*each) for each in program))
    descriptor = struct.pack("HL", len(program), held.buffer_info()[0])
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, descriptor)


def init(source_port: int, destination_port: int, tag: int) -> bytes:
    """An INIT packet; `tag` is what the peer must answer with."""
    return _packet(_HEADER.pack(source_port, destination_port, 0, 0), _chunk(INIT, tag, b""))


def init_ack(received: Packet, text: str) -> bytes:
    """The answer to an INIT, with `text` in its state cookie."""
    value = text.encode()
    cookie = _PARAMETER.pack(_COOKIE, _PARAMETER.size + len(value)) + value + b"\0" * (-len(value) % 4)
    header = _HEADER.pack(received.destination_port, received.source_port, received.initiate_tag, 0)
    return _packet(header, _chunk(INIT_ACK, 1, cookie))


def parse(data: bytes) -> Packet | None:
    """The packet, if it is an INIT or INIT ACK; addresses and checksum are the kernel's business."""
    if len(data) < _HEADER.size + _CHUNK.size + _INIT.size:
        return None
    source_port, destination_port, _, _ = _HEADER.unpack_from(data)
    chunk, _, _ = _CHUNK.unpack_from(data, _HEADER.size)
    if chunk not in {INIT, INIT_ACK}:
        return None
    tag = _INIT.unpack_from(data, _HEADER.size + _CHUNK.size)[0]
    rest = data[_HEADER.size + _CHUNK.size + _INIT.size :]
    text = ""
    if len(rest) >= _PARAMETER.size:
        _, length = _PARAMETER.unpack_from(rest)
        text = rest[_PARAMETER.size : length].decode("ascii", "replace")
    return Packet(source_port, destination_port, chunk, tag, text)


def _chunk(kind: int, initiate_tag: int, parameters: bytes) -> bytes:
    body = _INIT.pack(initiate_tag, 65536, 1, 1, 1) + parameters
    return _CHUNK.pack(kind, 0, _CHUNK.size + len(body)) + body


def _packet(header: bytes, chunk: bytes) -> bytes:
    """Header and chunk with the checksum in place; the checksum alone is little-endian."""
    return header[:8] + struct.pack("<I", crc32c(header + chunk)) + chunk


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_CRC_TABLE = tuple(_entry(value) for value in range(256))
