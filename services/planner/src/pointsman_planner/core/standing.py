# SPDX-License-Identifier: Apache-2.0
"""What state a node is in, and why in words: from its stream, or from what another planner recorded.

    stream here     digests agree                                synced
                    services refused                             nacked
                    nothing heard, or an ack that does not come  unresponsive
                    anything else                                stale
    stream at       what that planner recorded, but the digests are compared with what *this* planner wants: so every
    another planner planner's answer is about its own view of the cluster, and two that agree prove each other
    no stream       disconnected

Ages are in the words, so a reason that was recorded says how old it was then.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field, replace

from pointsman_model.cluster import ClusterPosition
from pointsman_planner.core.messages import AckLevel, Failure
from pointsman_planner.core.node_session import NodeSession
from pointsman_planner.core.planner import Planner
from pointsman_planner.core.status import NodeState, NodeStatus

_SECOND_NS = 1_000_000_000
NEVER_CONNECTED = "never connected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a node, or the planner that serves it, may take until it counts as unresponsive or gone."""

    heartbeat_seconds: float

    @property
    def silence_ns(self) -> int:
        """An enforcer that says nothing for two intervals has missed one heartbeat for certain."""
        return round(2 * self.heartbeat_seconds * _SECOND_NS)

    def ack_ns(self, *, is_received: bool) -> int:
        """What the enforcer holds may take long to program; what it never confirmed may be lost on the way."""
        return round((6 if is_received else 2) * self.heartbeat_seconds * _SECOND_NS)

    @property
    def report_ns(self) -> int:
        """A planner reports its nodes with each heartbeat; clocks of planners may differ by some seconds."""
        return round((6 * self.heartbeat_seconds + 5) * _SECOND_NS)


@dataclass(slots=True)
class Standings:
    """Since when nodes with a stream here are in their states."""

    _held: dict[str, tuple[NodeState, int]] = field(default_factory=dict)

    def state(self, name: str) -> NodeState | None:
        """The state that a node was in when it was looked at last."""
        held = self._held.get(name)
        return held[0] if held is not None else None

    def since_ns(self, name: str, state: NodeState, now_ns: int) -> int:
        """Since when a node that is in this state now has been in it."""
        held = self._held.get(name)
        if held is None or held[0] is not state:
            held = self._held[name] = (state, now_ns)
        return held[1]

    def fell_behind(self, name: str, now_ns: int) -> None:
        """A node was given something to do; that it was synced ends here, and not when somebody looks."""
        if self.state(name) is NodeState.SYNCED:
            self._held[name] = (NodeState.STALE, now_ns)

    def counts(self) -> Counter[NodeState]:
        """How many nodes are in each state."""
        return Counter(state for state, _ in self._held.values())

    def longest_behind(self, count: int) -> list[tuple[str, NodeState, int]]:
        """Of the nodes that are not synced, those that have been in their state for longest: name, state, since."""
        behind = (
            (since_ns, name, state) for name, (state, since_ns) in self._held.items() if state is not NodeState.SYNCED
        )
        return [(name, state, since_ns) for since_ns, name, state in heapq.nsmallest(count, behind)]

    def forget(self, name: str) -> None:
        """Its stream has ended."""
        self._held.pop(name, None)


def connected_status(
    session: NodeSession, planner: Planner, *, planner_id: str, now_ns: int, patience: Patience
) -> NodeStatus:
    """Status of a node with a stream here.

    A converged node has programmed the planner's present position, also if nothing was sent to it for that: the
    digest of what it acknowledged equals the digest of its plan at this position.
    """
    is_converged = session.is_converged
    state, reason = _standing(session, now_ns, patience, is_converged=is_converged)
    return NodeStatus(
        name=session.node,
        state=state,
        planner_id=planner_id,
        mode=session.hello.mode,
        instance_id=session.hello.instance_id,
        version=session.hello.version,
        sent=session.sent_position if session.has_pending else planner.position,
        programmed=planner.position if is_converged else session.acked_position,
        desired_digest=planner.digest(session.node) if session.is_live else 0,
        programmed_digest=session.programmed_digest,
        reached=tuple(session.reached),
        pending_services=session.pending_services,
        failures=session.failures,
        last_seen_ns=session.last_heard_ns,
        drift=session.drift,
        conditions=session.conditions,
        reason=reason,
    )


def _standing(session: NodeSession, now_ns: int, patience: Patience, *, is_converged: bool) -> tuple[NodeState, str]:
    silence_ns = now_ns - session.last_heard_ns
    if silence_ns > patience.silence_ns:
        due = f"heartbeats are due every {patience.heartbeat_seconds:g} s"
        return NodeState.UNRESPONSIVE, f"silent: nothing was heard for {_seconds(silence_ns)}; {due}"
    if session.flights:
        nonce, built_ns = session.flights[0].nonce, session.flights[0].built_ns
        is_received = session.reached.nonce(AckLevel.RECEIVED) >= nonce
        not_yet = "is received and not programmed yet" if is_received else "is not acknowledged"
        words = f"transaction {nonce} sent {_seconds(now_ns - built_ns)} ago {not_yet}"
        if now_ns - built_ns > patience.ack_ns(is_received=is_received):
            return NodeState.UNRESPONSIVE, f"acks late: {words}"
        return (NodeState.NACKED, _refusals(session.failures)) if session.failures else (NodeState.STALE, words)
    if session.failures:
        return NodeState.NACKED, _refusals(session.failures)
    if is_converged:
        return NodeState.SYNCED, ""
    return NodeState.STALE, _unsent(session, now_ns)


def _unsent(session: NodeSession, now_ns: int) -> str:
    if not session.is_live:
        return "the planner has not seen the whole cluster yet"
    if session.reached.nonce(AckLevel.RECEIVED) == 0:
        return f"connected {_seconds(now_ns - session.opened_ns)} ago, its first transaction is still to be sent"
    if session.pending_services:
        return f"{session.pending_services} services are about to be sent"
    if session.has_pending:
        return "its plan is about to be compared and repaired"
    return "it acknowledged everything, and its kernel holds something else than is wanted"


def _refusals(failures: tuple[Failure, ...]) -> str:
    first = failures[0]
    refused = "1 service refused" if len(failures) == 1 else f"{len(failures)} services refused, the first"
    return f"{refused}: {first.service}: {first.stage.name.lower()}: {first.message}"


def disconnected_status(last: NodeStatus, reason: str, *, now_ns: int) -> NodeStatus:
    """Status of a node whose stream just ended."""
    return replace(last, state=NodeState.DISCONNECTED, reason=f"disconnected: {reason}", since_ns=now_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewpoint:
    """Who judges a recorded status, and against what."""

    planner_id: str
    position: ClusterPosition
    """What the desired digests speak of."""
    patience: Patience
    is_store_available: bool = True


def recorded_status(name: str, record: NodeStatus | None, desired_digest: int, view: Viewpoint) -> NodeStatus:
    """Status of a node without a stream here; `record` is what planners share of it.

    Nothing that was recorded vouches for changes its planner never saw: synced is who holds what is wanted *here*.
    """
    if record is None:
        reason = NEVER_CONNECTED if view.is_store_available else "unknown: what planners share cannot be read now"
        return NodeStatus(name=name, state=NodeState.DISCONNECTED, desired_digest=desired_digest, reason=reason)
    state, reason = _recorded_standing(record, desired_digest, view)
    return replace(
        record,
        name=name,
        state=state,
        reason=reason,
        desired_digest=desired_digest,
        programmed=view.position if state is NodeState.SYNCED else record.programmed,
        since_ns=record.since_ns if state is record.state else 0,
    )


def _recorded_standing(record: NodeStatus, desired_digest: int, view: Viewpoint) -> tuple[NodeState, str]:
    gone = _gone(record, view)
    if gone:
        return NodeState.DISCONNECTED, gone
    if record.state in {NodeState.UNRESPONSIVE, NodeState.NACKED}:
        return record.state, record.reason
    if record.programmed_digest == desired_digest:
        return NodeState.SYNCED, ""
    if record.state is not NodeState.SYNCED:
        return NodeState.STALE, record.reason
    theirs, mine = (f"{each.epoch}/{each.revision}" for each in (record.programmed, view.position))
    return NodeState.STALE, f"{record.planner_id} calls it synced at {theirs}, and at {mine} its plan is another"


def _gone(record: NodeStatus, view: Viewpoint) -> str:
    """Why nobody speaks for the node now; empty when its planner does."""
    if record.state is NodeState.DISCONNECTED:
        return record.reason or "disconnected"
    if record.planner_id == view.planner_id:
        return "disconnected: it has not come back since this planner lost it"
    if record.age_ns > view.patience.report_ns:
        return f"unknown: {record.planner_id or 'its planner'} has not reported it for {_seconds(record.age_ns)}"
    return ""


def _seconds(duration_ns: int) -> str:
    seconds = max(duration_ns, 0) / _SECOND_NS
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
