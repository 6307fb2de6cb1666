# SPDX-License-Identifier: Apache-2.0
"""TCP connections: accept, dial one endpoint after the other, then bytes both ways until both sides are done.

Each direction ends by itself: the end of one is passed on (half-close), the other goes on. What a slow side does not
take is held, at most one read of it, and nothing more is read meanwhile: backpressure. There is no idle timeout. A side
that resets resets the other. A target that changes, or a listener that closes, does not touch connections that exist.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator
from typing import Final

from pointsman_enforcer.dataplane.userspace.choice import Balancer
from pointsman_enforcer.dataplane.userspace.limits import ProxyCounters, ProxyLimits
from pointsman_enforcer.dataplane.userspace.poller import Poller, Timer
from pointsman_enforcer.dataplane.userspace.target import Address
from pointsman_model.names import format_address

BACKLOG: Final = 4096
_ACCEPTS_MAX: Final = 128
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_REST_SECONDS: Final = 0.1
_RESET: Final = struct.pack("ii", 1, 0)
_PENDING: Final = frozenset({errno.EINPROGRESS, errno.EALREADY})


def end_with_reset(connection: socket.socket) -> None:
    """Close so that the other side sees an error, not an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()


class TcpListener:
    """Accepts connections for one target."""

    def __init__(
        self,
        opened: socket.socket,
        balancer: Balancer,
        *,
        poller: Poller,
        limits: ProxyLimits,
        counters: ProxyCounters,
    ) -> None:
        """`opened` is bound; it listens from now on."""
        self.balancer = balancer
        self.poller, self.limits, self.counters = poller, limits, counters
        self._socket = opened
        opened.listen(BACKLOG)
        poller.watch(opened.fileno(), select.EPOLLIN, self._accept)

    def serve(self, balancer: Balancer) -> None:
        """From the next connection on, choose by this."""
        self.balancer = balancer

    def close(self) -> None:
        """Accept no more; connections go on."""
        self.poller.forget(self._socket.fileno())
        self._socket.close()

    def _accept(self, _events: int) -> None:
        for _ in range(_ACCEPTS_MAX):
            try:
                connection, peer = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._rest()
                    return
                continue
            connection.setblocking(False)
            if self.counters.connections >= self.limits.connections_max:
                self.counters.over_limit += 1
                end_with_reset(connection)
                continue
            self.counters.accepted += 1
            self.counters.connections += 1
            Dialing(self, connection, socket.inet_pton(self._socket.family, peer[0].partition("%")[0]))

    def _rest(self) -> None:
        """There are no descriptors: ask again soon, not at once."""
        self.counters.over_limit += 1
        fd = self._socket.fileno()
        self.poller.forget(fd)
        self.poller.after(_REST_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            self.poller.watch(self._socket.fileno(), select.EPOLLIN, self._accept)


class Dialing:
    """A connection that has no endpoint yet."""

    def __init__(self, listener: TcpListener, client: socket.socket, address: bytes) -> None:
        self._listener, self._poller = listener, listener.poller
        self._client, self._address = client, address
        self._endpoints: Iterator[Address] = listener.balancer.attempts(address, self._poller.now())
        self._balancer = listener.balancer
        self._patience = iter(listener.limits.dial_seconds)
        self._timer: Timer | None = None
        self._attempt()

    def _attempt(self) -> None:
        for seconds in self._patience:
            self._endpoint = next(self._endpoints)
            try:
                self._upstream = socket.socket(self._client.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError:
                self._listener.counters.over_limit += 1
                break
            place = (format_address(self._endpoint[0]), self._endpoint[1])
            result = self._upstream.connect_ex(place)
            if result == 0 or result in _PENDING:
                self._timer = self._poller.after(seconds, self._expired)
                self._poller.watch(self._upstream.fileno(), select.EPOLLOUT, self._answered)
                return
            self._listener.counters.dials_failed += 1
            self._upstream.close()
        self._listener.counters.unreachable += 1
        self._listener.counters.connections -= 1
        end_with_reset(self._client)

    def _answered(self, _events: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._next()
            return
        self._poller.forget(self._upstream.fileno())
        self._balancer.reached(self._address, self._endpoint, self._poller.now())
        Relay(self._poller, self._listener.counters, self._client, self._upstream)

    def _expired(self) -> None:
        """Time is over; unless it was us who were late."""
        try:
            self._upstream.getpeername()
        except OSError:
            self._next()
        else:
            self._answered(0)

    def _next(self) -> None:
        """This endpoint does not answer: the next one."""
        self._listener.counters.dials_failed += 1
        self._poller.forget(self._upstream.fileno())
        self._upstream.close()
        self._attempt()


class Half:
    """One direction."""

    __slots__ = ("held", "is_done", "source", "target")

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.held = memoryview(b"")
        """Read, and not taken yet."""
        self.is_done = False
        """The end was passed on."""

    def read(self, buffer: memoryview) -> int:
        """Read once, at most a buffer full, and pass it on; how many bytes. OSError when a side is broken."""
        try:
            count = self.source.recv_into(buffer)
        except BlockingIOError:
            return 0
        if count == 0:
            self.is_done = True
            self.target.shutdown(socket.SHUT_WR)
            return 0
        sent = self._send(buffer[:count])
        if sent < count:
            self.held = memoryview(bytes(buffer[sent:count]))
        return count

    def flush(self) -> None:
        """Pass on what is held, as far as it is taken."""
        self.held = self.held[self._send(self.held) :]

    def _send(self, data: memoryview) -> int:
        try:
            return self.target.send(data)
        except BlockingIOError:
            return 0


class Relay:
    """A connection with both sides."""

    def __init__(self, poller: Poller, counters: ProxyCounters, client: socket.socket, upstream: socket.socket) -> None:
        self._poller, self._counters = poller, counters
        self._up, self._down = Half(client, upstream), Half(upstream, client)
        self._interests: dict[int, int] = {}
        for each in (client, upstream):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch()

    def _watch(self) -> None:
        """Ask for exactly what either direction waits for; a side nobody waits for is not asked at all."""
        for reading, writing in ((self._up, self._down), (self._down, self._up)):
            is_reading = not reading.is_done and not reading.held
            events = (select.EPOLLIN if is_reading else 0) | (select.EPOLLOUT if writing.held else 0)
            fd = reading.source.fileno()
            if self._interests.get(fd, 0) == events:
                continue
            self._interests[fd] = events
            if events:
                self._poller.watch(fd, events, self._from_client if reading is self._up else self._from_upstream)
            else:
                self._poller.forget(fd)

    def _from_client(self, events: int) -> None:
        self._happened(events, self._up, self._down)

    def _from_upstream(self, events: int) -> None:
        self._happened(events, self._down, self._up)

    def _happened(self, events: int, reading: Half, writing: Half) -> None:
        try:
            if writing.held and events & ~select.EPOLLIN:
                writing.flush()
            if not reading.held and not reading.is_done and events & ~select.EPOLLOUT:
                self._counters.bytes += reading.read(self._poller.buffer)
        except OSError:
            self._end(is_reset=True)
            return
        if self._up.is_done and self._down.is_done:
            self._end(is_reset=False)
        else:
            self._watch()

    def _end(self, *, is_reset: bool) -> None:
        self._counters.connections -= 1
        for half in (self._up, self._down):
            self._poller.forget(half.source.fileno())
        for half in (self._up, self._down):
            end_with_reset(half.source) if is_reset else half.source.close()
