# SPDX-License-Identifier: Apache-2.0
"""The proxy: listeners by key, each with what it serves. All work happens in its own thread (`poller`).

Sockets are bound before they serve: a port is promised to a listener when a plan is rendered, and nothing but binding
it makes sure that it is free.
"""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from pointsman_enforcer.dataplane.userspace.choice import AffinityTable, Balancer
from pointsman_enforcer.dataplane.userspace.core import Core
from pointsman_enforcer.dataplane.userspace.limits import ProxyCounters, ProxyLimits, within_descriptors
from pointsman_enforcer.dataplane.userspace.poller import Poller
from pointsman_enforcer.dataplane.userspace.relay import Relays
from pointsman_enforcer.dataplane.userspace.target import Listener, format_place, parse_listener, parse_target
from pointsman_enforcer.dataplane.userspace.tcp import TcpListener
from pointsman_enforcer.dataplane.userspace.udp import UdpListener
from pointsman_model.names import IPV4_BYTES, Protocol, format_address

_KINDS: Final = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}


class Proxy:
    """Started when made, in the network namespace of the calling thread."""

    def __init__(self, limits: ProxyLimits | None = None) -> None:
        self.poller = Poller("pointsman-proxy")
        self.core = Core(self.poller, within_descriptors(limits or ProxyLimits()))
        self.memories: dict[bytes, AffinityTable] = {}
        """By `Target.memory`; belongs to the proxy's thread."""
        self._relays = Relays(self.core)
        self._bound: dict[bytes, socket.socket] = {}
        self._listeners: dict[bytes, TcpListener | UdpListener] = {}
        self._served: dict[bytes, bytes] = {}
        self._users: Counter[bytes] = Counter()
        """How many listeners have each memory."""
        self.poller.start()

    @property
    def limits(self) -> ProxyLimits:
        """What was asked for, as far as this process has descriptors for it."""
        return self.core.limits

    @property
    def counters(self) -> ProxyCounters:
        """May be read in any thread."""
        return self.core.counters

    def bind(self, listener: Listener) -> Listener:
        """Take a place to listen at; port 0 stands for any that is free. The listener that it came to.

        Raises:
            OSError: it is not to be had.
        """
        return self.poller.submit(lambda: self._bind(listener)).result()

    def release(self, key: bytes) -> None:
        """Give back a place that nothing is served at."""
        self.poller.submit(lambda: self._release(key)).result()

    def update(self, serves: Mapping[bytes, bytes], closes: Iterable[bytes]) -> dict[bytes, bytes]:
        """Serve these targets at these places, all bound, and close others; what was served at them before.

        In the proxy's thread. OSError when a listener cannot be opened; then nothing has changed.
        """
        before = {key: self._served[key] for key in (*serves, *closes) if key in self._served}
        try:
            for key, target in serves.items():
                self._serve(key, target)
        except OSError:
            self.restore(serves, before)
            raise
        for key in closes:
            self._close(key)
        return before

    def restore(self, changed: Iterable[bytes], before: Mapping[bytes, bytes]) -> None:
        """Undo `update`: serve again what was served before, and nothing where nothing was. In the proxy's thread."""
        for key in changed:
            if key in before:
                self._serve(key, before[key])
            else:
                self._close(key)

    def served(self) -> dict[bytes, bytes]:
        """Every target by its key. May be asked in any thread."""
        return dict(self._served)

    def close(self) -> None:
        """End with all connections. May be repeated."""
        self.poller.stop()
        for opened in self._bound.values():
            opened.close()
        self._bound.clear()
        self.core.pipes.close()

    def _bind(self, listener: Listener) -> Listener:
        if listener.port and listener.pack() in self._bound:
            return listener
        family = socket.AF_INET if len(listener.address) == IPV4_BYTES else socket.AF_INET6
        opened = socket.socket(family, _KINDS[listener.protocol] | socket.SOCK_NONBLOCK)
        try:
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if listener.protocol is Protocol.TCP and listener.port:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((format_address(listener.address), listener.port))
        except OSError as error:
            opened.close()
            place = format_place(listener.address, listener.port)
            raise OSError(error.errno, f"{error.strerror} ({listener.protocol.name} {place})") from error
        bound = listener._replace(port=opened.getsockname()[1])
        self._bound[bound.pack()] = opened
        return bound

    def _serve(self, key: bytes, packed: bytes) -> None:
        if self._served.get(key) == packed:
            return
        target = parse_target(packed)
        listener = self._listeners.get(key)
        memory = self.memories.setdefault(target.memory, AffinityTable())
        if listener is not None:
            left = listener.balancer.target.memory
            listener.serve(Balancer(target, memory, listener.balancer.position))
            self._users[target.memory] += 1
            self._leave(left)
        else:
            place = parse_listener(key)
            opened = self._bound.get(key) or self._bound[self._bind(place).pack()]
            balancer = Balancer(target, memory, random.randrange(len(target.endpoints)))  # noqa: S311 - no secret: nodes are not all to begin with the first endpoint
            self._listeners[key] = (
                TcpListener(opened, balancer, self.core, self._relays)
                if place.protocol is Protocol.TCP
                else UdpListener(opened, balancer, self.core)
            )
            self._users[target.memory] += 1
        self._served[key] = packed

    def _close(self, key: bytes) -> None:
        self._served.pop(key, None)
        listener = self._listeners.pop(key, None)
        if listener is None:
            return
        listener.close()
        self._bound.pop(key, None)
        self._leave(listener.balancer.target.memory)

    def _leave(self, memory: bytes) -> None:
        """One listener less has this memory; nobody's memory is forgotten."""
        self._users[memory] -= 1
        if not self._users[memory]:
            del self._users[memory]
            self.memories.pop(memory, None)

    def _release(self, key: bytes) -> None:
        if key not in self._listeners and (opened := self._bound.pop(key, None)) is not None:
            opened.close()
