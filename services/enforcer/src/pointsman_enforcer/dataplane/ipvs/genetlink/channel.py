# SPDX-License-Identifier: Apache-2.0
"""The socket to IPVS: many messages in one send, one acknowledgement for all, and errors that name their message.

IPVS has no transactions. The kernel works through a send message by message, goes on after one that it refuses, and
says of each refused one why. So a send is told as what of it was refused: its caller knows that all the rest is done.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Self, TypeVar

from pointsman_enforcer.dataplane.ipvs.genetlink import message
from pointsman_enforcer.dataplane.ipvs.genetlink.message import Message
from pointsman_enforcer.dataplane.ipvs.genetlink.model import (
    Info,
    RealServer,
    Timeouts,
    VirtualServer,
    VirtualServerId,
)

_NETLINK_GENERIC: Final = 16
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_REQUEST: Final = 0x1
_ACK: Final = 0x4
_DUMP: Final = 0x300
_HEADER: Final = struct.Struct("=IHHII")
_SEND_BUFFER_BYTES: Final = 4 << 20
SEND_MESSAGES_MAX: Final = 2048
"""Of one send; beyond some hundreds nothing is gained, and if all are refused the answers must fit the buffer."""
_DATAGRAM_BYTES_MAX: Final = 1 << 18
_SEQUENCE_MAX: Final = 1 << 31
Read = TypeVar("Read")


class IpvsError(Exception):
    """The kernel cannot be asked: no IPVS in it, no right to, or the answers were lost."""


class Refusal(NamedTuple):
    """One message that the kernel refused."""

    number: int
    """Index among those that were sent."""
    errno: int
    what: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.what}: {os.strerror(self.errno)}"


class IpvsChannel:
    """A socket in the network namespace of the thread that makes it. Blocking; for one caller at a time."""

    def __init__(self) -> None:
        """IpvsError when this kernel has no IPVS or we may not talk to it."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC)
        self._sequence = 0
        self.messages = 0
        """Sent so far."""
        self.sends = 0
        """System calls that sent them."""
        self.bytes = 0
        """Sent so far."""
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            for force, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
                self._enlarge(force, plain)
            self._family = message.GENL_ID_CTRL
            (self._family,) = self._ask(message.family_request(), message.read_family)
        except (OSError, ValueError) as error:
            self._socket.close()
            raise IpvsError(f"this kernel offers no IPVS (module ip_vs): {error}") from error
        except IpvsError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, messages: Sequence[Message]) -> list[Refusal]:
        """Send messages in order; which were refused. All others took effect.

        Raises:
            IpvsError: answers were lost, so that nobody knows.
        """
        refused: list[Refusal] = []
        for start in range(0, len(messages), SEND_MESSAGES_MAX):
            refused += self._send(messages[start : start + SEND_MESSAGES_MAX], start)
        return refused

    def services(self) -> list[VirtualServer]:
        """Every virtual server, also those of others."""
        found = self._ask(message.get_services(), message.read_service, flags=_DUMP)
        return [server for server in found if server is not None]

    def service(self, server: VirtualServerId) -> VirtualServer | None:
        """One virtual server; None when it is not there."""
        try:
            return self._ask(message.get_service(server), message.read_service)[0]
        except IpvsError as error:
            if _is_gone(error):
                return None
            raise

    def dests(self, server: VirtualServerId) -> list[RealServer]:
        """The real servers of a virtual server; none when it is gone."""
        try:
            return self._ask(
                message.get_dests(server), lambda payload: message.read_dest(payload, server.family), flags=_DUMP
            )
        except IpvsError as error:
            if _is_gone(error):
                return []
            raise

    def timeouts(self) -> Timeouts:
        """The kernel's timeouts."""
        return self._ask(message.get_timeouts(), message.read_timeouts)[0]

    def info(self) -> Info:
        """What the kernel says of itself."""
        return self._ask(message.get_info(), message.read_info)[0]

    def _enlarge(self, force: int, plain: int) -> None:
        """Beyond the host's limit, where we may; else as far as it goes."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, force, _SEND_BUFFER_BYTES)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, plain, _SEND_BUFFER_BYTES)

    def _send(self, messages: Sequence[Message], start: int) -> list[Refusal]:
        if self._sequence > _SEQUENCE_MAX:
            self._sequence = 0
        first = self._sequence + 1
        last = self._sequence + len(messages)
        parts = [
            self._frame(each, _REQUEST | (_ACK if number == last else 0), number)
            for number, each in enumerate(messages, start=first)
        ]
        self._transmit(parts, last)
        refused: list[Refusal] = []
        while True:
            for kind, _, sequence, body in self._receive():
                if kind != _NLMSG_ERROR or not first <= sequence <= last:
                    continue
                code = _code(body)
                if code:
                    number = sequence - first
                    refused.append(Refusal(start + number, code, messages[number].what))
                if sequence == last:
                    return refused

    def _ask(self, request: Message, read: Callable[[bytes], Read], *, flags: int = 0) -> list[Read]:
        number = self._sequence + 1
        self._transmit([self._frame(request, _REQUEST | (flags or _ACK), number)], number)
        found: list[Read] = []
        while True:
            for kind, _, sequence, body in self._receive():
                if sequence != number:
                    continue
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    code = _code(body)
                    if code:
                        raise IpvsError(f"{request.what}: {os.strerror(code)}") from OSError(code, os.strerror(code))
                    return found
                found.append(read(body))

    def _frame(self, each: Message, flags: int, sequence: int) -> bytes:
        return _HEADER.pack(_HEADER.size + len(each.payload), self._family, flags, sequence, 0) + each.payload

    def _transmit(self, parts: Sequence[bytes], last: int) -> None:
        data = b"".join(parts)
        self.messages += last - self._sequence
        self._sequence = last
        self.bytes += len(data)
        self.sends += 1
        try:
            self._socket.send(data)
        except OSError as error:
            raise IpvsError(f"sending {len(data)} bytes: {error}") from error

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        try:
            return list(message.answers(self._socket.recv(_DATAGRAM_BYTES_MAX)))
        except (OSError, ValueError) as error:
            raise IpvsError(f"reading answers: {error}") from error


def _is_gone(error: IpvsError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ESRCH, errno.ENOENT)


def _code(body: bytes) -> int:
    """The errno in an error or the end of a dump."""
    return -int(struct.unpack("=i", body[:4])[0]) if len(body) >= 4 else 0
