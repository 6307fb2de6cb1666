# SPDX-License-Identifier: Apache-2.0
"""Names and numbers that everything else is made of: keys, protocols, families, addresses, prefixes.

Addresses are packed bytes in network order (4 or 16), because that is what both protobuf and the kernel take; text
exists only at the edges, where `parse_address` and `format_address` translate.
"""

from __future__ import annotations

import ipaddress
import re
from enum import IntEnum
from typing import NamedTuple

IPV4_BYTES = 4
IPV6_BYTES = 16
NAME_CHARACTERS_MAX = 253
_DOTTED = re.compile(r"([0-9]{1,16})\.([0-9]{1,16})\.([0-9]{1,16})\.([0-9]{1,16})")
_MAPPED_PREFIX = b"\x00" * 10 + b"\xff\xff"


class Protocol(IntEnum):
    """Transport protocol, numbered as by IANA (equals the kernel's IPPROTO_* and `pointsman.types.v1.Protocol`)."""

    TCP = 6
    UDP = 17
    SCTP = 132


class Family(IntEnum):
    """IP version (equals `pointsman.types.v1.IPFamily`)."""

    IPV4 = 4
    IPV6 = 6

    @property
    def address_bytes(self) -> int:
        """Length of a packed address of this family."""
        return IPV4_BYTES if self is Family.IPV4 else IPV6_BYTES

    @property
    def address_bits(self) -> int:
        """Length of a host prefix of this family."""
        return self.address_bytes * 8


class ServiceKey(NamedTuple):
    """Name of a Service: the unit in which plans are computed, sent and programmed. Sorts by namespace, then name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def is_object_name(text: str) -> bool:
    """Whether a namespace or object of Kubernetes could be called so: 1 to 253 printable ASCII characters.

    Kubernetes is stricter; this is what every process must be able to rely on in logs, on the wire and in digests.
    """
    return 0 < len(text) <= NAME_CHARACTERS_MAX and text.isascii() and text.isprintable()


class ServicePortName(NamedTuple):
    """One load-balanced port of a Service; the port name is empty for the only port of a single-port Service."""

    service: ServiceKey
    port: str
    protocol: Protocol

    def __str__(self) -> str:
        name = f"{self.service}:{self.port}" if self.port else str(self.service)
        return f"{name}/{self.protocol.name}"


class Prefix(NamedTuple):
    """A CIDR block: packed network address with all host bits zero, and length in bits."""

    address: bytes
    length: int

    @property
    def family(self) -> Family:
        """Family of the block."""
        return family_of(self.address)

    def contains(self, address: bytes) -> bool:
        """Whether `address` is of the same family and inside the block."""
        if len(address) != len(self.address):
            return False
        shift = len(address) * 8 - self.length
        return int.from_bytes(address) >> shift == int.from_bytes(self.address) >> shift

    def __str__(self) -> str:
        return f"{format_address(self.address)}/{self.length}"


def family_of(address: bytes) -> Family:
    """Family of a packed address; ValueError when it has neither 4 nor 16 bytes."""
    if len(address) == IPV4_BYTES:
        return Family.IPV4
    if len(address) == IPV6_BYTES:
        return Family.IPV6
    raise ValueError(f"an IP address has 4 or 16 bytes, this one has {len(address)}")


def parse_address(text: str) -> bytes:
    """Pack an address written in any form the Kubernetes API has ever accepted.

    Leading zeros are read as decimal ("172.30.0.041" is 172.30.0.41) and an IPv4-mapped IPv6 address becomes IPv4, as
    kube-proxy's "sloppy" parser does. Zones ("%eth0") are refused.

    Raises:
        ValueError: the text is not an IP address; the message quotes it.
    """
    try:
        if ":" not in text:
            return _parse_dotted(text)
        head, colon, last = text.rpartition(":")
        if "." in last:
            text = f"{head}{colon}{ipaddress.IPv4Address(_parse_dotted(last))}"
        if "%" in text:
            raise ValueError
        packed = ipaddress.IPv6Address(text).packed
    except ValueError as error:
        raise ValueError(f"{text[:64]!r} is not an IP address") from error
    return packed[12:] if packed.startswith(_MAPPED_PREFIX) else packed


def _parse_dotted(text: str) -> bytes:
    match = _DOTTED.fullmatch(text)
    if match is None:
        raise ValueError(text[:64])
    return bytes(map(int, match.groups()))


def format_address(address: bytes) -> str:
    """Canonical text of a packed address (RFC 5952 for IPv6)."""
    return str(ipaddress.ip_address(address))


def parse_prefix(text: str) -> Prefix:
    """Parse a CIDR block as `parse_address` parses addresses; surrounding space is trimmed and host bits are cleared.

    Raises:
        ValueError: the text is not a CIDR block; the message quotes it.
    """
    base, slash, length_text = text.strip().partition("/")
    try:
        address = parse_address(base)
        if not (slash and length_text.isascii() and length_text.isdigit() and len(length_text) <= 16):
            raise ValueError
        length = int(length_text)
        if ":" in base and len(address) == IPV4_BYTES:
            length -= 96
        if not 0 <= length <= len(address) * 8:
            raise ValueError
    except ValueError as error:
        raise ValueError(f"{text[:64]!r} is not a CIDR block such as 10.0.0.0/8") from error
    return make_prefix(address, length)


def make_prefix(address: bytes, length: int) -> Prefix:
    """The block of `length` bits that contains `address`; ValueError when the length does not fit the family."""
    bits = family_of(address).address_bits
    if not 0 <= length <= bits:
        raise ValueError(f"prefix length {length} is not within 0..{bits}")
    mask = ((1 << length) - 1) << (bits - length)
    return Prefix((int.from_bytes(address) & mask).to_bytes(len(address)), length)


def is_loopback(address: bytes) -> bool:
    """Whether the address is 127.0.0.0/8 or ::1."""
    return address[0] == 127 if len(address) == IPV4_BYTES else address == b"\x00" * 15 + b"\x01"
