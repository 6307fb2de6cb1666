# SPDX-License-Identifier: Apache-2.0
"""One enforcer's stream as a state machine: messages and marks go in, transactions come out; no IO, no clock.

    hello -> waiting for the planner's own sync -> first transaction (buckets that differ) -> live
                                                        live: mark* -> transaction -> ack
    at any time: resync -> a transaction that replaces what differs
                 a heartbeat with another digest than was sent -> a transaction, empty if need be: its digest makes the
                 enforcer ask for a resync; if it does not, everything is replaced, once

A change only marks a service dirty. A transaction is built when the writer asks for one, from the state of that
moment, and takes everything that is dirty; so after it the node's plan *is* the planner's plan of that moment, and
the digest to expect is simply the node's digest in the index. At most two transactions are unacknowledged. A slow
node costs a set of keys, never a backlog.

Position. A node that a change does not touch gets no message. It has proved the new position all the same: what it
acknowledged is a digest, and the planner's digest for it at the new position is the same number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pointsman_model.cluster import ClusterPosition
from pointsman_model.digest import bucket_of
from pointsman_model.names import ServiceKey
from pointsman_planner.core import framing
from pointsman_planner.core.flights import Acknowledged, InFlight
from pointsman_planner.core.framing import TransactionFrame
from pointsman_planner.core.messages import (
    Ack,
    AckLevel,
    Conditions,
    Drift,
    Failure,
    Heartbeat,
    Hello,
    Message,
    Nack,
    ProtocolViolationError,
    Resync,
)
from pointsman_planner.core.origins import Origin, Origins
from pointsman_planner.core.ownership import Member
from pointsman_planner.core.plan_source import PlanSource
from pointsman_planner.core.reached import ReachedLevels

WINDOW = 2
"""Transactions in flight."""
DOUBTS_MAX = 3
"""After so many heartbeats with a wrong digest in a row, from an enforcer that asks for nothing, all is sent again."""
FAILURES_MAX = 1000
"""Refused services that are remembered for a node; more are counted only."""
_NO_PARENTS: Mapping[str, str] = MappingProxyType({})


class NodeSession:
    """Owns what the planner knows about one stream; see the module for the shape."""

    def __init__(self, hello: Hello, source: PlanSource, *, now_ns: int) -> None:
        self.node = hello.node_name
        self.hello = hello
        self.superseded = False
        """Set when a newer stream of the same node took over."""
        self._source = source
        self._is_live = False
        self._is_held = False
        self._first: Sequence[int] | None = hello.bucket_digests
        self._resync: Sequence[int] | None = None
        self._dirty: dict[ServiceKey, bool] = {}
        self._are_facts_dirty = False
        self._origins = Origins()
        self._in_flight: deque[InFlight] = deque()
        self._nonce = 0
        self._sent: tuple[ClusterPosition, int] | None = None
        self._acked: tuple[ClusterPosition, int, int] | None = None
        self._failures: dict[ServiceKey, tuple[Failure, int]] = {}
        self._doubts = 0
        """Heartbeats in a row whose digest was not what was sent."""
        self._is_probe_due = False
        self.drift: Drift | None = None
        """The newest repair that the enforcer told of."""
        self.conditions = Conditions()
        """Trouble that is no failure to program a service, as last told."""
        self.mismatches = 0
        """Times the enforcer's digest was not the expected one."""
        self.last_heard_ns = self.opened_ns = now_ns
        self.reached = ReachedLevels()
        """What the enforcer acknowledged, by level."""

    # -- what the planner does ---------------------------------------------------------------------------------------

    def go_live(self) -> None:
        """The planner is in sync and has attached the node: the first transaction may be built."""
        self._is_live = True

    def hold(self) -> None:
        """Build no transaction before `admit`; marks are taken in all the same."""
        self._is_held = True

    def admit(self) -> None:
        """The first transaction may be built."""
        self._is_held = False

    @property
    def differing_buckets(self) -> int:
        """How much of the node's plan the first transaction has to bring, in buckets; once the session is live."""
        return len(self._differing(self._first or None)[0]) if self._first is not None else 0

    def mark(self, key: ServiceKey, *, is_shrinking: bool, origin: Origin | None) -> None:
        """A service's plan for this node changed."""
        if self._first is not None:
            # The first transaction takes whatever is current when it is built; only the trace is worth keeping.
            self._origins.add(origin)
            return
        self._dirty[key] = self._dirty.get(key, False) or is_shrinking
        self._origins.add(origin)

    def add_origin(self, origin: Origin) -> None:
        """One more change stands behind what was marked."""
        self._origins.add(origin)

    def forget_triggers(self, key: ServiceKey) -> None:
        """A slice of the service is gone, and with it when its changes were called for."""
        self._origins.forget_triggers(key)

    def mark_facts(self) -> None:
        """The node's facts changed."""
        self._are_facts_dirty = True

    # -- what the enforcer says --------------------------------------------------------------------------------------

    def receive(self, message: Message, *, now_ns: int) -> Acknowledged | None:
        """Take in a message; says which transaction it proves to be in the node's kernel, if any.

        Raises:
            ProtocolViolationError: the message is not allowed now; the stream must be closed.
        """
        self.last_heard_ns = now_ns
        if isinstance(message, Ack):
            self._check_nonce(message.nonce, "ack")
            self.reached.acknowledged(message, now_ns=now_ns)
            return self._receive_ack(message)
        if isinstance(message, Nack):
            self._receive_nack(message)
        elif isinstance(message, Heartbeat):
            self._receive_heartbeat(message)
        elif isinstance(message, Resync):
            self._receive_resync(message)
        elif isinstance(message, Conditions):
            self.conditions = message
        elif isinstance(message, Hello):
            raise ProtocolViolationError("hello was sent twice; it is the first message only")
        return None

    def _check_nonce(self, nonce: int, what: str) -> None:
        if nonce > self._nonce:
            raise ProtocolViolationError(f"{what} names transaction {nonce}, the last one sent is {self._nonce}")

    def _receive_ack(self, ack: Ack) -> Acknowledged | None:
        if ack.level is AckLevel.RECEIVED:
            return None
        done: InFlight | None = None
        traceparents: list[str] = []
        expected = {flight.digest for flight in self._in_flight if flight.nonce >= ack.nonce}
        while self._in_flight and self._in_flight[0].nonce <= ack.nonce:
            done = self._in_flight.popleft()
            traceparents.extend(done.traceparents)
            self._clear_failures(done)
        position = done.position if done is not None else self.acked_position
        failure = self._failure_of(done.nonce) if done is not None else None
        self._acked = (position, ack.digest, ack.programmed_digest)
        self.drift = ack.drift or self.drift
        for key in ack.recovered:
            self._failures.pop(key, None)
        if ack.digest == ack.programmed_digest:
            self._failures.clear()
        if done is None:
            return None
        # An ack says what is held at the time of sending, which may be a later transaction than the one it names.
        self._count_mismatch(is_match=ack.digest in expected)
        return Acknowledged(tuple(traceparents), done.built_ns, position, failure)

    def _failure_of(self, nonce: int) -> Failure | None:
        return next((failure for failure, refused in self._failures.values() if refused == nonce), None)

    def _clear_failures(self, done: InFlight) -> None:
        """A later transaction brought the service again and did not name it in a nack."""
        if not self._failures:
            return
        brought = set(done.keys)
        for key, (_, nonce) in list(self._failures.items()):
            if nonce < done.nonce and (key in brought or bucket_of(key) in done.buckets):
                del self._failures[key]

    def _receive_nack(self, nack: Nack) -> None:
        self._check_nonce(nack.nonce, "nack")
        for failure in nack.failures:
            if failure.service in self._failures or len(self._failures) < FAILURES_MAX:
                self._failures[failure.service] = (failure, nack.nonce)

    def _receive_heartbeat(self, heartbeat: Heartbeat) -> None:
        if self._sent is None or self._first is not None or self._resync is not None or self._is_probe_due:
            return
        if heartbeat.digest == self._sent[1]:
            self._doubts = 0
            return
        self._doubts += 1
        if self._in_flight:
            # It crossed what is on its way, or that was lost. One more transaction costs little, and settles it.
            self._is_probe_due = True
            if len(self._in_flight) >= WINDOW:
                self._origins.keep_traces(self._in_flight.popleft().traceparents)
            return
        self._count_mismatch(is_match=False)
        if self._doubts == 1:
            self._is_probe_due = True
        elif self._doubts == DOUBTS_MAX:
            self._first = ()

    def _receive_resync(self, resync: Resync) -> None:
        if self._first is None:
            self._resync = resync.bucket_digests
            # What is in flight arrives before the answer and brings its own services to what was current then; what
            # changed since is dirty and goes with the answer. So the digests sent are enough to build it from.
            for flight in self._in_flight:
                self._origins.keep_traces(flight.traceparents)
            self._in_flight.clear()

    def _count_mismatch(self, *, is_match: bool) -> None:
        if not is_match:
            self.mismatches += 1

    # -- what goes out -----------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether `next_transaction` would give one."""
        if not self._is_live or self._is_held or len(self._in_flight) >= WINDOW:
            return False
        return self._has_unsent

    @property
    def traces(self) -> tuple[str, ...]:
        """Traceparents of the changes that the next transaction brings, newest last."""
        return self._origins.traces()

    def next_transaction(self, *, now_ns: int, parents: Mapping[str, str] = _NO_PARENTS) -> TransactionFrame | None:
        """The next transaction, built from the present state; None when nothing is to be said or the window is full.

        `parents` are traceparents to send in the place of others: what the node does is then under this node's span.
        """
        if not self.has_work:
            return None
        is_first = self._first is not None and self._sent is None
        if self._first is not None:
            theirs = self._first or None
            differing, is_all = self._differing(theirs)
        elif self._resync is not None:
            differing, is_all = self._differing(self._resync)
            differing |= {bucket_of(key) for key in self._dirty}
        else:
            differing, is_all = frozenset(), False
        keys = self._source.services_in(sorted(differing)) if differing else self._source.in_order(self._dirty)
        frame = self._frame(keys, differing, parents, is_all=is_all, is_first=is_first)
        traces = self._origins.traces()
        self._in_flight.append(
            InFlight(
                self._nonce,
                self._source.position,
                frame.digest,
                () if differing else tuple(keys),
                differing,
                tuple(parents.get(trace, trace) for trace in traces) if parents else traces,
                now_ns,
            )
        )
        self._sent = (self._source.position, frame.digest)
        self.reached.sent(self._nonce, self._source.position)
        self._forget_pending()
        return frame

    def _differing(self, theirs: Sequence[int] | None) -> tuple[frozenset[int], bool]:
        mine = self._source.buckets(self.node)
        if theirs is None:
            return frozenset(range(len(mine.sums))), True
        return frozenset(mine.differing(theirs)), False

    def _frame(
        self,
        keys: Sequence[ServiceKey],
        replaced: frozenset[int],
        parents: Mapping[str, str],
        *,
        is_all: bool,
        is_first: bool,
    ) -> TransactionFrame:
        self._nonce += 1
        removals: list[bytes] = []
        updates: list[bytes] = []
        for key in keys:
            update = self._source.update(key, self.node)
            if update is None:
                removals.append(framing.removal_field(key))
            else:
                updates.append(update)
        with_facts = is_first or self._are_facts_dirty
        return TransactionFrame(
            nonce=self._nonce,
            position=framing.position_field(self._source.position),
            items=removals + updates if removals else updates,
            digest=self._source.digest(self.node),
            in_sync=True,
            replaces_all=is_all,
            replaced_buckets=() if is_all else sorted(replaced),
            node=framing.node_field(self._source.facts(self.node)) if with_facts else b"",
            origins=self._origins.fields(parents),
        )

    def _forget_pending(self) -> None:
        self._first = self._resync = None
        self._dirty = {}
        self._are_facts_dirty = self._is_probe_due = False
        self._origins.clear()

    def heartbeat(self, *, now_ns: int, candidates: Sequence[Member] = ()) -> bytes:
        """A heartbeat; it carries the planner's position when everything up to it was sent, and candidates if new."""
        is_current = self._sent is not None and not self.has_pending
        return framing.heartbeat(now_ns, self._source.position if is_current else None, candidates)

    # -- what others may ask -----------------------------------------------------------------------------------------

    @property
    def has_pending(self) -> bool:
        """Whether something waits to be sent, or to be acknowledged."""
        return self._has_unsent or bool(self._in_flight)

    @property
    def _has_unsent(self) -> bool:
        is_asked = self._first is not None or self._resync is not None or self._is_probe_due
        return is_asked or bool(self._dirty) or self._are_facts_dirty

    @property
    def is_converged(self) -> bool:
        """Whether the node's kernel provably has the planner's present plan."""
        return (
            self._is_live
            and self._acked is not None
            and not self.has_pending
            and self._acked[2] == self._source.digest(self.node)
        )

    @property
    def acked_position(self) -> ClusterPosition:
        """Position of the last transaction that the node's kernel has."""
        return self._acked[0] if self._acked is not None else ClusterPosition()

    @property
    def sent_position(self) -> ClusterPosition:
        """Position of the last transaction sent."""
        return self._sent[0] if self._sent is not None else ClusterPosition()

    @property
    def programmed_digest(self) -> int:
        """Digest of what the node's kernel has, as last heard."""
        return self._acked[2] if self._acked is not None else 0

    @property
    def pending_services(self) -> int:
        """Services waiting to be sent."""
        return len(self._dirty)

    def unsent(self) -> set[ServiceKey]:
        """Services that the next transaction brings; of what it brings by buckets, all that lie in them."""
        asked = self._first if self._first is not None else self._resync
        buckets = self._differing(asked or None)[0] if asked is not None else frozenset()
        return {*self._dirty, *self._source.services_in(sorted(buckets))}

    @property
    def in_flight(self) -> int:
        """Transactions not acknowledged."""
        return len(self._in_flight)

    @property
    def flights(self) -> tuple[InFlight, ...]:
        """Transactions not acknowledged, the oldest first."""
        return tuple(self._in_flight)

    @property
    def is_live(self) -> bool:
        """Whether the first transaction may be, or was, built."""
        return self._is_live

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Services that the node refused, with its reasons."""
        return tuple(failure for failure, _ in self._failures.values())
