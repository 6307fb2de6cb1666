# SPDX-License-Identifier: Apache-2.0
"""Many connections at once, each from its own namespace and source address, and what became of each.

One thread and one epoll for all: thousands of connections a second, and silences overlap. A socket belongs for ever to
the namespace it was opened in, so the thread enters a namespace only to open sockets.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from conformance.executors import sctp
from conformance.executors.echo import enter

ANSWER_SECONDS = 4.0
"""How long a connection that must be answered or refused may take before it counts as dropped."""
_AGAIN_SECONDS = 0.5
SILENCE_SECONDS = 0.25
"""How long to wait where nothing must come."""
IN_FLIGHT_MAX = 600
_WHO = b"who?\n"
_LINGER_RESET = struct.pack("ii", 1, 0)
_FIRST_PORT, _LAST_PORT = 10000, 29999
_EXTENDED_ERROR = struct.Struct("I")
_RECEIVE_ERRORS = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR. Between namespaces of one machine the refusal of a SYN arrives while connect() still
holds the socket, and TCP passes over it until it repeats the SYN a second later; the error queue has it at once."""
_KINDS = {
    "TCP": (socket.SOCK_STREAM, 0),
    "UDP": (socket.SOCK_DGRAM, 0),
    "SCTP": (socket.SOCK_RAW, sctp.PROTOCOL),
}


class Attempt(NamedTuple):
    """One connection to make."""

    path: str
    """Of the namespace it is made in."""
    source: str
    destination: str
    port: int
    protocol: str
    patience_seconds: float


class Seen(NamedTuple):
    """What became of a connection: an answer, or else `failure` (`REJECT`, `DROP`, or the error's name)."""

    failure: str
    address: str = ""
    port: int = 0
    peer: str = ""


class _Flight(NamedTuple):
    number: int
    opened: socket.socket
    port: int
    deadline: float
    protocol: str
    again_at: float
    """When what was sent is sent again, as TCP does by itself: a burst may overrun a queue of the kernel."""


class Prober:
    """Makes connections; not to be shared between threads."""

    def __init__(self) -> None:
        self._ports = itertools.cycle(range(_FIRST_PORT, _LAST_PORT))

    def run(self, attempts: Sequence[Attempt]) -> list[Seen]:
        """Make every connection, close it, and say what became of each, in the order given."""
        results: list[Seen | None] = [None] * len(attempts)
        for indexes in _rounds(attempts):
            self._run(attempts, indexes, results)
        return [seen if seen is not None else Seen("LOST") for seen in results]

    def _run(self, attempts: Sequence[Attempt], indexes: Sequence[int], results: list[Seen | None]) -> None:
        # The silent ones go first, so that everything else happens while they wait.
        order = sorted(indexes, key=lambda index: _urgency(attempts[index]))
        waiting = iter(order)
        flights: dict[int, _Flight] = {}
        poll = select.epoll()
        with contextlib.closing(poll):
            while True:
                batch = list(itertools.islice(waiting, IN_FLIGHT_MAX - len(flights)))
                for flight in self._launch(attempts, batch, results):
                    flights[flight.opened.fileno()] = flight
                    poll.register(flight.opened.fileno(), select.EPOLLIN)
                if not flights:
                    break
                self._gather(poll, flights, results)
                _repeat(flights, attempts)

    def open(self, attempt: Attempt) -> socket.socket:
        """One connection that stays open, answered once; TCP or UDP. OSError when it is not answered."""
        with _inside(attempt.path):
            opened, _ = self._socket(attempt)
        try:
            opened.settimeout(attempt.patience_seconds)
            opened.connect((attempt.destination, attempt.port))
            if attempt.protocol == "UDP":
                opened.send(_WHO)
            _parse(opened.recv(256))
        except BaseException:
            opened.close()
            raise
        return opened

    def _launch(self, attempts: Sequence[Attempt], batch: list[int], results: list[Seen | None]) -> Iterator[_Flight]:
        for path, indexes in itertools.groupby(batch, key=lambda index: attempts[index].path):
            with _inside(path):
                opened = [(index, *self._socket(attempts[index])) for index in indexes]
            for index, one, port in opened:
                attempt = attempts[index]
                try:
                    _begin(one, port, attempt)
                except OSError as error:
                    one.close()
                    results[index] = Seen(_name_of(error))
                    continue
                now = time.monotonic()
                is_repeated = attempt.protocol != "TCP" and attempt.patience_seconds > _AGAIN_SECONDS
                again_at = now + _AGAIN_SECONDS if is_repeated else math.inf
                yield _Flight(index, one, port, now + attempt.patience_seconds, attempt.protocol, again_at)

    def _gather(self, poll: select.epoll, flights: dict[int, _Flight], results: list[Seen | None]) -> None:
        """Wait until something arrives or a patience ends; take in all of that."""
        now = time.monotonic()
        nearest = min(min(flight.deadline, flight.again_at) for flight in flights.values())
        for number, _ in poll.poll(max(0.0, nearest - now)):
            seen = _read(flights[number])
            if seen is not None:
                results[flights[number].number] = seen
                _land(poll, flights, number)
        now = time.monotonic()
        for number in [number for number, flight in flights.items() if flight.deadline <= now]:
            # An answer may have come in time, and this process not.
            results[flights[number].number] = _read(flights[number]) or Seen("DROP")
            _land(poll, flights, number)

    def _socket(self, attempt: Attempt) -> tuple[socket.socket, int]:
        """A socket bound to the source, and its port: one not used for long, so that no old connection is met again."""
        family = socket.AF_INET6 if ":" in attempt.source else socket.AF_INET
        kind, number = _KINDS[attempt.protocol]
        opened = socket.socket(family, kind, number)
        opened.setblocking(False)
        if kind is socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            opened.setsockopt(*_RECEIVE_ERRORS[family], 1)
        for port in itertools.islice(self._ports, 100):
            try:
                opened.bind((attempt.source, port if kind is not socket.SOCK_RAW else 0))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    opened.close()
                    raise
            else:
                if kind is socket.SOCK_RAW:
                    sctp.take_only(opened, port)
                return opened, port
        opened.close()
        raise OSError(errno.EADDRINUSE, f"100 ports of {attempt.source} in a row are in use")


def _land(poll: select.epoll, flights: dict[int, _Flight], number: int) -> None:
    """Close it, and hear no more of it: a program that is just being started may hold a copy, which would be heard."""
    poll.unregister(number)
    flights.pop(number).opened.close()


def ask_again(opened: socket.socket, patience_seconds: float) -> Seen:
    """One more request on a connection from `Prober.open`."""
    opened.settimeout(patience_seconds)
    try:
        opened.send(_WHO)
        return _parse(opened.recv(256))
    except OSError as error:
        return Seen(_name_of(error))


def _rounds(attempts: Sequence[Attempt]) -> list[list[int]]:
    """Indexes of what may go out together.

    An ICMP error reaches every raw socket between the two addresses, whatever ports the packet had; so SCTP to one
    address by another port waits for its own round.
    """
    ports: dict[tuple[str, str, str], list[int]] = {}
    rounds: list[list[int]] = [[]]
    for index, attempt in enumerate(attempts):
        number = 0
        if attempt.protocol == "SCTP":
            mine = ports.setdefault((attempt.path, attempt.source, attempt.destination), [])
            if attempt.port not in mine:
                mine.append(attempt.port)
            number = mine.index(attempt.port)
        while len(rounds) <= number:
            rounds.append([])
        rounds[number].append(index)
    return rounds


def _urgency(attempt: Attempt) -> tuple[bool, str]:
    return attempt.patience_seconds >= ANSWER_SECONDS, attempt.path


def _begin(opened: socket.socket, port: int, attempt: Attempt) -> None:
    where = (attempt.destination, attempt.port if attempt.protocol != "SCTP" else 0)
    failure = opened.connect_ex(where)
    if failure not in {0, errno.EINPROGRESS}:
        raise OSError(failure, os.strerror(failure))
    if attempt.protocol == "TCP":
        return
    data = _opening(port, attempt)
    # A packet that this host's own rules drop shows as EPERM; so does a rejected one, before the refusal arrives.
    with contextlib.suppress(PermissionError):
        opened.send(data)


def _opening(port: int, attempt: Attempt) -> bytes:
    return _WHO if attempt.protocol == "UDP" else sctp.init(port, attempt.port, port)


def _repeat(flights: dict[int, _Flight], attempts: Sequence[Attempt]) -> None:
    """Send again what is due; a refusal that gets lost here comes again with the next one."""
    now = time.monotonic()
    for number, flight in flights.items():
        if flight.again_at <= now:
            with contextlib.suppress(OSError):
                flight.opened.send(_opening(flight.port, attempts[flight.number]))
            flights[number] = flight._replace(again_at=now + _AGAIN_SECONDS)


def _read(flight: _Flight) -> Seen | None:
    """What a readable socket says; None when that is nothing, or not for this one."""
    try:
        data = flight.opened.recv(512)
    except BlockingIOError:
        return _queued_error(flight.opened) if flight.protocol == "TCP" else None
    except OSError as error:
        return Seen(_name_of(error))
    if flight.protocol != "SCTP":
        return _parse(data)
    if flight.opened.family is socket.AF_INET:
        data = data[(data[0] & 0x0F) * 4 :]
    packet = sctp.parse(data)
    if packet is None or packet.chunk != sctp.INIT_ACK or packet.destination_port != flight.port:
        return None
    return _parse(packet.text.encode())


def _queued_error(opened: socket.socket) -> Seen | None:
    """An ICMP error that waits in a socket's error queue."""
    try:
        _, control, _, _ = opened.recvmsg(512, 512, socket.MSG_ERRQUEUE)
    except BlockingIOError:
        return None
    for level, kind, data in control:
        if (level, kind) in _RECEIVE_ERRORS.values():
            number = _EXTENDED_ERROR.unpack_from(data)[0]
            return Seen(_name_of(OSError(number, os.strerror(number))))
    return None


def _parse(data: bytes) -> Seen:
    words = data.split(b"\n", 1)[0].decode("ascii", "replace").split()
    if len(words) != 4:
        return Seen("CLOSED" if not data else f"GARBAGE {data[:40]!r}")
    return Seen("", words[0], int(words[1]), words[2])


def _name_of(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "REJECT"
    if isinstance(error, TimeoutError):
        return "DROP"
    return errno.errorcode.get(error.errno or 0, str(error))


@contextlib.contextmanager
def _inside(path: str) -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(path)
        try:
            yield
        finally:
            enter(f"/proc/self/fd/{home}")
    finally:
        os.close(home)
