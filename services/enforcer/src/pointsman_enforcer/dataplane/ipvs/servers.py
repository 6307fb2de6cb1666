# SPDX-License-Identifier: Apache-2.0
"""Virtual and real servers of ours in the kernel, those that only wait for their last connection included.

A TCP real server that goes is given weight 0 first: it gets nobody new, and keeps whom it has; a virtual server that
goes waits until all of its real servers are gone. No set leads to it any more. UDP and SCTP end at once, as their flows
should find another endpoint.

IPVS has no transactions. A send that is refused in part is followed up: what it touched is read, brought to where it
was to be, and if that is refused too, back to where it was.
"""

from __future__ import annotations

import errno
import ipaddress
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from pointsman_enforcer.dataplane.base import KernelError
from pointsman_enforcer.dataplane.ipvs.genetlink import message
from pointsman_enforcer.dataplane.ipvs.genetlink.channel import IpvsChannel, IpvsError, Refusal
from pointsman_enforcer.dataplane.ipvs.genetlink.message import Message
from pointsman_enforcer.dataplane.ipvs.genetlink.model import (
    RealServer,
    RealServerId,
    Timeouts,
    VirtualServer,
    VirtualServerId,
)
from pointsman_enforcer.dataplane.ipvs.layout import (
    PROBE_MARK,
    TAKEN,
    Id,
    Kind,
    Records,
    real_of,
    real_record,
    server_of,
)
from pointsman_enforcer.dataplane.ipvs.layout import server_record as as_record
from pointsman_enforcer.dataplane.ipvs.state import ServerState, correction, pack_state, unpack_state
from pointsman_model.names import Family, Prefix, Protocol

LOOK_MAX: Final = 32
"""Virtual servers that are read in one look: each costs two system calls."""
DRAIN_SECONDS_MAX: Final = 24 * 3600.0
"""A real server that goes keeps its connections for so long at most."""
_GONE: Final = frozenset({errno.ESRCH, errno.ENOENT})


class Servers:
    """What IPVS has that is ours. Blocking; for one caller at a time."""

    def __init__(
        self,
        channel: IpvsChannel,
        *,
        excluded: Sequence[Prefix] = (),
        removing: Callable[[], AbstractContextManager[None]] = nullcontext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A virtual server of somebody else in an `excluded` block is never adopted.

        Deletions happen within `removing`, which sees to it that flows to what is gone are forgotten.
        """
        self._channel = channel
        self._excluded = [ipaddress.ip_network((prefix.address, prefix.length)) for prefix in excluded]
        self._removing = removing
        self._clock = clock
        self._have: dict[VirtualServerId, bytes] = {}
        self._leaving: dict[tuple[VirtualServerId, RealServerId], float] = {}
        """Since when."""
        self._closing: set[VirtualServerId] = set()
        self._round: list[VirtualServerId] = []

    @property
    def is_draining(self) -> bool:
        """Whether something waits for its last connection."""
        return bool(self._leaving or self._closing)

    def __len__(self) -> int:
        return len(self._have)

    def has_scheduler(self, name: str) -> bool:
        """Whether the kernel has this scheduler, or can load it."""
        probe = VirtualServer(id=VirtualServerId(Family.IPV4, PROBE_MARK), scheduler=name)
        self._send([message.delete_service(probe.id)])
        return not self._send([message.new_service(probe), message.delete_service(probe.id)])

    def read(self, owned: Iterable[VirtualServerId]) -> Records:
        """What is there and ours: what has a mark of ours, and of all others those named. Forgets what was known."""
        known = set(owned)
        before = self._have
        self._have, self._leaving, self._closing = {}, {}, set()
        found: Records = {}
        for server in self._channel.services():
            if not (server.id.mark & TAKEN or server.id in known):
                continue
            protocol = server.id.protocol or Protocol.TCP
            if server.id in before:
                protocol = unpack_state(server.id, before[server.id]).protocol
            weights = {real.id: real.weight for real in self._channel.dests(server.id)}
            self._have[server.id] = pack_state(ServerState(server, protocol, weights))
            record, value = as_record(server, protocol)
            found[record] = value
            for real, weight in weights.items():
                if weight:
                    record, value = real_record(server.id, RealServer(real, weight))
                    found[record] = value
                else:
                    self._leaving[server.id, real] = self._clock()
        return found

    def put(self, wanted: Sequence[tuple[Id, bytes]]) -> None:
        """Add or change virtual servers, then real servers.

        Raises:
            KernelError: one is refused; then all of them are as they were, unless `outcome_known` is false.
        """
        for record, value in wanted:
            if record.kind is Kind.SERVER:
                self._adopt(server_of(record, value)[0].id)
        messages, drafts = self._drafted(wanted)
        refused = self._send(messages)
        if refused and not self._follow_up(drafts):
            words = "; ".join(str(each) for each in refused[:3])
            self._bring(dict.fromkeys(drafts), words)
            raise KernelError(f"{len(refused)} of {len(messages)} refused: {words}")
        for place, draft in drafts.items():
            self._have[place] = pack_state(draft)
        for record, value in wanted:
            if record.kind is Kind.SERVER:
                self._closing.discard(server_of(record, value)[0].id)
            else:
                place, real = real_of(record, value)
                self._leaving.pop((place, real.id), None)

    def remove(self, unwanted: Sequence[tuple[Id, bytes]]) -> None:
        """Take away real servers, then virtual servers, or have them wait."""
        messages: list[Message] = []
        states: dict[VirtualServerId, ServerState] = {}
        for record, value in unwanted:
            if record.kind is Kind.SERVER:
                self._closing.add(server_of(record, value)[0].id)
                continue
            place, real = real_of(record, value)
            if place not in self._have:
                continue
            state = states.setdefault(place, unpack_state(place, self._have[place]))
            if state.protocol is Protocol.TCP:
                messages.append(message.set_dest(place, real._replace(weight=0)))
                self._leaving[place, real.id] = self._clock()
                state.weights[real.id] = 0
            else:
                messages.append(message.delete_dest(place, real.id))
                state.weights.pop(real.id, None)
        with self._removing():
            self._send_all(messages)
        self._have.update({place: pack_state(state) for place, state in states.items()})
        self.drain(most=len(states) + len(unwanted))

    def drain(self, most: int = LOOK_MAX) -> None:
        """Take away what has had its last connection, or has waited too long; looks at so many virtual servers."""
        latest = self._clock() - DRAIN_SECONDS_MAX
        waiting = list(dict.fromkeys(server for server, _ in self._leaving))[:most]
        with self._removing():
            for place in waiting:
                self._drain(place, latest)
            empty = [place for place in self._closing if not self._reals_of(place)]
            self._send_all([message.delete_service(place) for place in empty])
        for place in empty:
            self._closing.discard(place)
            self._have.pop(place, None)

    def retire(self) -> int:
        """Everything goes as soon as it has no connections; how many virtual servers are left."""
        for place, data in self._have.items():
            for real in unpack_state(place, data).weights:
                self._leaving.setdefault((place, real), self._clock())
        self._closing.update(self._have)
        self.drain(most=len(self._have))
        return len(self._have)

    def look(self, most: int = LOOK_MAX) -> list[VirtualServerId]:
        """Read the next ones by their keys, round and round; which are not as written."""
        if not self._round:
            self._round = list(self._have)
        now, self._round = self._round[:most], self._round[most:]
        return [place for place in now if place in self._have and self._read(place) != self._known(place)]

    def missing(self) -> list[VirtualServerId]:
        """List all virtual servers; which of ours are gone or have other traits. Real servers are not looked at."""
        there = {server.id: server for server in self._channel.services()}
        return [place for place, data in self._have.items() if there.get(place) != unpack_state(place, data).server]

    def mend(self, places: Iterable[VirtualServerId]) -> int:
        """Read these, and write what differs; how many messages it took."""
        messages: list[Message] = []
        for place in places:
            if place in self._have:
                messages += correction(self._read(place), unpack_state(place, self._have[place]))
        refused = self._send(messages)
        if refused:
            raise KernelError(f"{len(refused)} of {len(messages)} refused: {refused[0]}", outcome_known=False)
        return len(messages)

    def has_timeouts(self, wanted: Timeouts) -> bool:
        """Whether those that are not 0 are set."""
        there = self._channel.timeouts() if any(wanted) else wanted
        return all(old == new for new, old in zip(wanted, there, strict=True) if new)

    def set_timeouts(self, timeouts: Timeouts) -> Timeouts:
        """Set those that are not 0, for all virtual servers, also of others; what there was before."""
        before = self._channel.timeouts()
        wanted = Timeouts(*(new or old for new, old in zip(timeouts, before, strict=True)))
        if wanted != before:
            self._send_all([message.set_timeouts(timeouts)])
        return before

    def flush(self) -> int:
        """Remove all that was read, connections or not; how many virtual servers there were."""
        count = len(self._have)
        with self._removing():
            self._send_all([message.delete_service(place) for place in self._have])
        self._have, self._leaving, self._closing = {}, {}, set()
        return count

    def _drafted(self, wanted: Sequence[tuple[Id, bytes]]) -> tuple[list[Message], dict[VirtualServerId, ServerState]]:
        """The messages, and what the virtual servers that they touch are after them."""
        messages: list[Message] = []
        drafts: dict[VirtualServerId, ServerState] = {}
        for record, value in wanted:
            if record.kind is Kind.SERVER:
                server, protocol = server_of(record, value)
                draft = drafts.get(server.id) or self._known(server.id)
                messages.append(message.new_service(server) if draft is None else message.set_service(server))
                drafts[server.id] = ServerState(server, protocol, {} if draft is None else draft.weights)
                continue
            place, real = real_of(record, value)
            draft = drafts.get(place) or self._known(place)
            if draft is None:
                raise KernelError(f"a real server of {place}, which is not there", outcome_known=False)
            is_there = real.id in draft.weights
            messages.append(message.set_dest(place, real) if is_there else message.new_dest(place, real))
            draft.weights[real.id] = real.weight
            drafts[place] = draft
        return messages, drafts

    def _adopt(self, place: VirtualServerId) -> None:
        """What stands at an address where a virtual server of ours is to stand becomes ours, unless that is excluded.

        Marks are ours alone, so that only places are asked for.
        """
        if place.mark or place in self._have:
            return
        found = self._read(place)
        if found is None:
            return
        if self._is_excluded(place):
            raise KernelError(
                f"at {place} is a virtual server of somebody else, and excludeCIDRs says to leave it alone"
            )
        quiet = found._replace(weights=dict.fromkeys(found.weights, 0))
        self._send_all(correction(found, quiet))
        self._have[place] = pack_state(quiet)
        self._leaving.update({(place, real): self._clock() for real in found.weights})

    def _follow_up(self, drafts: dict[VirtualServerId, ServerState]) -> bool:
        """Somebody else may have been there: whether everything is as it should be after all."""
        messages = [each for place, draft in drafts.items() for each in correction(self._read(place), draft)]
        return not self._send(messages)

    def _bring(self, places: dict[VirtualServerId, None], why: str) -> None:
        """These back to where they were."""
        messages = [each for place in places for each in correction(self._read(place), self._known(place))]
        if self._send(messages):
            raise KernelError(f"{why}; and what was there before was refused, too", outcome_known=False)

    def _is_excluded(self, place: VirtualServerId) -> bool:
        address = ipaddress.ip_address(place.address)
        return any(address in block for block in self._excluded)

    def _known(self, place: VirtualServerId) -> ServerState | None:
        data = self._have.get(place)
        return None if data is None else unpack_state(place, data)

    def _reals_of(self, place: VirtualServerId) -> dict[RealServerId, int]:
        known = self._known(place)
        return {} if known is None else known.weights

    def _read(self, place: VirtualServerId) -> ServerState | None:
        """What the kernel has."""
        server = self._channel.service(place)
        if server is None:
            return None
        known = self._known(place)
        protocol = place.protocol or (Protocol.TCP if known is None else known.protocol)
        return ServerState(server, protocol, {real.id: real.weight for real in self._channel.dests(place)})

    def _drain(self, place: VirtualServerId, latest: float) -> None:
        state = self._known(place)
        messages = []
        there = {real.id: real.connections for real in self._channel.dests(place)}
        for real in [real for server, real in self._leaving if server == place]:
            if there.get(real) and self._leaving[place, real] > latest:
                continue
            messages.append(message.delete_dest(place, real))
            del self._leaving[place, real]
            if state is not None:
                state.weights.pop(real, None)
        self._send_all(messages)
        if state is not None:
            self._have[place] = pack_state(state)

    def _send(self, messages: Sequence[Message]) -> list[Refusal]:
        try:
            return self._channel.send(messages) if messages else []
        except IpvsError as error:
            raise KernelError(str(error), outcome_known=False) from error

    def _send_all(self, messages: Sequence[Message]) -> None:
        """Removals and the like: what is gone already is well."""
        refused = [each for each in self._send(messages) if each.errno not in _GONE]
        if refused:
            words = "; ".join(str(each) for each in refused[:3])
            raise KernelError(f"{len(refused)} of {len(messages)} refused: {words}", outcome_known=False)
