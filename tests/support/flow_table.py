# SPDX-License-Identifier: Apache-2.0
"""The connection table of a namespace, seen and filled by others than the code under test.

Entries are read with the tool `conntrack` and injected by messages written out here.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from pointsman_model.names import format_address, parse_address
from support.netns import NetNs

_NETLINK_NETFILTER = 12
_NEW = (1 << 8) | 0
_CREATE = 0x1 | 0x200 | 0x400
_TIMEOUT_SECONDS = 600
_SEEN_REPLY = 1 << 1
_CONFIRMED = 1 << 3
_SEND_BYTES = 48 * 1024
_PAIR = re.compile(r"src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)")


class Seen(NamedTuple):
    """One entry, as text."""

    source: str
    source_port: int
    destination: str
    port: int
    answering: str
    answering_port: int


def udp(
    destination: str,
    port: int,
    answering: str = "",
    answering_port: int = 0,
    *,
    source: str = "10.0.9.9",
    number: int = 0,
) -> Seen:
    """An entry; without `answering` it is not translated. `number` tells clients apart."""
    return Seen(source, 1024 + number % 60000, destination, port, answering or destination, answering_port or port)


def flows(namespace: NetNs, protocol: str = "udp", family: str = "ipv4") -> set[Seen]:
    """All entries of a protocol."""
    found = set()
    for line in namespace.run("conntrack", "-L", "-f", family, "-p", protocol).splitlines():
        original, reply = _PAIR.findall(line)
        found.add(
            Seen(
                original[0],
                int(original[2]),
                format_address(parse_address(original[1])),
                int(original[3]),
                format_address(parse_address(reply[0])),
                int(reply[2]),
            )
        )
    return found


def count(namespace: NetNs) -> int:
    """How many entries of any kind there are."""
    return int(namespace.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count"))


def inject(namespace: NetNs, entries: Iterable[Seen], protocol: int = 17, *, is_answered: bool = False) -> None:
    """Add entries; each must be new."""
    with namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as opened:
        opened.bind((0, 0))
        buffer = bytearray()
        for entry in entries:
            buffer += _message(entry, protocol, _SEEN_REPLY if is_answered else 0)
            if len(buffer) > _SEND_BYTES:
                _send(opened, buffer)
        _send(opened, buffer)


def _send(opened: socket.socket, buffer: bytearray) -> None:
    """The kernel carries it out inside `send`, and answers only what it refuses."""
    opened.send(buffer)
    buffer.clear()
    try:
        refusal = opened.recv(1 << 16, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    raise OSError(-struct.unpack_from("=i", refusal, 16)[0], "an entry was refused")


def _message(entry: Seen, protocol: int, status: int) -> bytes:
    source, to = parse_address(entry.source), parse_address(entry.destination)
    answering = parse_address(entry.answering)
    payload = (
        _tuple(1, protocol, (source, entry.source_port), (to, entry.port))
        + _tuple(2, protocol, (answering, entry.answering_port), (source, entry.source_port))
        + (_attribute(3, struct.pack(">I", status | _CONFIRMED)) if status else b"")
        + _attribute(7, struct.pack(">I", _TIMEOUT_SECONDS))
    )
    family = 2 if len(source) == 4 else 10
    return struct.pack("=IHHIIBBH", 20 + len(payload), _NEW, _CREATE, 1, 0, family, 0, 0) + payload


def _tuple(kind: int, protocol: int, source: tuple[bytes, int], to: tuple[bytes, int]) -> bytes:
    first = 1 if len(source[0]) == 4 else 3
    addresses = _attribute(first, source[0]) + _attribute(first + 1, to[0])
    ports = _attribute(1, bytes([protocol]))
    ports += _attribute(2, struct.pack(">H", source[1])) + _attribute(3, struct.pack(">H", to[1]))
    return _attribute(kind | 0x8000, _attribute(1 | 0x8000, addresses) + _attribute(2 | 0x8000, ports))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)
