# SPDX-License-Identifier: Apache-2.0
"""Small texts that several views share: ages, names on the command line, `svc/NAME`."""

import ipaddress
import re
from typing import Final, NamedTuple

from pointsman.types.v1.types_pb2 import NamespacedName, Protocol

_PROTOCOLS: Final = {"TCP": Protocol.PROTOCOL_TCP, "UDP": Protocol.PROTOCOL_UDP, "SCTP": Protocol.PROTOCOL_SCTP}
_KINDS: Final = frozenset({"svc", "service", "services"})
_NAME: Final = re.compile(r"[a-z0-9A-Z]([-._a-z0-9A-Z]*[a-z0-9A-Z])?")
_PORT_MAX: Final = 65535


def age_text(seconds: float) -> str:
    """A span as kubectl shows ages: `0s`, `45s`, `3m20s`, `5h3m`, `12d`."""
    whole = max(int(seconds), 0)
    if whole < 120:
        return f"{whole}s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{days}d"


def service_name(text: str, namespace: str) -> NamespacedName:
    """`NAME`, `NAMESPACE/NAME`, `svc/NAME` or `svc/NAMESPACE/NAME`.

    Raises:
        ValueError: it is none of these.
    """
    parts = text.split("/")
    if len(parts) > 1 and parts[0] in _KINDS:
        parts = parts[1:]
    if len(parts) == 1:
        parts = [namespace or "default", *parts]
    if len(parts) != 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise ValueError(f"{text!r} is no Service: write NAME, NAMESPACE/NAME or svc/NAME")
    return NamespacedName(namespace=parts[0], name=parts[1])


class Destination(NamedTuple):
    """Where a packet is sent."""

    address: bytes
    port: int
    protocol: Protocol.ValueType

    @property
    def text(self) -> str:
        """As it was written, in full."""
        address = str(ipaddress.ip_address(self.address))
        shown = f"[{address}]" if ":" in address else address
        return f"{shown}:{self.port}/{Protocol.Name(self.protocol).removeprefix('PROTOCOL_')}"


def destination(text: str) -> Destination:
    """`10.96.0.1:80`, `[fd00::1]:53/UDP`.

    Raises:
        ValueError: it is none.
    """
    where, slash, protocol = text.rpartition("/") if "/" in text else (text, "", "")
    host, colon, port = where.rpartition(":")
    kind = _PROTOCOLS.get(protocol.upper() if slash else "TCP")
    if not colon or not port.isdecimal() or not 1 <= int(port) <= _PORT_MAX or kind is None:
        raise ValueError(f"{text!r} is no destination: write ADDRESS:PORT or ADDRESS:PORT/UDP, IPv6 as [ADDRESS]:PORT")
    return Destination(address(host.removeprefix("[").removesuffix("]")), int(port), kind)


def address(text: str) -> bytes:
    """An address, packed.

    Raises:
        ValueError: it is none.
    """
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no IP address; names are not looked up") from error
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).packed
