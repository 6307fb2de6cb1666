# SPDX-License-Identifier: Apache-2.0
"""The socket on which nf_tables tells of foreign commits.

Why notifications and not the generation number: the number says that somebody committed, not whose table it was, so on
a node with other users of nf_tables every commit of theirs would cost a reading of ours. And it cannot be compared with
a count of our own commits: the kernel does not count a batch in which nothing was new.

Our own commits do not reach the socket. Each notification carries the port of the sender's socket, all of one datagram
come from one commit, and a filter of four instructions in the kernel drops the datagrams with our writer's port. So a
cold start of a hundred thousand elements neither floods the socket nor wakes the process (measured: no datagram, 2-3 %
of the commit's time), and whatever arrives is foreign by construction.

Nothing can slip through: the kernel queues a notification inside the commit, after the change is visible. What is read
back after a notification was taken includes the change; what happens after that is announced again. When the
socket's buffer overflows the kernel says so (ENOBUFS), and everything is looked at once.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from array import array
from collections.abc import Callable
from typing import Final, Protocol

from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.notifications import Notifications, Touched

_RECEIVE_BYTES: Final = 1024 * 1024
"""Bounds the kernel memory that a flood of foreign commits can take up here."""
_DATAGRAM_BYTES: Final = 64 * 1024
_DATAGRAMS_PER_TURN: Final = 64
"""After so many the event loop gets its turn; the rest is still there."""
_TURNS_PER_TAKE: Final = 32
_PORT_AT: Final = 12
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_INSTRUCTION: Final = struct.Struct("=HBBI")
_KEEP_ALL: Final = 0xFFFFFFFF


class Monitor(Protocol):
    """Where the backend hears of foreign commits; see `DriftMonitor`."""

    def watch(self, noticed: Callable[[], None]) -> None:
        """Call `noticed` whenever there is something to `take`."""

    def take(self) -> Touched:
        """What was touched since the last call."""

    def peek(self) -> Touched:
        """What `take` would return, up to this moment."""

    def put_back(self, touched: Touched) -> None:
        """This is still to be looked at."""

    def close(self) -> None:
        """Stop listening."""


class DriftMonitor:
    """Hears of commits by everybody but one socket, in the network namespace of the thread that makes it."""

    def __init__(self, own_port: int) -> None:
        """`own_port`: netlink port of the socket whose commits are ours. OSError when we may not listen."""
        self._notifications = Notifications()
        self._socket = _open(own_port)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._noticed: Callable[[], None] | None = None
        self.datagrams = 0
        """Received so far."""

    def watch(self, noticed: Callable[[], None]) -> None:
        """Call `noticed` on the running loop whenever there is something to `take`."""
        self._loop, self._noticed = asyncio.get_running_loop(), noticed
        self._loop.add_reader(self._socket.fileno(), self._readable, noticed)

    def take(self) -> Touched:
        """What was touched since the last call, up to this moment or, in a flood, some of it: `noticed` comes again."""
        for _ in range(_TURNS_PER_TAKE):
            if not self.drain():
                break
        return self._notifications.take()

    def peek(self) -> Touched:
        """What `take` would return; who watches is told, as reading leaves nothing that would wake the loop."""
        for _ in range(_TURNS_PER_TAKE):
            if not self.drain():
                break
        if self.is_any:
            self._tell()
        return self._notifications.touched

    def put_back(self, touched: Touched) -> None:
        """This is still to be looked at; who watches is told."""
        self._notifications.touched.include(touched)
        self._tell()

    def _tell(self) -> None:
        if self._loop is not None and self._noticed is not None:
            self._loop.call_soon(self._noticed)

    @property
    def is_any(self) -> bool:
        """Whether there is something to take."""
        return self._notifications.touched.is_any

    def drain(self) -> bool:
        """Read some of what waits; whether there may be more."""
        for _ in range(_DATAGRAMS_PER_TURN):
            try:
                datagram = self._socket.recv(_DATAGRAM_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._notifications.lost()
                continue
            self.datagrams += 1
            self._notifications.read(datagram)
        return True

    def close(self) -> None:
        """Stop listening."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self, noticed: Callable[[], None]) -> None:
        self.drain()
        if self.is_any:
            noticed()


def _open(own_port: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, uapi.NETLINK_NETFILTER)
    try:
        try:
            opened.setsockopt(socket.SOL_SOCKET, uapi.SO_RCVBUFFORCE, _RECEIVE_BYTES)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        opened.bind((0, 0))
        _leave_out(opened, own_port)
        opened.setsockopt(uapi.SOL_NETLINK, uapi.NETLINK_ADD_MEMBERSHIP, uapi.NFNLGRP_NFTABLES)
    except BaseException:
        opened.close()
        raise
    return opened


def _leave_out(opened: socket.socket, port: int) -> None:
    """Drop what the socket of this port caused. A filter reads words big-endian; the port is in the host's order."""
    swapped = int.from_bytes(struct.pack("=I", port), "big")
    program = b"".join(
        _INSTRUCTION.pack(*each)
        for each in (
            (_LOAD_WORD, 0, 0, _PORT_AT),
            (_JUMP_EQUAL, 0, 1, swapped),
            (_RETURN, 0, 0, 0),
            (_RETURN, 0, 0, _KEEP_ALL),
        )
    )
    held = array("B", program)
    descriptor = struct.pack("HL", len(program) // _INSTRUCTION.size, held.buffer_info()[0])
    opened.setsockopt(socket.SOL_SOCKET, uapi.SO_ATTACH_FILTER, descriptor)
