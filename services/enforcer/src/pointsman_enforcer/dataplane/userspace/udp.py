# SPDX-License-Identifier: Apache-2.0
"""UDP flows: each client has a socket of its own towards its endpoint, until it was silent for too long.

A flow to an endpoint that left ends with the change that says so, unless the plan says that it still serves; the next
datagram begins another one.
"""

from __future__ import annotations

import contextlib
import select
import socket
from functools import partial
from itertools import islice
from typing import Any, Final

from pointsman_enforcer.dataplane.userspace.choice import Balancer
from pointsman_enforcer.dataplane.userspace.core import Core
from pointsman_enforcer.dataplane.userspace.flow_table import Flow, FlowTable
from pointsman_enforcer.dataplane.userspace.poller import Timer
from pointsman_model.names import format_address

_DATAGRAMS_MAX: Final = 128
_DATAGRAM_BYTES: Final = 65_536
_RECEIVE_BUFFER_BYTES: Final = 4 << 20
_SWEEP_SECONDS_MIN: Final = 0.05
Client = tuple[Any, ...]
"""As `recvfrom` names it."""
ClientFlow = Flow[Client, socket.socket]


class UdpListener:
    """Receives datagrams for one target."""

    def __init__(self, opened: socket.socket, balancer: Balancer, core: Core) -> None:
        """`opened` is bound. Datagrams that it has received already are for this target, too."""
        self.balancer = balancer
        self._socket, self._core = opened, core
        self._poller, self._limits, self._counters = core.poller, core.limits, core.counters
        self._flows: FlowTable[Client, socket.socket] = FlowTable(core.limits.udp_idle_seconds)
        self._sweeping: Timer | None = None
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        core.poller.watch(opened.fileno(), select.EPOLLIN, self._receive)

    def serve(self, balancer: Balancer) -> None:
        """From now on choose by this; flows to endpoints that it does not keep end."""
        self.balancer = balancer
        for flow in self._flows.take_unless(balancer.keeps):
            self._close(flow)

    def close(self) -> None:
        """End, with all flows."""
        for flow in self._flows.take_unless(lambda _endpoint: False):
            self._close(flow)
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._poller.forget(self._socket.fileno())
        self._socket.close()

    def _receive(self, _events: int) -> None:
        for _ in range(_DATAGRAMS_MAX):
            try:
                data, client = self._socket.recvfrom(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue
            flow = self._flows.get(client) or self._begin(client)
            if flow is None:
                self._counters.datagrams_dropped += 1
                continue
            self._flows.touch(flow, self._poller.now())
            self._pass_on(flow, data)

    def _pass_on(self, flow: ClientFlow, data: bytes) -> None:
        try:
            self._counters.bytes_to_endpoints += flow.channel.send(data)
        except BlockingIOError:
            self._counters.datagrams_dropped += 1
        except OSError:
            self._counters.datagrams_dropped += 1
            self._end(flow)

    def _begin(self, client: Client) -> ClientFlow | None:
        if self._counters.flows >= self._limits.flows_max:
            self._core.refused("a flow")
            return None
        now = self._poller.now()
        address = socket.inet_pton(self._socket.family, client[0].partition("%")[0])
        for endpoint in islice(self.balancer.attempts(address, now), len(self._limits.dial_seconds)):
            try:
                channel = socket.socket(self._socket.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            except OSError:
                self._core.refused("a flow, for want of descriptors")
                return None
            try:
                channel.connect((format_address(endpoint[0]), endpoint[1]))
            except OSError:
                self._counters.dials_failed += 1
                channel.close()
                continue
            return self._enter(Flow(client, endpoint, channel, now), address)
        return None

    def _enter(self, flow: ClientFlow, address: bytes) -> ClientFlow:
        self.balancer.reached(address, flow.endpoint, flow.seen_at)
        self._flows.add(flow)
        self._counters.flows += 1
        self._counters.flows_begun += 1
        self._poller.watch(flow.channel.fileno(), select.EPOLLIN, partial(self._answer, flow))
        if self._sweeping is None:
            self._sweep_later()
        return flow

    def _answer(self, flow: ClientFlow, _events: int) -> None:
        for _ in range(_DATAGRAMS_MAX):
            try:
                data = flow.channel.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:
                self._counters.dials_failed += 1
                self._end(flow)
                return
            self._flows.touch(flow, self._poller.now())
            with contextlib.suppress(OSError):
                self._counters.bytes_to_clients += self._socket.sendto(data, flow.client)

    def _sweep_later(self) -> None:
        self._sweeping = self._poller.after(max(self._limits.udp_idle_seconds / 2, _SWEEP_SECONDS_MIN), self._sweep)

    def _sweep(self) -> None:
        for flow in self._flows.take_idle(self._poller.now()):
            self._close(flow)
        self._sweeping = None
        if len(self._flows):
            self._sweep_later()

    def _end(self, flow: ClientFlow) -> None:
        self._flows.remove(flow)
        self._close(flow)

    def _close(self, flow: ClientFlow) -> None:
        if flow.channel.fileno() >= 0:
            self._counters.flows -= 1
            self._poller.forget(flow.channel.fileno())
            flow.channel.close()
