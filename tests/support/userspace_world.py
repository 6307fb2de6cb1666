# SPDX-License-Identifier: Apache-2.0
"""A proxy in a namespace of its own, with servers on its loopback addresses: no rules, only sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from pointsman_enforcer.dataplane.userspace.limits import ProxyLimits
from pointsman_enforcer.dataplane.userspace.proxy import Proxy
from pointsman_enforcer.dataplane.userspace.target import Address, Listener, Target
from pointsman_model.names import Protocol
from pointsman_model.plan import PlanEndpoint
from support.netns import NetNs

DEADLINE_SECONDS = 20.0
MEMORY = b"12345678"
LISTENING = ipaddress.ip_address("127.0.0.1").packed
SILENT = "10.9.9.9"
"""Routed to a device behind which nobody is: packets are neither answered nor refused."""


def endpoint(address: str, port: int = 8080, weight: int = 1) -> PlanEndpoint:
    return PlanEndpoint(ipaddress.ip_address(address).packed, port, weight)


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds; AssertionError when it does not in time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def heard(connection: socket.socket, count: int) -> bytes:
    """The next so many bytes, or all there are until the end."""
    found = b""
    while len(found) < count and (chunk := connection.recv(count - len(found))):
        found += chunk
    return found


class ProxyWorld:
    """A context manager. `serve` says what the proxy does; `connect` and `datagrams` are clients of it."""

    def __init__(self, limits: ProxyLimits | None = None) -> None:
        self._limits = limits
        self._stack = contextlib.ExitStack()
        self._places: dict[Protocol, Listener] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.namespace = stack.enter_context(NetNs("proxy"))
            self.namespace.run("ip", "link", "add", "void", "type", "veth", "peer", "name", "far")
            for device in ("void", "far"):
                self.namespace.run("ip", "link", "set", device, "up")
            self.namespace.address("void", "10.9.0.1/16")
            self.proxy = self.namespace.call(lambda: Proxy(self._limits))
            stack.callback(self.proxy.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def serve(
        self,
        *endpoints: PlanEndpoint,
        protocol: Protocol = Protocol.TCP,
        affinity_seconds: int = 0,
        serving: Sequence[Address] = (),
    ) -> Listener:
        """From now on the protocol's one listener has these endpoints."""
        if protocol not in self._places:
            self._places[protocol] = self.proxy.bind(Listener(LISTENING, protocol, 0))
        key = self._places[protocol].pack()
        target = Target(MEMORY, affinity_seconds, endpoints, frozenset(serving)).pack()
        self.proxy.poller.submit(lambda: self.proxy.update({key: target}, ())).result()
        return self._places[protocol]

    def stop_serving(self, protocol: Protocol = Protocol.TCP) -> None:
        """Close the protocol's listener."""
        key = self._places.pop(protocol).pack()
        self.proxy.poller.submit(lambda: self.proxy.update({}, (key,))).result()

    def connect(self, source: str = "") -> socket.socket:
        """A connection to the TCP listener."""
        made = self.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.settimeout(DEADLINE_SECONDS)
        if source:
            made.bind((source, 0))
        made.connect(("127.0.0.1", self._places[Protocol.TCP].port))
        return made

    def crowd(self, count: int) -> list[socket.socket]:
        """So many connections to the TCP listener."""
        place = ("127.0.0.1", self._places[Protocol.TCP].port)
        return self.namespace.call(lambda: [socket.create_connection(place, DEADLINE_SECONDS) for _ in range(count)])

    def datagrams(self) -> socket.socket:
        """A client of the UDP listener."""
        made = self.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(DEADLINE_SECONDS)
        made.connect(("127.0.0.1", self._places[Protocol.UDP].port))
        return made

    def listen(self, address: str, port: int = 8080) -> socket.socket:
        """A TCP server that the test plays itself."""
        made = self.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.settimeout(DEADLINE_SECONDS)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(4096)
        return made

    def receive(self, address: str, port: int = 8080) -> socket.socket:
        """A UDP server that the test plays itself."""
        made = self.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(DEADLINE_SECONDS)
        made.bind((address, port))
        return made


class NamingServer:
    """Answers each TCP connection with its address as it begins, and then with whatever it is sent: one event loop."""

    def __init__(self, world: ProxyWorld, address: str) -> None:
        self.address = address
        self._socket = world.listen(address)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._converse, sock=self._socket, backlog=4096))
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(self.address.encode() + b"\n")
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()
