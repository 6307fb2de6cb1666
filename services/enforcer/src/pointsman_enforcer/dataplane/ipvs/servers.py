# SPDX-License-Identifier: Apache-2.0
"""Virtual and real servers of ours in the kernel, those that only wait for their last connection included.

A TCP real server that goes is given weight 0 first: it gets nobody new, and keeps whom it has; a virtual server that
goes waits until all of its real servers are gone. No set leads to it any more. UDP and SCTP end at once, as their flows
should find another endpoint.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

from pointsman_enforcer.dataplane.base import KernelError
from pointsman_enforcer.dataplane.ipvs.genetlink import message
from pointsman_enforcer.dataplane.ipvs.genetlink.channel import IpvsChannel, IpvsError
from pointsman_enforcer.dataplane.ipvs.genetlink.message import Message
from pointsman_enforcer.dataplane.ipvs.genetlink.model import (
    RealServerId,
    Timeouts,
    VirtualServerId,
)
from pointsman_enforcer.dataplane.ipvs.layout import TAKEN, Id, Kind, Records, real_of, real_record, server_of
from pointsman_enforcer.dataplane.ipvs.layout import server_record as as_record
from pointsman_model.names import Protocol

_GONE = frozenset({errno.ESRCH, errno.ENOENT})


class Servers:
    """What IPVS has that is ours. Blocking; for one caller at a time."""

    def __init__(self, channel: IpvsChannel) -> None:
        self._channel = channel
        self._have: dict[VirtualServerId, dict[RealServerId, int]] = {}
        """Weights."""
        self._protocols: dict[VirtualServerId, Protocol] = {}
        self._leaving: set[tuple[VirtualServerId, RealServerId]] = set()
        self._closing: set[VirtualServerId] = set()

    @property
    def is_draining(self) -> bool:
        """Whether something waits for its last connection."""
        return bool(self._leaving or self._closing)

    def read(self, owned: Iterable[VirtualServerId]) -> Records:
        """What is there and ours: what has a mark of ours, and of all others those named. Forgets what was known."""
        known = set(owned)
        self._have, self._leaving, self._closing = {}, set(), set()
        found: Records = {}
        for server in self._channel.services():
            if not (server.id.mark & TAKEN or server.id in known):
                continue
            reals = self._channel.dests(server.id)
            self._have[server.id] = {real.id: real.weight for real in reals}
            protocol = self._protocols.setdefault(server.id, server.id.protocol or Protocol.TCP)
            record, value = as_record(server, protocol)
            found[record] = value
            for real in reals:
                if real.weight:
                    record, value = real_record(server.id, real)
                    found[record] = value
                else:
                    self._leaving.add((server.id, real.id))
        return found

    def put(self, wanted: Sequence[tuple[Id, bytes]]) -> None:
        """Add or change virtual servers, then real servers. KernelError when one is refused."""
        messages: list[Message] = []
        have = {server: dict(reals) for server, reals in self._have.items()}
        protocols = dict(self._protocols)
        came: set[tuple[VirtualServerId, RealServerId]] = set()
        for record, value in wanted:
            if record.kind is Kind.SERVER:
                server, protocols[server.id] = server_of(record, value)
                is_there = server.id in have
                messages.append(message.set_service(server) if is_there else message.new_service(server))
                have.setdefault(server.id, {})
            else:
                place, real = real_of(record, value)
                is_there = real.id in have.setdefault(place, {})
                messages.append(message.set_dest(place, real) if is_there else message.new_dest(place, real))
                have[place][real.id] = real.weight
                came.add((place, real.id))
        self._send(messages)
        self._have, self._protocols = have, protocols
        self._leaving -= came
        self._closing -= {server_of(each, value)[0].id for each, value in wanted if each.kind is Kind.SERVER}

    def remove(self, unwanted: Sequence[tuple[Id, bytes]]) -> None:
        """Take away real servers, then virtual servers, or have them wait."""
        messages: list[Message] = []
        for record, value in unwanted:
            if record.kind is Kind.REAL:
                place, real = real_of(record, value)
                if self._protocols.get(place) is Protocol.TCP:
                    messages.append(message.set_dest(place, real._replace(weight=0)))
                    self._leaving.add((place, real.id))
                    self._have.setdefault(place, {})[real.id] = 0
                else:
                    messages.append(message.delete_dest(place, real.id))
                    self._have.get(place, {}).pop(real.id, None)
            else:
                self._closing.add(server_of(record, value)[0].id)
        self._send(messages, tolerated=_GONE)
        self.drain()

    def differing(self, wanted: Records) -> list[tuple[Id, bytes]]:
        """Read virtual servers, and the real servers of those that changed; which of `wanted` are not there.

        Real servers are read only where a virtual server had to be made anew: they go and come with it.
        """
        there = {server.id: server for server in self._channel.services()}
        missing = []
        for record, value in wanted.items():
            if record.kind is Kind.SERVER:
                server, _ = server_of(record, value)
                if there.get(server.id) != server:
                    missing.append((record, value))
                if server.id not in there:
                    self._have.pop(server.id, None)
        missing += [
            (record, value)
            for record, value in wanted.items()
            if record.kind is Kind.REAL and real_of(record, value)[0] not in there
        ]
        return missing

    def drain(self) -> None:
        """Take away what has had its last connection."""
        messages: list[Message] = []
        waiting = {server for server, _ in self._leaving}
        for server in waiting:
            for real in self._channel.dests(server):
                if (server, real.id) in self._leaving and not real.connections:
                    messages.append(message.delete_dest(server, real.id))
                    self._leaving.discard((server, real.id))
                    self._have.get(server, {}).pop(real.id, None)
        for server in [each for each in self._closing if not self._have.get(each)]:
            messages.append(message.delete_service(server))
            self._closing.discard(server)
            self._have.pop(server, None)
        self._send(messages, tolerated=_GONE)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set those that are not 0; the kernel has them for all virtual servers, also of others."""
        if any(timeouts):
            self._send([message.set_timeouts(timeouts)])

    def flush(self) -> int:
        """Remove all that was read, connections or not; how many virtual servers there were."""
        count = len(self._have)
        self._send([message.delete_service(server) for server in self._have], tolerated=_GONE)
        self._have, self._leaving, self._closing = {}, set(), set()
        return count

    def _send(self, messages: Sequence[Message], tolerated: frozenset[int] = frozenset()) -> None:
        if not messages:
            return
        try:
            refused = [each for each in self._channel.send(messages) if each.errno not in tolerated]
        except IpvsError as error:
            raise KernelError(str(error), outcome_known=False) from error
        if refused:
            words = "; ".join(str(each) for each in refused[:3])
            raise KernelError(f"{len(refused)} of {len(messages)} refused: {words}", outcome_known=False)
