# SPDX-License-Identifier: Apache-2.0
"""One probe: a socket born in a place's network namespace, one question, one answer or the way it failed."""

import asyncio
import errno
import os
import socket
import struct
import time

import msgspec

from pointsman_lab.net.namespaces import entered
from pointsman_lab.probe.outcome import Answer, Outcome, Probe

_ANSWER_BYTES_MAX = 4096
_ANSWER = msgspec.json.Decoder(Answer)
_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.EHOSTDOWN})
_RECEIVE_ERRORS = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR, by the level they belong to."""
_EXTENDED_ERROR = struct.Struct("I")
_RESET = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


def open_socket(place: str, ip: str, protocol: str, source: str | None) -> socket.socket:
    """A non-blocking socket in the place's namespace, bound to `source` when given.

    Raises:
        NetworkError: there is no such place.
        OSError: the source address is not there, or the protocol is unknown to the kernel.
    """
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with entered(place):
        if protocol == "UDP":
            sock = socket.socket(family, socket.SOCK_DGRAM)
        else:
            number = socket.IPPROTO_SCTP if protocol == "SCTP" else socket.IPPROTO_TCP
            sock = socket.socket(family, socket.SOCK_STREAM, number)
    sock.setblocking(False)
    if source is not None:
        try:
            sock.bind((source, 0))
        except OSError:
            sock.close()
            raise
    return sock


async def ask(sock: socket.socket, text: str) -> Answer:
    """Sends one line over a connected socket and reads the answer.

    Raises:
        ConnectionResetError: the peer closed without an answer.
        OSError: the kernel reports an error.
    """
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, text.encode() + b"\n")
    buffer = b""
    while b"\n" not in buffer:
        data = await loop.sock_recv(sock, _ANSWER_BYTES_MAX)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
        buffer += data
        if len(buffer) > _ANSWER_BYTES_MAX:
            raise OSError(errno.EMSGSIZE, "the answer is too long")
    return _ANSWER.decode(buffer)


async def connect(sock: socket.socket, ip: str, port: int) -> None:
    """Connects; for UDP that only sets the peer, so that ICMP errors are reported.

    Between namespaces of one machine the refusal of a SYN arrives while connect() still holds the socket, and TCP
    passes over it until it repeats the SYN a second later. The error queue has it at once.

    Raises:
        OSError: refused, unreachable, or no answer.
    """
    receive_errors = _RECEIVE_ERRORS[sock.family]
    sock.setsockopt(*receive_errors, 1)
    try:
        error = sock.connect_ex((ip, port))
        if error == errno.EINPROGRESS and sock.type == socket.SOCK_STREAM:
            error = _queued_error(sock) or error
    finally:
        # Later errors are hints only, which an established connection outlives.
        sock.setsockopt(*receive_errors, 0)
    if error == errno.EINPROGRESS:
        await asyncio.get_running_loop().sock_connect(sock, (ip, port))
    elif error:
        raise OSError(error, os.strerror(error))


def _queued_error(sock: socket.socket) -> int:
    """The number of the ICMP error in a socket's error queue, 0 when there is none."""
    try:
        _, control, _, _ = sock.recvmsg(512, 512, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        return 0
    numbers = [
        _EXTENDED_ERROR.unpack_from(data)[0]
        for level, kind, data in control
        if (level, kind) == _RECEIVE_ERRORS[sock.family]
    ]
    return int(numbers[0]) if numbers else 0


async def probe_once(
    *, place: str, ip: str, port: int, protocol: str, timeout_seconds: float, source: str | None, text: str
) -> Probe:
    """One new connection (or UDP socket), one question. Failures are results, not exceptions."""
    started = time.monotonic()
    sock = open_socket(place, ip, protocol, source)
    try:
        async with asyncio.timeout(timeout_seconds):
            await connect(sock, ip, port)
            answer = await ask(sock, text)
    except (OSError, msgspec.DecodeError) as error:
        return failed(error, started)
    finally:
        sock.close()
    ended = time.monotonic()
    return Probe(outcome=Outcome.ANSWER, at_seconds=ended, latency_seconds=ended - started, answer=answer)


def failed(error: Exception, started: float) -> Probe:
    """The result of a probe that ended in `error`."""
    ended = time.monotonic()
    number = error.errno or 0 if isinstance(error, OSError) else 0
    return Probe(outcome=_outcome(error, number), at_seconds=ended, latency_seconds=ended - started, errno=number)


def _outcome(error: Exception, number: int) -> Outcome:
    if number == errno.ECONNREFUSED:
        return Outcome.REFUSED
    if isinstance(error, TimeoutError) or number == errno.ETIMEDOUT:
        return Outcome.TIMEOUT
    if number in _UNREACHABLE:
        return Outcome.UNREACHABLE
    return Outcome.RESET if number in _RESET else Outcome.ERROR
