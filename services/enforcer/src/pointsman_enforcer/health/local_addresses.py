# SPDX-License-Identifier: Apache-2.0
"""The node's own addresses, read from the kernel, and word from the kernel when they change.

rtnetlink is spoken directly: one dump request and one multicast subscription. Link-local IPv6 addresses are left out,
because nobody can listen on one without naming an interface.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self

from pointsman_model.names import make_prefix

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_NLM_F_REQUEST_DUMP: Final = 0x301
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_GROUPS_ADDRESSES: Final = 0x10 | 0x100
"""RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR."""
_HEADER: Final = struct.Struct("=IHHII")
_ADDRESS_MESSAGE_BYTES: Final = 8
_ATTRIBUTE: Final = struct.Struct("=HH")
_DATAGRAM_BYTES: Final = 1 << 16
_LINK_LOCAL: Final = make_prefix(bytes([0xFE, 0x80, *bytes(14)]), 10)


def local_addresses() -> frozenset[bytes]:
    """All addresses of all interfaces of this network namespace, packed; raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(5)
        kernel.send(_HEADER.pack(_HEADER.size + 1, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + b"\0")
        found: set[bytes] = set()
        while True:
            for kind, payload in _messages(kernel.recv(_DATAGRAM_BYTES)):
                if kind == _NLMSG_DONE:
                    return frozenset(address for address in found if not _LINK_LOCAL.contains(address))
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", payload)[0]
                    raise OSError(number, "the kernel does not list the node's addresses")
                if kind == _RTM_NEWADDR:
                    found.update(_addresses(payload))


class AddressMonitor:
    """Calls back, on the running loop, after addresses were added or removed. What changed must be read anew."""

    def __init__(
        self, on_change: Callable[[], None], *, open_socket: Callable[[], socket.socket] | None = None
    ) -> None:
        self._on_change = on_change
        self._open_socket = open_socket or _open
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        made = self._socket = self._open_socket()
        made.bind((0, _GROUPS_ADDRESSES))
        asyncio.get_running_loop().add_reader(made.fileno(), self._drain, made)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        made, self._socket = self._socket, None
        if made is not None:
            asyncio.get_running_loop().remove_reader(made.fileno())
            made.close()

    def _drain(self, made: socket.socket) -> None:
        """Events themselves are not looked at, so that losing some (ENOBUFS) loses nothing."""
        try:
            made.recv(_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError:
            pass
        self._on_change()


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each message."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size:
            return
        yield kind, datagram[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _addresses(payload: bytes) -> Iterator[bytes]:
    """The address in one RTM_NEWADDR: of a point-to-point link the near end."""
    offset, found = _ADDRESS_MESSAGE_BYTES, dict[int, bytes]()
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = payload[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    address = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))
    if len(address) in {4, 16}:
        yield address
