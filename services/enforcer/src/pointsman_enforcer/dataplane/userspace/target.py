# SPDX-License-Identifier: Apache-2.0
"""What one listener serves, and renderings: the redirecting rules and the listeners of a service as packed bytes.

    4 bytes length of the rules' rendering, that rendering (nftables/packed.py), then listeners, sorted by key:
    1 byte length of the address, address, protocol, port       the key: where it listens
    4 bytes length, target                                      what it serves

A target is compared as bytes and taken apart only by the proxy.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from pointsman_model.names import Protocol, format_address
from pointsman_model.plan import PlanEndpoint

_LENGTH: Final = struct.Struct(">I")
_PLACE: Final = struct.Struct(">BH")
_HEAD: Final = struct.Struct(">8sIBII")
_ENDPOINT: Final = struct.Struct(">HI")
_PORT: Final = struct.Struct(">H")
Address = tuple[bytes, int]
"""Packed address and port."""


class Listener(NamedTuple):
    """Where the proxy listens."""

    address: bytes
    protocol: Protocol
    port: int

    def pack(self) -> bytes:
        """As a key of renderings."""
        return bytes((len(self.address),)) + self.address + _PLACE.pack(self.protocol, self.port)


class Target(NamedTuple):
    """What becomes of connections to a listener.

    Attributes:
        memory: eight bytes; listeners with the same share the memory of session affinity.
        affinity_seconds: 0 for none.
        endpoints: to choose from; never empty.
        serving: UDP: endpoints whose flows go on although none of `endpoints`; of others they end.
    """

    memory: bytes
    affinity_seconds: int
    endpoints: tuple[PlanEndpoint, ...]
    serving: frozenset[Address] = frozenset()

    def pack(self) -> bytes:
        """As a value of renderings."""
        width = len(self.endpoints[0].address)
        parts = [_HEAD.pack(self.memory, self.affinity_seconds, width, len(self.endpoints), len(self.serving))]
        parts += [each.address + _ENDPOINT.pack(each.port, each.weight) for each in self.endpoints]
        parts += [address + _PORT.pack(port) for address, port in sorted(self.serving)]
        return b"".join(parts)


def format_place(address: bytes, port: int) -> str:
    """An address and a port, for people."""
    text = format_address(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def parse_listener(key: bytes) -> Listener:
    """The listener of a key."""
    length = key[0]
    protocol, port = _PLACE.unpack_from(key, 1 + length)
    return Listener(key[1 : 1 + length], Protocol(protocol), port)


def parse_target(value: bytes) -> Target:
    """The target of a value."""
    memory, seconds, width, endpoint_count, serving_count = _HEAD.unpack_from(value)
    at = _HEAD.size
    endpoints = []
    for _ in range(endpoint_count):
        port, weight = _ENDPOINT.unpack_from(value, at + width)
        endpoints.append(PlanEndpoint(value[at : at + width], port, weight))
        at += width + _ENDPOINT.size
    serving = []
    for _ in range(serving_count):
        (port,) = _PORT.unpack_from(value, at + width)
        serving.append((value[at : at + width], port))
        at += width + _PORT.size
    return Target(memory, seconds, tuple(endpoints), frozenset(serving))


def pack(rules: bytes, listeners: Mapping[bytes, bytes]) -> bytes:
    """The rendering with these rules and listeners; empty when there are neither."""
    if not rules and not listeners:
        return b""
    parts = [_LENGTH.pack(len(rules)), rules]
    for key in sorted(listeners):
        parts += [key, _LENGTH.pack(len(listeners[key])), listeners[key]]
    return b"".join(parts)


def rules_of(rendering: bytes) -> bytes:
    """The rules' part of a rendering."""
    return rendering[_LENGTH.size : _listeners_at(rendering)]


def listeners_of(rendering: bytes) -> dict[bytes, bytes]:
    """Targets by key."""
    found = {}
    at = _listeners_at(rendering)
    while at < len(rendering):
        end = at + 1 + rendering[at] + _PLACE.size
        (length,) = _LENGTH.unpack_from(rendering, end)
        start = end + _LENGTH.size
        found[rendering[at:end]] = rendering[start : start + length]
        at = start + length
    return found


def _listeners_at(rendering: bytes) -> int:
    return _LENGTH.size + _LENGTH.unpack_from(rendering)[0] if rendering else 0
