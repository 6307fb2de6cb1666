# SPDX-License-Identifier: Apache-2.0
"""TCP listeners: accept, dial one endpoint after the other, and hand both sides to a `Relay`.

A target that changes, or a listener that closes, does not touch connections that exist.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from typing import Final

from pointsman_enforcer.dataplane.userspace.choice import Balancer
from pointsman_enforcer.dataplane.userspace.core import Core
from pointsman_enforcer.dataplane.userspace.poller import Timer
from pointsman_enforcer.dataplane.userspace.relay import Relay, Relays, end_with_reset, prepare
from pointsman_enforcer.dataplane.userspace.target import Address
from pointsman_model.names import format_address

BACKLOG: Final = 4096
_ACCEPTS_MAX: Final = 128
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_REST_SECONDS: Final = 0.1
_PENDING: Final = frozenset({errno.EINPROGRESS, errno.EALREADY})


class TcpListener:
    """Accepts connections for one target."""

    def __init__(self, opened: socket.socket, balancer: Balancer, core: Core, relays: Relays) -> None:
        """`opened` is bound; it listens from now on."""
        self.balancer, self.core, self.relays = balancer, core, relays
        self._socket = opened
        prepare(opened)
        opened.listen(BACKLOG)
        core.poller.watch(opened.fileno(), select.EPOLLIN, self._accept)

    def serve(self, balancer: Balancer) -> None:
        """From the next connection on, choose by this."""
        self.balancer = balancer

    def close(self) -> None:
        """Accept no more; connections go on."""
        self.core.poller.forget(self._socket.fileno())
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
            if self.core.counters.connections >= self.core.limits.connections_max:
                self.core.refused("a connection")
                end_with_reset(connection)
                continue
            self.core.counters.accepted += 1
            self.core.counters.connections += 1
            Dialing(self, connection, socket.inet_pton(self._socket.family, peer[0].partition("%")[0]))

    def _rest(self) -> None:
        """There are no descriptors: ask again soon, not at once."""
        self.core.refused("connections, for want of descriptors")
        fd = self._socket.fileno()
        self.core.poller.forget(fd)
        self.core.poller.after(_REST_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            self.core.poller.watch(self._socket.fileno(), select.EPOLLIN, self._accept)


class Dialing:
    """A connection that has no endpoint yet."""

    def __init__(self, listener: TcpListener, client: socket.socket, address: bytes) -> None:
        self._listener, self._core, self._poller = listener, listener.core, listener.core.poller
        self._client, self._address = client, address
        self._endpoints: Iterator[Address] = listener.balancer.attempts(address, self._poller.now())
        self._balancer = listener.balancer
        self._patience = iter(listener.core.limits.dial_seconds)
        self._timer: Timer | None = None
        self._attempt()

    def _attempt(self) -> None:
        for seconds in self._patience:
            self._endpoint = next(self._endpoints)
            try:
                self._upstream = socket.socket(self._client.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError:
                self._core.refused("a connection, for want of descriptors")
                break
            place = (format_address(self._endpoint[0]), self._endpoint[1])
            result = self._upstream.connect_ex(place)
            if result == 0 or result in _PENDING:
                self._timer = self._poller.after(seconds, self._expired)
                self._poller.watch(self._upstream.fileno(), select.EPOLLOUT, self._answered)
                return
            self._core.counters.dials_failed += 1
            self._upstream.close()
        self._core.counters.unreachable += 1
        self._core.counters.connections -= 1
        end_with_reset(self._client)

    def _answered(self, _events: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._next()
            return
        self._poller.forget(self._upstream.fileno())
        prepare(self._upstream)
        self._balancer.reached(self._address, self._endpoint, self._poller.now())
        Relay(self._core, self._listener.relays, self._client, self._upstream)

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
        self._core.counters.dials_failed += 1
        self._poller.forget(self._upstream.fileno())
        self._upstream.close()
        self._attempt()
