# SPDX-License-Identifier: Apache-2.0
"""StreamNodePlan from the enforcer's side, without IO: messages and the time go in, actions come out.

    open()      -> Send(hello)
    receive(..) -> Commit(transaction, changes)  program this, then call `programmed`
                   Send(resync)                  our digest is not what the planner says it must be
                   Redirected(redirect)          go to another planner
                   Remember(clients)             other nodes remember these; have the kernel do so, too
                   GiveUp(error)                 close the stream and dial again
                   raises PlanProtocolError      the same; nothing of the message counts
    programmed(..) -> Send(nack) for what could not be programmed, then Send(ack)
    received(..), verified(..) -> Send(ack) of these levels
    tell_conditions() -> Send(conditions)        to a planner that knows them
    tell_affinity(..) -> Send(affinity)          to a planner that wants it, once the plan is in sync
    tick(now)   -> Send(heartbeat), or raises PlanProtocolError when the planner has gone silent

States: OPENING --welcome--> WELCOMED --first commit with in_sync and the right digest--> in sync.

A transaction whose digest turns out different is still applied to the plan held: what it names is certain, only
whether something else is missing is not. It does not bring the stream in sync, so nothing is cleaned up, and the
planner is asked for the buckets that differ, at most RESYNCS_MAX times in a row.

While a node moves from one planner to another, two sessions share one plan. Once the new one has brought its first
transaction, the old one is told to `retire`: it is applied still, but what the plan should be is the new one's to say.
When the old stream is closed the new one `confirm`s that the plan is what its planner takes it for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_enforcer.core.candidates import Candidate, Redirect, candidates_from_pb, redirect_from_pb
from pointsman_enforcer.core.conditions import ServiceConditions
from pointsman_enforcer.core.drift import DriftReport
from pointsman_enforcer.core.errors import PlannerSilentError, PlanProtocolError
from pointsman_enforcer.core.messages import (
    TransactionBuilder,
    conditions_to_pb,
    drift_to_pb,
    name_to_pb,
    position_to_pb,
    timestamp,
)
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.told_failures import Failure, ToldFailures
from pointsman_enforcer.core.transaction import NO_POSITION, PlanChange, Position, Transaction
from pointsman_model.names import ServiceKey
from pointsman_model.remembered import RememberedClient
from pointsman_model.wire.remembered import memories_to_pb, memory_from_pb

HEARTBEAT_SECONDS_DEFAULT: Final = 10.0
HEARTBEAT_SECONDS_MIN: Final = 0.05
HEARTBEAT_SECONDS_MAX: Final = 300.0
SILENT_INTERVALS_MAX: Final = 3
WELCOME_SECONDS: Final = 6.0
"""Longest time from our hello to the welcome: a planner answers at once, whatever it is waiting for itself."""
RESYNCS_MAX: Final = 3
FAILURES_PER_NACK: Final = 500
FAILURE_CHARACTERS_MAX: Final = 1000
CONDITIONS: Final = "conditions"
AFFINITY: Final = "affinity"
"""Capabilities of a planner that takes the messages of these names."""


@dataclass(frozen=True, slots=True)
class Send:
    """Write this message to the stream."""

    message: pb.StreamNodePlanRequest


@dataclass(frozen=True, slots=True)
class Commit:
    """The plan held has changed: program `changes`, then report with `PlanSession.programmed`.

    `in_sync`: from here on the plan held is the whole plan, and what no plan asks for may be removed.
    """

    transaction: Transaction
    changes: tuple[PlanChange, ...]
    in_sync: bool


@dataclass(frozen=True, slots=True)
class Redirected:
    """The planner sends us to others."""

    redirect: Redirect


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Close the stream, once everything before this was done: what a transaction has changed stays changed."""

    error: PlanProtocolError


@dataclass(frozen=True, slots=True)
class Remember:
    """Clients of services with session affinity, and their endpoints as other nodes know them."""

    clients: list[RememberedClient]


Action: TypeAlias = Send | Commit | Redirected | GiveUp | Remember


@dataclass(frozen=True, slots=True, kw_only=True)
class Programmed:
    """What the kernel has committed.

    `nonce` 0 reports what the enforcer did by itself, such as a retry that worked. `failures` are all that
    there are now; a session tells its planner what is new to it.
    """

    nonce: int
    position: Position
    digest: int
    programmed_digest: int
    applied_at_ns: int = 0
    duration_ns: int = 0
    kernel_messages: int = 0
    kernel_bytes: int = 0
    services: int = 0
    failures: Sequence[Failure] = ()
    drift: DriftReport | None = None
    """The newest repair since the process started, so that a planner that missed it hears of it with the next ack."""


class PlanSession:
    """One stream's rules. Holds no socket and no clock; `now` is monotonic seconds."""

    def __init__(
        self, *, hello: pb.Hello, store: PlanStore, now: float, conditions: ServiceConditions | None = None
    ) -> None:
        """`hello` says who we are; what we hold (position, bucket digests) is filled in from `store`."""
        self._hello = hello
        self._store = store
        self._conditions = ServiceConditions() if conditions is None else conditions
        self._tells_conditions = self._tells_affinity = False
        self._heard_at = self._sent_at = now
        self._interval = HEARTBEAT_SECONDS_DEFAULT
        self._is_open = self._is_welcomed = False
        self._builder: TransactionBuilder | None = None
        self._nonce = 0
        self._resyncs = 0
        self._position = NO_POSITION
        self._programmed_digest = 0
        self._expected = 0
        """Digest that the planner takes the plan held to have."""
        self._is_retiring = False
        self._told = ToldFailures()
        self._in_sync_nonce = 0
        self.is_in_sync = False
        self.planner_id = ""
        self.candidates: tuple[Candidate, ...] = ()
        """Planners of this node, best first, as the welcome says, or a heartbeat since."""
        self.acknowledged_nonce = 0

    def open(self, now: float) -> list[Action]:
        """Begin: the first message is our hello."""
        if self._is_open:
            raise ValueError("a session opens once")
        self._is_open = True
        hello = pb.Hello()
        hello.CopyFrom(self._hello)
        hello.position.CopyFrom(position_to_pb(self._store.position))
        hello.bucket_digests[:] = self._store.bucket_digests
        return [self._send(pb.StreamNodePlanRequest(hello=hello), now)]

    def receive(self, message: pb.StreamNodePlanResponse, now: float) -> list[Action]:
        """Take one message of the planner; one of a kind that a newer planner knows is passed over.

        Raises:
            PlanProtocolError: it breaks a rule; the session is of no further use.
        """
        self._heard_at = now
        present = message.ListFields()
        if len(present) > 1:
            raise PlanProtocolError(f"a message carries exactly one field, got {len(present)}")
        if not self._is_welcomed:
            return self._receive_welcome(message, now)
        if message.HasField("welcome"):
            raise PlanProtocolError("a second welcome")
        if message.HasField("transaction"):
            return self._receive_part(message.transaction, now)
        if message.HasField("redirect"):
            return [Redirected(redirect_from_pb(message.redirect))]
        if message.heartbeat.candidates:
            self.candidates = candidates_from_pb(message.heartbeat.candidates) or self.candidates
        if message.HasField("affinity"):
            return [Remember(memory_from_pb(message.affinity))]
        return []

    @property
    def wants_affinity(self) -> bool:
        """Whether the planner is to be told of exceptions of session affinity."""
        return self._tells_affinity and self.is_in_sync

    @property
    def is_served(self) -> bool:
        """Whether this planner's whole plan has been in the kernel."""
        return self.is_in_sync and self.acknowledged_nonce >= self._in_sync_nonce

    def retire(self) -> None:
        """Another stream has brought the whole plan: what this one brings is applied, and nothing is asked of it."""
        self._is_retiring = True

    def confirm(self, now: float) -> list[Action]:
        """Other streams are gone: if one of them has changed the plan behind this planner's back, ask for what differs.

        Raises:
            PlanProtocolError: it was asked too often in a row.
        """
        self._is_retiring = False
        if not self.is_in_sync or self._store.digest == self._expected:
            return []
        return [self._resync(self._expected, now)]

    def programmed(self, result: Programmed, now: float) -> list[Action]:
        """Report the kernel's state: failures first, then the ack that covers everything up to the nonce."""
        if result.nonce > self._nonce or (result.nonce and result.nonce < self.acknowledged_nonce):
            raise ValueError(f"nonce {result.nonce} is not within {self.acknowledged_nonce}..{self._nonce}")
        self._position, self._programmed_digest = result.position, result.programmed_digest
        self.acknowledged_nonce = max(result.nonce, self.acknowledged_nonce)
        news = self._told.news(result.nonce, result.failures)
        messages = [*_nacks(result.nonce, news.failures), *_acks(result, news.recovered)]
        return [self._send(message, now) for message in messages]

    def received(self, nonce: int, now: float) -> list[Action]:
        """A transaction is on disk. Nothing is said of one that is in the kernel already, of which that says more."""
        if not self.acknowledged_nonce < nonce <= self._nonce:
            return []
        ack = pb.Ack(
            nonce=nonce,
            level=pb.ACK_LEVEL_RECEIVED,
            position=position_to_pb(self._store.position),
            digest=self._store.digest,
            programmed_digest=self._programmed_digest,
        )
        return [self._send(pb.StreamNodePlanRequest(ack=ack), now)]

    def verified(self, digest: int, programmed_digest: int, now: float) -> list[Action]:
        """All that was acknowledged so far was read back from the kernel and found equal."""
        if not self.is_served:
            return []
        ack = pb.Ack(
            nonce=self.acknowledged_nonce,
            level=pb.ACK_LEVEL_VERIFIED,
            position=position_to_pb(self._position),
            digest=digest,
            programmed_digest=programmed_digest,
        )
        return [self._send(pb.StreamNodePlanRequest(ack=ack), now)]

    def tell_conditions(self, now: float) -> list[Action]:
        """The conditions have changed: tell a planner that wants to know."""
        if not self._tells_conditions:
            return []
        return [self._send(pb.StreamNodePlanRequest(conditions=conditions_to_pb(self._conditions)), now)]

    def tell_affinity(self, clients: Sequence[RememberedClient], now: float) -> list[Action]:
        """Tell a planner that wants to know of exceptions of session affinity."""
        if not self.wants_affinity:
            return []
        return [self._send(pb.StreamNodePlanRequest(affinity=each), now) for each in memories_to_pb(clients)]

    def tick(self, now: float) -> list[Action]:
        """Send a heartbeat if one is due.

        Raises:
            PlanProtocolError: the planner has been silent for three intervals.
        """
        silence = now - self._heard_at
        if silence >= self._silence_max:
            raise PlannerSilentError(f"the planner has been silent for {silence:.1f} s")
        if now - self._sent_at < self._interval:
            return []
        heartbeat = pb.Heartbeat(position=position_to_pb(self._position), digest=self._store.digest)
        return [self._send(pb.StreamNodePlanRequest(heartbeat=heartbeat), now)]

    def next_tick(self) -> float:
        """When `tick` should be called next."""
        return min(self._sent_at + self._interval, self._heard_at + self._silence_max)

    @property
    def _silence_max(self) -> float:
        return SILENT_INTERVALS_MAX * self._interval if self._is_welcomed else WELCOME_SECONDS

    def _receive_welcome(self, message: pb.StreamNodePlanResponse, now: float) -> list[Action]:
        if not message.HasField("welcome"):
            raise PlanProtocolError("the first message is not a welcome")
        self._is_welcomed = True
        self.planner_id = message.welcome.planner_id
        self.candidates = candidates_from_pb(message.welcome.candidates)
        wanted = message.welcome.heartbeat_interval
        seconds = wanted.seconds + wanted.nanos / 1e9
        if seconds > 0:
            self._interval = min(max(seconds, HEARTBEAT_SECONDS_MIN), HEARTBEAT_SECONDS_MAX)
        self._tells_conditions = CONDITIONS in message.welcome.capabilities
        self._tells_affinity = AFFINITY in message.welcome.capabilities
        return self.tell_conditions(now) if len(self._conditions) else []

    def _receive_part(self, part: pb.Transaction, now: float) -> list[Action]:
        if self._builder is None:
            if part.nonce <= self._nonce:
                raise PlanProtocolError(f"transaction {part.nonce} comes after transaction {self._nonce}")
            self._builder = TransactionBuilder(part.nonce)
        transaction = self._builder.add(part)
        if transaction is None:
            return []
        self._builder = None
        self._nonce = transaction.nonce
        return self._commit(transaction, now)

    def _commit(self, transaction: Transaction, now: float) -> list[Action]:
        if transaction.facts is None and self._store.facts is None:
            raise PlanProtocolError(f"transaction {transaction.nonce}: the first one carries the facts about the node")
        changes = tuple(self._store.apply(transaction))
        self._told.committed(transaction)
        self._expected = transaction.digest
        is_equal = self._store.digest == transaction.digest
        if is_equal:
            self._resyncs = 0
            if transaction.in_sync and not self.is_in_sync:
                self.is_in_sync, self._in_sync_nonce = True, transaction.nonce
        commit = Commit(transaction, changes, self.is_in_sync and is_equal)
        if is_equal or self._is_retiring:
            return [commit]
        try:
            return [commit, self._resync(transaction.digest, now)]
        except PlanProtocolError as error:
            return [commit, GiveUp(error)]

    def _resync(self, expected: int, now: float) -> Send:
        if self._resyncs >= RESYNCS_MAX:
            raise PlanProtocolError(
                f"after {RESYNCS_MAX} resyncs the plan's digest is {self._store.digest:016x} and the planner still "
                f"says {expected:016x}"
            )
        self._resyncs += 1
        resync = pb.Resync(bucket_digests=self._store.bucket_digests)
        return self._send(pb.StreamNodePlanRequest(resync=resync), now)

    def _send(self, message: pb.StreamNodePlanRequest, now: float) -> Send:
        self._sent_at = now
        return Send(message)


def _nacks(nonce: int, news: Sequence[Failure]) -> Iterable[pb.StreamNodePlanRequest]:
    for start in range(0, len(news), FAILURES_PER_NACK):
        failures = [
            pb.ServiceFailure(
                service=name_to_pb(failure.key),
                stage=pb.ServiceFailure.Stage.ValueType(failure.stage),
                message=failure.message[:FAILURE_CHARACTERS_MAX],
            )
            for failure in news[start : start + FAILURES_PER_NACK]
        ]
        yield pb.StreamNodePlanRequest(nack=pb.Nack(nonce=nonce, failures=failures))


def _acks(result: Programmed, recovered: Sequence[ServiceKey]) -> Iterable[pb.StreamNodePlanRequest]:
    """The ack; more than one when more services have recovered than one may name."""
    for start in range(0, max(len(recovered), 1), FAILURES_PER_NACK):
        ack = _ack(result)
        ack.recovered.extend(map(name_to_pb, recovered[start : start + FAILURES_PER_NACK]))
        yield pb.StreamNodePlanRequest(ack=ack)


def _ack(result: Programmed) -> pb.Ack:
    ack = pb.Ack(
        nonce=result.nonce,
        level=pb.ACK_LEVEL_PROGRAMMED,
        position=position_to_pb(result.position),
        digest=result.digest,
        programmed_digest=result.programmed_digest,
        applied_at=timestamp(result.applied_at_ns),
    )
    ack.statistics.kernel_messages = result.kernel_messages
    ack.statistics.kernel_bytes = result.kernel_bytes
    ack.statistics.services = result.services
    ack.statistics.duration.FromNanoseconds(result.duration_ns)
    if result.drift is not None:
        ack.drift.CopyFrom(drift_to_pb(result.drift))
    return ack
