# SPDX-License-Identifier: Apache-2.0
"""The node's own addresses, read from the kernel, and word from the kernel when they change.

pyroute2 reads them. It is imported when that is first needed, because it costs 16 MB that nodes without health check
node ports need not pay; for the same reason the subscription, which every node has, is a bare socket. It runs in a
thread, since its sockets do not work on uvloop. Link-local IPv6 addresses are left out: nobody can listen on one
without naming an interface.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from pointsman_model.names import make_prefix, parse_address

_GROUPS_ADDRESSES: Final = 0x10 | 0x100
"""RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR."""
_DATAGRAM_BYTES: Final = 1 << 16
_LINK_LOCAL: Final = make_prefix(bytes([0xFE, 0x80, *bytes(14)]), 10)


async def local_addresses() -> frozenset[bytes]:
    """All addresses of all interfaces of this network namespace, packed.

    Raises:
        OSError: the kernel does not list them.
    """
    return await asyncio.to_thread(_read_addresses)


def _read_addresses() -> frozenset[bytes]:
    from pyroute2 import IPRoute  # noqa: PLC0415 - see above
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - see above

    try:
        with IPRoute() as route:
            # IFA_LOCAL is the near end of a point-to-point link; IPv6 has IFA_ADDRESS only.
            texts = [message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") for message in route.get_addr()]
    except NetlinkError as error:
        raise OSError(error.code, f"the kernel does not list the node's addresses: {error}") from error
    found = {parse_address(text) for text in texts if text}
    return frozenset(address for address in found if not _LINK_LOCAL.contains(address))


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
