# SPDX-License-Identifier: Apache-2.0
"""What IPVS holds, in our words: virtual servers, their real servers, and the kernel's timeouts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

from pointsman_model.names import Family, Protocol, format_address

WEIGHT_MAX = 65535


class ServiceFlags(IntFlag):
    """IP_VS_SVC_F_*; what the three of a scheduler mean is the scheduler's business."""

    NONE = 0
    PERSISTENT = 0x1
    ONE_PACKET = 0x4
    SH_FALLBACK = 0x8
    MH_FALLBACK = 0x8
    SH_PORT = 0x10
    MH_PORT = 0x10


class VirtualServerId(NamedTuple):
    """Where packets arrive: a mark, or protocol, address and port. With a mark the others are empty."""

    family: Family
    mark: int = 0
    protocol: Protocol | None = None
    address: bytes = b""
    port: int = 0

    def __str__(self) -> str:
        """As ipvsadm says it."""
        if self.protocol is None:
            return f"FWM {self.mark}{' IPv6' if self.family is Family.IPV6 else ''}"
        address = format_address(self.address)
        place = f"[{address}]" if self.family is Family.IPV6 else address
        return f"{self.protocol.name} {place}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualServer:
    """One virtual server without its real servers.

    Attributes:
        scheduler: the name of a kernel scheduler, `rr` for example.
        flags: those that can be set; the kernel's own mark of a hashed server is not among them.
        timeout_seconds: how long a client is remembered; only with PERSISTENT.
        prefix_bits: how much of a client's address tells it from others; only with PERSISTENT. None: all of it.
    """

    id: VirtualServerId
    scheduler: str = "rr"
    flags: ServiceFlags = ServiceFlags.NONE
    timeout_seconds: int = 0
    prefix_bits: int | None = None


class RealServerId(NamedTuple):
    """Where packets go, of one virtual server."""

    address: bytes
    port: int


class RealServer(NamedTuple):
    """One real server; packets are translated to it (`masq`), never tunnelled or routed past it.

    Of the connections only what was read is known; they are not written.
    """

    id: RealServerId
    weight: int = 1
    upper_threshold: int = 0
    lower_threshold: int = 0
    active_connections: int = 0
    inactive_connections: int = 0

    @property
    def connections(self) -> int:
        """All that the kernel still has."""
        return self.active_connections + self.inactive_connections


class Timeouts(NamedTuple):
    """How long the kernel keeps idle connections, in seconds; 0 leaves alone what is there."""

    tcp: int = 0
    tcp_fin: int = 0
    udp: int = 0


class Info(NamedTuple):
    """What the kernel says of itself."""

    version: tuple[int, int, int]
    connection_table_size: int
