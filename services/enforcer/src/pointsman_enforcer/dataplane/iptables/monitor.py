# SPDX-License-Identifier: Apache-2.0
"""Notices that somebody else may have changed our tables: by the kernel's own word, or by their size.

nf_tables announces each commit with the netlink port of who made it, which is the number of the process; those of our
own restores are left out. Legacy tables announce nothing, but tell how many entries and bytes they have for one system
call each, so they are asked every half a second. A rule in the place of another of the same size goes unnoticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from pointsman_enforcer.dataplane.iptables.touches import Touches
from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.xtables.text import TABLES
from pointsman_enforcer.dataplane.xtables.tools import Tools, Variant
from pointsman_model.names import Family

POLL_SECONDS: Final = 0.5
_GET_INFO: Final = 64
"""IPT_SO_GET_INFO and IP6T_SO_GET_INFO."""
_INFO: Final = struct.Struct("=32s13I")
_LEVELS: Final = {Family.IPV4: socket.IPPROTO_IP, Family.IPV6: socket.IPPROTO_IPV6}
_FAMILIES: Final = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_DATAGRAM_BYTES: Final = 64 * 1024
_RECEIVE_BYTES: Final = 8 * 1024 * 1024
"""Our own restores are announced, too: those of some hundred services fit."""
_HEADER: Final = struct.Struct("=IHHII")


class Monitor(Protocol):
    """What the backend needs of either."""

    def watch(self, noticed: Callable[[], None]) -> None:
        """Call `noticed` on the running loop when somebody else changed something."""

    def settle(self) -> None:
        """What is there now is ours."""

    def take(self) -> bool:
        """Whether something was noticed since the last call."""

    def put_back(self) -> None:
        """It is still to be looked at."""

    def close(self) -> None:
        """Stop."""


def open_monitor(tools: Tools, touches: Touches) -> Monitor:
    """The monitor of a variant; OSError when we may not ask."""
    if tools.variant is Variant.LEGACY:
        return tools.inside(lambda: LegacyMonitor(tools.families, touches))
    return tools.inside(lambda: NftMonitor(tools.process_ids))


class _Noticing:
    """Keeps that something was noticed."""

    def __init__(self) -> None:
        self._is_noticed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._noticed: Callable[[], None] | None = None

    def take(self) -> bool:
        """See `Monitor.take`."""
        self.look()
        noticed, self._is_noticed = self._is_noticed, False
        return noticed

    def put_back(self) -> None:
        """See `Monitor.put_back`."""
        self.notice()

    def look(self) -> None:
        """Ask the kernel."""

    def notice(self) -> None:
        """Somebody else changed something."""
        self._is_noticed = True
        if self._loop is not None and self._noticed is not None:
            self._loop.call_soon(self._noticed)


class LegacyMonitor(_Noticing):
    """Asks each table for its size, now and then."""

    def __init__(self, families: Sequence[Family], touches: Touches) -> None:
        super().__init__()
        self._touches = touches
        self._sockets = {
            family: socket.socket(_FAMILIES[family], socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
            for family in families
        }
        self._timer: asyncio.TimerHandle | None = None
        self._sizes = self._ask()

    def watch(self, noticed: Callable[[], None]) -> None:
        """See `Monitor.watch`."""
        self._loop, self._noticed = asyncio.get_running_loop(), noticed
        self._timer = self._loop.call_later(POLL_SECONDS, self._poll)

    def settle(self) -> None:
        """See `Monitor.settle`."""
        self._sizes = self._ask()

    def look(self) -> None:
        """Compare sizes with those that we left."""
        sizes = self._ask()
        if sizes != self._sizes:
            self._sizes = sizes
            self._is_noticed = True

    def close(self) -> None:
        """See `Monitor.close`."""
        if self._timer is not None:
            self._timer.cancel()
        for each in self._sockets.values():
            each.close()

    def _poll(self) -> None:
        if not self._touches.is_writing:
            self.look()
        if self._is_noticed:
            self.notice()
        if self._loop is not None:
            self._timer = self._loop.call_later(POLL_SECONDS, self._poll)

    def _ask(self) -> dict[tuple[Family, str], bytes]:
        """Hooks, number of entries and bytes of each table; empty for a table that is not there."""
        found = {}
        for family, opened in self._sockets.items():
            for table in TABLES:
                try:
                    info = _getsockopt(opened, _LEVELS[family], table)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOPROTOOPT):
                        raise
                    info = b""
                found[family, table] = info
        return found


def _getsockopt(opened: socket.socket, level: int, table: str) -> bytes:
    """The request is a buffer with the table's name, which Python's own getsockopt cannot hand in."""
    import ctypes  # noqa: PLC0415 - only this variant needs it

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_INFO.pack(table.encode(), *([0] * 13)), _INFO.size)
    length = ctypes.c_uint32(_INFO.size)
    if libc.getsockopt(opened.fileno(), level, _GET_INFO, buffer, ctypes.byref(length)) != 0:
        raise OSError(ctypes.get_errno(), f"asking legacy table {table}")
    return buffer.raw


class NftMonitor(_Noticing):
    """Hears of commits by processes other than our own restores."""

    def __init__(self, own: set[int]) -> None:
        super().__init__()
        self._own = own
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, uapi.NETLINK_NETFILTER)
        with contextlib.suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, uapi.SO_RCVBUFFORCE, _RECEIVE_BYTES)
        self._socket.bind((0, 0))
        self._socket.setsockopt(uapi.SOL_NETLINK, uapi.NETLINK_ADD_MEMBERSHIP, uapi.NFNLGRP_NFTABLES)

    def watch(self, noticed: Callable[[], None]) -> None:
        """See `Monitor.watch`."""
        self._loop, self._noticed = asyncio.get_running_loop(), noticed
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def settle(self) -> None:
        """See `Monitor.settle`: a process that has ended and been heard is not ours any more, numbers come again."""
        self.look()
        self._own.clear()

    def look(self) -> None:
        """Read all that waits: the buffer bounds it."""
        while True:
            try:
                datagram = self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._is_noticed = True
                continue
            sender = _HEADER.unpack_from(datagram)[4]
            if sender not in self._own:
                self._is_noticed = True

    def close(self) -> None:
        """See `Monitor.close`."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self) -> None:
        self.look()
        if self._is_noticed and self._noticed is not None:
            self._noticed()
