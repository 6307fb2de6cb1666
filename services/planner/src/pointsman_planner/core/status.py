# SPDX-License-Identifier: Apache-2.0
"""How far a node has come, as a value that can be shown, stored and read back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from pointsman_model.cluster import ClusterPosition
from pointsman_planner.core.messages import Conditions, Drift, Failure
from pointsman_planner.core.node_session import NodeSession
from pointsman_planner.core.planner import Planner


class NodeState(IntEnum):
    """In one word (equals `pointsman.control.v1.NodeStatus.State`)."""

    SYNCED = 1
    STALE = 2
    NACKED = 3
    DISCONNECTED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """How far a node has come."""

    name: str
    state: NodeState
    planner_id: str = ""
    mode: int = 0
    instance_id: str = ""
    sent: ClusterPosition = field(default_factory=ClusterPosition)
    programmed: ClusterPosition = field(default_factory=ClusterPosition)
    desired_digest: int = 0
    programmed_digest: int = 0
    pending_services: int = 0
    failures: tuple[Failure, ...] = ()
    last_seen_ns: int = 0
    drift: Drift | None = None
    """The newest repair after somebody else changed the node's kernel objects."""
    conditions: Conditions = field(default_factory=Conditions)
    """Trouble with services that the node's kernel has as planned."""


def status_of(session: NodeSession, planner: Planner, planner_id: str) -> NodeStatus:
    """Status of a connected node.

    A converged node has programmed the planner's present position, also if nothing was sent to it for that: the
    digest of what it acknowledged equals the digest of its plan at this position.
    """
    is_converged = session.is_converged
    state = NodeState.SYNCED if is_converged else NodeState.STALE
    if session.failures:
        state = NodeState.NACKED
    return NodeStatus(
        name=session.node,
        state=state,
        planner_id=planner_id,
        mode=session.hello.mode,
        instance_id=session.hello.instance_id,
        sent=session.sent_position if session.has_pending else planner.position,
        programmed=planner.position if is_converged else session.acked_position,
        desired_digest=planner.digest(session.node) if planner.is_in_sync else 0,
        programmed_digest=session.programmed_digest,
        pending_services=session.pending_services,
        failures=session.failures,
        last_seen_ns=session.last_heard_ns,
        drift=session.drift,
        conditions=session.conditions,
    )
