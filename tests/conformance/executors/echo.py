# SPDX-License-Identifier: Apache-2.0
"""The echo servers of every namespace, in one process of their own.

Each says `address port peer peer-port`: where the packet arrived, and whom it came from. TCP says it on accept and
again for each line it is sent; UDP and SCTP (INIT ACK) in each answer. One wildcard socket per namespace, protocol and
port.

Standard input takes one JSON object a line, {"path": "/run/netns/...", "protocol": "TCP", "port": 80}; "ok" on standard
output says that the socket is open. The process ends with its standard input.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from conformance.executors import sctp

from support.netns import NetNs

_CLONE_NEWNET = 0x40000000
_BACKLOG = 4096
_IP_PKTINFO = 8
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 8 << 20
"""For a whole burst at once: to a raw socket that is full the kernel answers that nobody speaks the protocol."""
_PKTINFO6 = struct.Struct("16sI")
_PKTINFO4 = struct.Struct("I4s4s")
_IPV4_HEADER_LENGTH_WORDS = 0x0F


class EchoServers:
    """The process, as its parent sees it."""

    def __init__(self) -> None:
        self._open: set[tuple[str, str, int]] = set()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "conformance.executors.echo"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        )
        return self

    def __exit__(self, *exc: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with process:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()

    def listen(self, namespaces: Iterable[NetNs], protocol: str, port: int) -> None:
        """Have a server in each namespace; returns when they listen."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the echo servers are not running")
        if protocol == "SCTP":
            port = 0
        wanted = [ns for ns in namespaces if (ns.name, protocol, port) not in self._open]
        for namespace in wanted:
            request = {"path": str(namespace.path), "protocol": protocol, "port": port}
            process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        for namespace in wanted:
            answer = process.stdout.readline().strip()
            if answer != "ok":
                raise RuntimeError(f"no echo server for {protocol} port {port} in {namespace.name}: {answer!r}")
            self._open.add((namespace.name, protocol, port))


def enter(path: str) -> None:
    """Move the calling thread into the network namespace at `path`."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    finally:
        os.close(handle)


class _Process:
    """The event loop inside the child."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._requests = b""

    def run(self) -> None:
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    if not self._read_requests():
                        return
                else:
                    with contextlib.suppress(BlockingIOError):
                        key.data(key.fileobj)

    def _read_requests(self) -> bool:
        data = os.read(sys.stdin.fileno(), 65536)
        *lines, self._requests = (self._requests + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            try:
                enter(request["path"])
                self._listen(request["protocol"], request["port"])
            except OSError as error:
                _say(str(error))
            else:
                _say("ok")
        return bool(data)

    def _listen(self, protocol: str, port: int) -> None:
        if protocol == "TCP":
            server = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.bind(("::", port))
            server.listen(_BACKLOG)
            self._watch(server, self._accept)
        elif protocol == "UDP":
            self._datagrams(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), port, _answer_udp)
        else:
            self._datagrams(socket.socket(socket.AF_INET6, socket.SOCK_RAW, sctp.PROTOCOL), None, _answer_sctp)
            four = socket.socket(socket.AF_INET, socket.SOCK_RAW, sctp.PROTOCOL)
            four.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            four.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
            self._watch(four, _answer_sctp4)

    def _datagrams(self, server: socket.socket, port: int | None, answer: object) -> None:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        server.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        if port is not None:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.bind(("::", port))
        self._watch(server, answer)

    def _watch(self, opened: socket.socket, on_ready: object) -> None:
        opened.setblocking(False)
        self._selector.register(opened, selectors.EVENT_READ, on_ready)

    def _accept(self, server: socket.socket) -> None:
        """Takes all that wait; the client ends a connection."""
        while True:
            connection, peer = server.accept()
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                connection.send(_words(connection.getsockname(), peer))
            self._selector.register(connection, selectors.EVENT_READ, self._converse)

    def _converse(self, connection: socket.socket) -> None:
        try:
            if connection.recv(256):
                connection.send(_words(connection.getsockname(), connection.getpeername()))
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._selector.unregister(connection)
        connection.close()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _words(here: tuple[object, ...], peer: tuple[object, ...]) -> bytes:
    return f"{_plain(here[0])} {here[1]} {_plain(peer[0])} {peer[1]}\n".encode()


def _plain(address: object) -> str:
    return str(address).removeprefix("::ffff:")


def _answer_udp(server: socket.socket) -> None:
    while True:
        _, control, _, peer = server.recvmsg(256, 256)
        arrived, back = _arrival6(control)
        words = _words((arrived, server.getsockname()[1]), peer)
        with contextlib.suppress(OSError):
            server.sendmsg([words], back, 0, peer)


def _answer_sctp(server: socket.socket) -> None:
    while True:
        data, control, _, peer = server.recvmsg(512, 256)
        packet = sctp.parse(data)
        if packet is None or packet.chunk != sctp.INIT:
            continue
        arrived, back = _arrival6(control)
        words = _words((arrived, packet.destination_port), (peer[0], packet.source_port)).decode().strip()
        with contextlib.suppress(OSError):
            server.sendmsg([sctp.init_ack(packet, words)], back, 0, (peer[0], 0))


def _answer_sctp4(server: socket.socket) -> None:
    while True:
        data, _, _, peer = server.recvmsg(512, 256)
        packet = sctp.parse(data[(data[0] & _IPV4_HEADER_LENGTH_WORDS) * 4 :])
        if packet is None or packet.chunk != sctp.INIT:
            continue
        arrived = socket.inet_ntoa(data[16:20])
        words = _words((arrived, packet.destination_port), (peer[0], packet.source_port)).decode().strip()
        source = _PKTINFO4.pack(0, data[16:20], b"\0" * 4)
        back = [(socket.IPPROTO_IP, _IP_PKTINFO, source)]
        with contextlib.suppress(OSError):
            server.sendmsg([sctp.init_ack(packet, words)], back, 0, (peer[0], 0))


def _arrival6(control: list[tuple[int, int, bytes]]) -> tuple[str, list[tuple[int, int, bytes]]]:
    """The address a datagram was sent to, and the control message that answers from it."""
    for level, kind, data in control:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            address = _PKTINFO6.unpack(data)[0]
            source = _PKTINFO6.pack(address, 0)
            return socket.inet_ntop(socket.AF_INET6, address), [(level, kind, source)]
    return "unknown", []


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _Process().run()
