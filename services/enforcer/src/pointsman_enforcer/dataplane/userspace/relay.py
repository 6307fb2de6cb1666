# SPDX-License-Identifier: Apache-2.0
"""A TCP connection with both sides: bytes both ways until both are done.

Each direction ends by itself: the end of one is passed on (half-close), the other goes on. What a slow side does not
take is held, at most one read of it, and nothing more is read meanwhile: backpressure. A side that resets resets the
other, and a silence that is too long resets both.

    read --copy--> the poller's buffer --> send        little, or a turn of many connections
    read --splice--> a pipe --splice--> send           after RICH_READS reads in a row of at least RICH_BYTES
"""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import Final

from pointsman_enforcer.dataplane.userspace.core import Core
from pointsman_enforcer.dataplane.userspace.pipes import Pipe

RICH_READS: Final = 16
RICH_BYTES: Final = 64 << 10
_POOR_BYTES: Final = 16 << 10
"""A pipe is given back after a read of less."""
_MOVE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_RESET: Final = struct.pack("ii", 1, 0)
_KEEPALIVE: Final = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}
"""Seconds, seconds, probes: a peer that is gone without a word is missed after two minutes."""
_SWEEPS: Final = 4
"""In one interval of silence."""


def end_with_reset(connection: socket.socket) -> None:
    """Close so that the other side sees an error, not an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


def prepare(opened: socket.socket) -> None:
    """Small writes go out at once, and a peer that is gone is missed. What a listener accepts inherits both."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        opened.setsockopt(socket.IPPROTO_TCP, option, value)


class Half:
    """One direction."""

    __slots__ = ("held", "is_done", "pipe", "piped", "rich_reads", "source", "target")

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.held = memoryview(b"")
        """Read, and not taken yet."""
        self.pipe: Pipe | None = None
        self.piped = 0
        """In the pipe, and not taken yet."""
        self.rich_reads = 0
        self.is_done = False
        """The end was passed on."""

    @property
    def is_waiting(self) -> bool:
        """Whether something read was not taken yet."""
        return bool(self.held) or self.piped > 0

    def read(self, core: Core) -> int:
        """Read once, at most a buffer full, and pass it on; how many bytes. OSError when a side is broken."""
        try:
            if self.pipe is None:
                count = self._copy(core.poller.buffer)
            else:
                count = self._splice(self.pipe)
                core.counters.spliced += count
        except BlockingIOError:
            return 0
        if count == 0:
            self.is_done = True
            self.target.shutdown(socket.SHUT_WR)
        self._choose(core, count)
        return count

    def flush(self) -> None:
        """Pass on what waits, as far as it is taken."""
        if self.held:
            self.held = self.held[self._send(self.held) :]
        elif self.pipe is not None:
            self._drain(self.pipe)

    def end(self, core: Core) -> None:
        """Give back what is borrowed."""
        if self.pipe is not None:
            core.pipes.give_back(self.pipe, is_empty=not self.piped)
            self.pipe = None

    def _copy(self, buffer: memoryview) -> int:
        count = self.source.recv_into(buffer)
        if count:
            sent = self._send(buffer[:count])
            if sent < count:
                self.held = memoryview(bytes(buffer[sent:count]))
        return count

    def _splice(self, pipe: Pipe) -> int:
        count = os.splice(self.source.fileno(), pipe.target, pipe.size, flags=_MOVE)
        self.piped += count
        if count:
            self._drain(pipe)
        return count

    def _choose(self, core: Core, count: int) -> None:
        """Borrow a pipe when much is said, give it back when not."""
        if self.pipe is None:
            self.rich_reads = self.rich_reads + 1 if count >= RICH_BYTES else 0
            if self.rich_reads >= RICH_READS and not self.held:
                self.pipe = core.pipes.take()
                self.rich_reads = 0
        elif not self.piped and count < _POOR_BYTES:
            self.end(core)

    def _drain(self, pipe: Pipe) -> None:
        try:
            self.piped -= os.splice(pipe.source, self.target.fileno(), self.piped, flags=_MOVE)
        except BlockingIOError:
            return

    def _send(self, data: memoryview) -> int:
        try:
            return self.target.send(data)
        except BlockingIOError:
            return 0


class Relay:
    """A connection with both sides; counted as one of `Core.counters.connections` already."""

    __slots__ = ("_core", "_down", "_interests", "_relays", "_up", "seen_at")

    def __init__(self, core: Core, relays: Relays, client: socket.socket, upstream: socket.socket) -> None:
        self._core, self._relays = core, relays
        self._up, self._down = Half(client, upstream), Half(upstream, client)
        self._interests: dict[int, int] = {}
        self.seen_at = core.poller.now()
        relays.add(self)
        self._watch()

    @property
    def is_half_closed(self) -> bool:
        """Whether one side has ended."""
        return self._up.is_done or self._down.is_done

    def give_up(self) -> None:
        """End it: it was silent for too long."""
        self._core.counters.idle += 1
        self._end(is_reset=True)

    def _watch(self) -> None:
        """Ask for exactly what either direction waits for. Errors are told of even where nothing is waited for."""
        for reading, writing in ((self._up, self._down), (self._down, self._up)):
            is_reading = not reading.is_done and not reading.is_waiting
            events = (select.EPOLLIN if is_reading else 0) | (select.EPOLLOUT if writing.is_waiting else 0)
            fd = reading.source.fileno()
            if self._interests.get(fd) != events:
                self._interests[fd] = events
                handler = self._from_client if reading is self._up else self._from_upstream
                self._core.poller.watch(fd, events, handler)

    def _from_client(self, events: int) -> None:
        self._happened(events, self._up, self._down)

    def _from_upstream(self, events: int) -> None:
        self._happened(events, self._down, self._up)

    def _happened(self, events: int, reading: Half, writing: Half) -> None:
        self.seen_at = self._core.poller.now()
        is_reading = not reading.is_done and not reading.is_waiting
        try:
            if writing.is_waiting and events & ~select.EPOLLIN:
                writing.flush()
            if is_reading and events & ~select.EPOLLOUT:
                self._count(reading, reading.read(self._core))
        except OSError:
            self._end(is_reset=True)
            return
        if self._up.is_done and self._down.is_done:
            self._end(is_reset=False)
        elif not is_reading and events & select.EPOLLERR:
            self._end(is_reset=True)
        elif not is_reading and events & select.EPOLLHUP:
            # Both its ends are over, and what it said still waits for the other side: it would be told again and again.
            self._core.poller.forget(reading.source.fileno())
            self._interests[reading.source.fileno()] = 0
        else:
            self._watch()

    def _count(self, reading: Half, count: int) -> None:
        if reading is self._up:
            self._core.counters.bytes_to_endpoints += count
        else:
            self._core.counters.bytes_to_clients += count

    def _end(self, *, is_reset: bool) -> None:
        self._core.counters.connections -= 1
        self._relays.discard(self)
        halves = (self._up, self._down)
        for half in halves:
            self._core.poller.forget(half.source.fileno())
            half.end(self._core)
        for half in halves:
            end_with_reset(half.source) if is_reset else half.source.close()


class Relays:
    """All connections with both sides, and the end of those that are silent for too long."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._held: set[Relay] = set()
        bounds = [each for each in (core.limits.tcp_idle_seconds, core.limits.half_closed_seconds) if each]
        self._pause = min(bounds) / _SWEEPS if bounds else 0.0
        self._is_sweeping = False

    def add(self, relay: Relay) -> None:
        """Another one."""
        self._held.add(relay)
        if self._pause and not self._is_sweeping:
            self._is_sweeping = True
            self._core.poller.after(self._pause, self._sweep)

    def discard(self, relay: Relay) -> None:
        """It has ended."""
        self._held.discard(relay)

    def _sweep(self) -> None:
        now, limits = self._core.poller.now(), self._core.limits
        for relay in list(self._held):
            bounds = (limits.tcp_idle_seconds, limits.half_closed_seconds if relay.is_half_closed else 0.0)
            if any(bound and now - relay.seen_at >= bound for bound in bounds):
                relay.give_up()
        self._is_sweeping = bool(self._held)
        if self._is_sweeping:
            self._core.poller.after(self._pause, self._sweep)
