# SPDX-License-Identifier: Apache-2.0
"""Real traffic: echo servers that say who they are and whom they saw, and probes that tell refusal from silence."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from types import TracebackType

    from support.netns import NetNs

PATIENCE_SECONDS = 5.0
"""How long a probe that should be answered waits: longer than TCP needs to repeat its first packet twice."""
SILENCE_SECONDS = 0.4
"""How long a probe that should not be answered waits."""
_RESEND_SECONDS = 0.5
_CONNECTIONS = 40

REJECT = "REJECT"
DROP = "DROP"


class Reply(NamedTuple):
    """Who answered, and what source address and port the answering side saw."""

    name: str
    peer: str
    port: int


class EchoServer:
    """Listens on TCP and UDP in a namespace, and answers everything with `name peer-address peer-port`."""

    def __init__(self, namespace: NetNs, name: str, port: int, address: str = "::") -> None:
        """The unspecified IPv6 address listens for both families."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.name = name
        self._closing = threading.Event()
        self._tcp = namespace.socket(family, socket.SOCK_STREAM)
        self._udp = namespace.socket(family, socket.SOCK_DGRAM)
        for opened in (self._tcp, self._udp):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.settimeout(0.1)
            opened.bind((address, port))
        self._tcp.listen(128)
        self._threads = [threading.Thread(target=run) for run in (self._serve_tcp, self._serve_udp)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._tcp.close()
        self._udp.close()

    def _answer(self, peer: tuple[str, int]) -> bytes:
        return f"{self.name} {peer[0].removeprefix('::ffff:')} {peer[1]}".encode()

    def _serve_tcp(self) -> None:
        """Answers each line of each connection; one thread per connection, ended by its client or by closing."""
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                connection, peer = self._tcp.accept()
                threading.Thread(target=self._converse, args=(connection, peer), daemon=True).start()

    def _converse(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        with connection:
            connection.settimeout(0.1)
            while not self._closing.is_set():
                with contextlib.suppress(TimeoutError):
                    try:
                        if not connection.recv(64):
                            return
                        connection.sendall(self._answer(peer))
                    except OSError as error:
                        if isinstance(error, TimeoutError):
                            continue
                        return

    def _serve_udp(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                _, peer = self._udp.recvfrom(64)
                self._udp.sendto(self._answer(peer), peer)


def probe(
    namespace: NetNs,
    address: str,
    port: int,
    *,
    udp: bool = False,
    source: str | None = None,
    silent: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Reply | str:
    """Send one request on a new socket: the reply, REJECT (connection refused) or DROP (nothing came).

    `silent` says that silence is what the caller expects, so that waiting for it is short.
    """
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with namespace.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as client:
        if source is not None:
            client.bind((source, 0))
        patience = SILENCE_SECONDS if silent else patience_seconds
        try:
            return (
                _exchange_udp(client, address, port, patience)
                if udp
                else _exchange_tcp(client, address, port, patience)
            )
        except ConnectionRefusedError:
            return REJECT
        except TimeoutError:
            return DROP


def seen(namespace: NetNs, address: str, port: int = 80, *, udp: bool = False) -> tuple[set[str], set[str]]:
    """Over many connections: which backends answered, and which source addresses they saw."""
    names: set[str] = set()
    peers: set[str] = set()
    for _ in range(_CONNECTIONS):
        reply = answered(namespace, address, port, udp=udp)
        names.add(reply.name)
        peers.add(reply.peer)
    return names, peers


def answered(namespace: NetNs, address: str, port: int = 80, *, udp: bool = False, source: str | None = None) -> Reply:
    """One request that must be answered."""
    reply = probe(namespace, address, port, udp=udp, source=source)
    assert isinstance(reply, Reply), f"{namespace.name} to {address}:{port} from {source}: {reply}"
    return reply


def parse_reply(data: bytes) -> Reply:
    """The answer of an EchoServer."""
    name, peer, port = data.decode().split()
    return Reply(name, peer, int(port))


def _exchange_tcp(client: socket.socket, address: str, port: int, patience: float) -> Reply:
    client.settimeout(patience)
    client.connect((address, port))
    client.sendall(b"who?")
    return parse_reply(client.recv(128))


def _exchange_udp(client: socket.socket, address: str, port: int, patience: float) -> Reply:
    """Repeats the datagram: a dropped one on this host shows as EPERM, which is silence like any other."""
    client.settimeout(min(_RESEND_SECONDS, patience))
    client.connect((address, port))
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with contextlib.suppress(PermissionError):
            client.send(b"who?")
        with contextlib.suppress(TimeoutError):
            return parse_reply(client.recv(128))
    raise TimeoutError
