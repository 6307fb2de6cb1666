# SPDX-License-Identifier: Apache-2.0
"""The program every pod runs: a TCP and UDP echo server that says who answered and whom it saw.

Run as a script with `-S -E -I`; standard library without asyncio, so a pod starts in some 30 ms and holds 10 MB.
Its one argument is JSON:

    {"pod", "namespace", "node", "addresses": [...], "ports": [["TCP", 80], ...],
     "readiness_delay_seconds", "drain_seconds", "grace_seconds", "fail_readiness_on_termination"}

TCP: each line is answered by one line of JSON; a line that begins like an HTTP request is answered as HTTP/1.0 and the
connection closed, so curl works. UDP: each datagram is answered by one. Standard output carries the life of the pod,
one JSON object a line: {"ready": bool}.

SIGTERM: the pod goes on answering until nobody has asked for `drain_seconds`, so that a proxy that learns late loses
no request; then it reports not ready, closes its listeners, finishes its connections and ends, at the latest after
`grace_seconds`.
"""

import json
import os
import selectors
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Not imported at run time: it would lengthen the start of every pod.
    from collections.abc import Callable

_LINE_BYTES_MAX = 8192
_CONNECTIONS_MAX = 10_000
_HTTP_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ")
_SHUTDOWN_STEP_SECONDS = 0.05


class EchoServer:
    """The server of one pod: a selector loop over listeners, datagram sockets and connections."""

    def __init__(self, settings: dict[str, object]) -> None:
        """Takes the settings of the module docstring; `run` does the rest."""
        self._settings = settings
        self._selector = selectors.DefaultSelector()
        self._listeners: list[socket.socket] = []
        self._connections: dict[socket.socket, bytearray] = {}
        self._last_request = 0.0
        self._terminating_since: float | None = None
        self._ready = False

    def run(self) -> None:
        """Serves until terminated."""
        self._wake_on_signal()
        self._bind()
        ready_at = time.monotonic() + self._seconds("readiness_delay_seconds", 0.0)
        while True:
            now = time.monotonic()
            if self._terminating_since is not None:
                if self._drained(now):
                    break
            elif not self._ready and now >= ready_at:
                self._report(ready=True)
            pending = not self._ready and self._terminating_since is None
            timeout = max(ready_at - now, 0.0) if pending else None
            self._step(_SHUTDOWN_STEP_SECONDS if self._terminating_since is not None else timeout)
        self._finish()

    def _seconds(self, key: str, default: float) -> float:
        value = self._settings.get(key, default)
        return float(value) if isinstance(value, int | float) else default

    def _wake_on_signal(self) -> None:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._selector.register(reader, selectors.EVENT_READ, lambda sock: sock.recv(64))
        self._waker = writer
        signal.set_wakeup_fd(writer.fileno())
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, *_: object) -> None:
        if self._terminating_since is None:
            self._terminating_since = time.monotonic()

    def _drained(self, now: float) -> bool:
        since = self._terminating_since or now
        if self._settings.get("fail_readiness_on_termination"):
            self._report(ready=False)
        quiet_since = max(since, self._last_request)
        over = now - since >= self._seconds("grace_seconds", 30.0)
        return over or now - quiet_since >= self._seconds("drain_seconds", 1.0)

    def _finish(self) -> None:
        self._report(ready=False)
        for listener in self._listeners:
            self._selector.unregister(listener)
            listener.close()
        deadline = (self._terminating_since or 0.0) + self._seconds("grace_seconds", 30.0)
        while self._connections and time.monotonic() < deadline:
            quiet = time.monotonic() - self._last_request
            if quiet >= self._seconds("drain_seconds", 1.0):
                break
            self._step(_SHUTDOWN_STEP_SECONDS)

    def _report(self, *, ready: bool) -> None:
        if ready != self._ready:
            self._ready = ready
            os.write(1, json.dumps({"ready": ready}).encode() + b"\n")

    def _step(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            key.data(key.fileobj)

    def _bind(self) -> None:
        ports = self._settings["ports"]
        addresses = self._settings["addresses"]
        if not isinstance(ports, list) or not isinstance(addresses, list):
            raise TypeError("ports and addresses are lists")
        for protocol, port in ports:
            for address in addresses:
                self._bind_one(protocol, address, port)

    def _bind_one(self, protocol: str, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        if protocol == "UDP":
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.bind((address, port))
            handler: Callable[[socket.socket], None] = self._datagram
        else:
            number = socket.IPPROTO_SCTP if protocol == "SCTP" else socket.IPPROTO_TCP
            try:
                sock = socket.socket(family, socket.SOCK_STREAM, number)
            except OSError as error:
                sys.stderr.write(f"{protocol} port {port} is not served: {error}\n")
                return
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen(1024)
            handler = self._accept
        sock.setblocking(False)
        self._listeners.append(sock)
        self._selector.register(sock, selectors.EVENT_READ, handler)

    def _answer(self, protocol: str, sock: socket.socket, peer: tuple[object, ...], request: bytes) -> bytes:
        self._last_request = time.monotonic()
        local = sock.getsockname()
        answer = {
            "pod": self._settings["pod"],
            "namespace": self._settings["namespace"],
            "node": self._settings["node"],
            "protocol": protocol,
            "peer": peer[0],
            "peer_port": peer[1],
            "local": local[0],
            "local_port": local[1],
            "request": request[:64].decode("ascii", "replace"),
        }
        return json.dumps(answer).encode() + b"\n"

    def _datagram(self, sock: socket.socket) -> None:
        try:
            request, peer = sock.recvfrom(65535)
            sock.sendto(self._answer("UDP", sock, peer, request), peer)
        except OSError as error:
            sys.stderr.write(f"UDP: {error}\n")

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        if len(self._connections) >= _CONNECTIONS_MAX:
            connection.close()
            return
        connection.setblocking(False)
        self._last_request = time.monotonic()
        self._connections[connection] = bytearray()
        self._selector.register(connection, selectors.EVENT_READ, self._read)

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(4096)
            if data:
                self._feed(connection, data)
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._close(connection)

    def _feed(self, connection: socket.socket, data: bytes) -> None:
        buffer = self._connections[connection]
        buffer += data
        is_http = buffer.startswith(_HTTP_METHODS)
        if is_http and b"\r\n\r\n" not in buffer:
            if len(buffer) > _LINE_BYTES_MAX:
                self._close(connection)
            return
        peer = connection.getpeername()
        while (end := buffer.find(b"\n")) >= 0:
            answer = self._answer("TCP", connection, peer, bytes(buffer[:end]).strip())
            if is_http:
                connection.sendall(_http(answer))
                self._close(connection)
                return
            connection.sendall(answer)
            del buffer[: end + 1]
        if len(buffer) > _LINE_BYTES_MAX:
            self._close(connection)

    def _close(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._connections[connection]
        connection.close()


def _http(body: bytes) -> bytes:
    head = (
        f"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    EchoServer(json.loads(sys.argv[1])).run()
