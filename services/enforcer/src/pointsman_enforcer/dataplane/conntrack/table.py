# SPDX-License-Identifier: Apache-2.0
"""Access to the connection table of one network namespace: reads what a query names, ends what is stale.

Own code on the standard library, as the socket to nf_tables is: three messages do not justify the memory of a library.
A dump is read datagram by datagram (at most 64 KiB), judged, and what is stale is deleted before the next one is read,
so memory is bounded whatever the table holds. Everything blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Final, Self

from pointsman_enforcer.core.stale_flows import Flow, Query
from pointsman_enforcer.dataplane.conntrack import ctnetlink
from pointsman_enforcer.dataplane.conntrack.ctnetlink import Entry
from pointsman_enforcer.dataplane.nftables.attributes import parse

_DATAGRAM_BYTES: Final = 64 * 1024
_DELETIONS_PER_SEND: Final = 64
_SEQUENCE_MAX: Final = 0x7FFF0000
ATTEMPTS_MAX: Final = 3
"""How often a dump that the kernel could not finish consistently is begun again."""

_NETLINK_ROUTE: Final = 0
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_IFADDRMSG_BYTES: Final = 8
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_HEADER: Final = struct.Struct("=IHHII")


class InterruptedDumpError(OSError):
    """The table was rearranged during each attempt; what was seen is dealt with."""


class ConntrackTable:
    """Sockets of the namespace of the thread that made the object. One thread at a time; a context manager."""

    def __init__(self) -> None:
        """Raises OSError when the process may not open such sockets."""
        with contextlib.ExitStack() as stack:
            self._reader = stack.enter_context(_open(ctnetlink.NETLINK_NETFILTER))
            self._writer = stack.enter_context(_open(ctnetlink.NETLINK_NETFILTER))
            self._routes = stack.enter_context(_open(_NETLINK_ROUTE))
            self._sockets = stack.pop_all()
        self._sequence = 0
        self._stopping = threading.Event()
        self.deletions = 0
        """Deletions asked of the kernel."""
        self.dumps = 0
        """Walks of the table asked of the kernel."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """Make `end_flows`, under way in another thread, return soon."""
        self._stopping.set()

    def close(self) -> None:
        """Close the sockets."""
        self._sockets.close()

    def end_flows(self, query: Query, is_stale: Callable[[Flow], bool]) -> int:
        """End the stale ones of the flows that a query names; how many there were.

        `is_stale` may be asked about others of the same protocol, too: the kernel's filter is not always exact.

        Raises:
            InterruptedDumpError: entries may have been missed.
            OSError: the kernel refused.
        """
        ended = 0
        for _ in range(ATTEMPTS_MAX):
            found, is_whole = self._end_flows_once(query, is_stale)
            ended += found
            if is_whole:
                return ended
        raise InterruptedDumpError(errno.EINTR, "the connection table kept being rearranged while it was read")

    def _end_flows_once(self, query: Query, is_stale: Callable[[Flow], bool]) -> tuple[int, bool]:
        """How many flows were ended, and whether the whole table was seen."""
        sequence = self._next_sequence(1)
        self.dumps += 1
        self._reader.send(ctnetlink.dump_request(query, sequence))
        ended, is_whole, is_over = 0, True, False
        while not (is_over or self._stopping.is_set()):
            try:
                reply = ctnetlink.read_dump(self._reader.recv(_DATAGRAM_BYTES), sequence)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                is_whole = False
                continue
            except ValueError as error:
                raise OSError(errno.EPROTO, str(error)) from error
            stale = (entry for entry in reply.entries if is_stale(entry.flow))
            ended += self._delete([entry for entry in stale if ctnetlink.is_named(query, entry)])
            if reply.error not in (0, errno.EINTR):
                raise OSError(reply.error, os.strerror(reply.error))
            is_over, is_whole = reply.is_last, is_whole and not (reply.is_interrupted or reply.error)
        return ended, is_whole

    def _delete(self, entries: Sequence[Entry]) -> int:
        """Delete entries; how many were still there."""
        first = self._next_sequence(len(entries))
        messages = [ctnetlink.deletion(entry, first + index) for index, entry in enumerate(entries)]
        wanted = [message for message in messages if message is not None]
        deleted = 0
        for start in range(0, len(wanted), _DELETIONS_PER_SEND):
            batch = wanted[start : start + _DELETIONS_PER_SEND]
            self._writer.send(b"".join(batch))
            self.deletions += len(batch)
            deleted += len(batch) - self._refusals()
        return deleted

    def _refusals(self) -> int:
        """How many of the messages just sent were refused: they are carried out inside `send`, silently when well.

        An entry that is gone is refused too, and that is all that can be wrong with it.
        """
        refused = 0
        while True:
            try:
                refused += ctnetlink.count_errors(self._writer.recv(_DATAGRAM_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return refused

    def local_addresses(self) -> frozenset[bytes]:
        """The addresses of this namespace."""
        sequence = self._next_sequence(1)
        request = _HEADER.pack(17, _RTM_GETADDR, ctnetlink.NLM_F_REQUEST | ctnetlink.NLM_F_DUMP, sequence, 0)
        self._routes.send(request + b"\0" * 4)
        found: set[bytes] = set()
        while True:
            datagram, offset = self._routes.recv(_DATAGRAM_BYTES), 0
            while offset + _HEADER.size <= len(datagram):
                length, kind, _, answered, _ = _HEADER.unpack_from(datagram, offset)
                if answered == sequence and kind in (ctnetlink.NLMSG_DONE, ctnetlink.NLMSG_ERROR):
                    return frozenset(found)
                if answered == sequence and kind == _RTM_NEWADDR:
                    attributes = parse(datagram[offset + _HEADER.size + _IFADDRMSG_BYTES : offset + length])
                    found.add(attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS, b""))
                offset += max(_HEADER.size, (length + 3) & ~3)

    def _next_sequence(self, count: int) -> int:
        if self._sequence > _SEQUENCE_MAX:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first


def _open(protocol: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        opened.bind((0, 0))
    except BaseException:
        opened.close()
        raise
    return opened
