# SPDX-License-Identifier: Apache-2.0
"""How far a node has come, as a value that can be shown, stored and read back; `standing.py` makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from pointsman_model.cluster import ClusterPosition
from pointsman_planner.core.messages import Conditions, Drift, Failure
from pointsman_planner.core.reached import Reached


class NodeState(IntEnum):
    """In one word (equals `pointsman.control.v1.NodeStatus.State`)."""

    SYNCED = 1
    STALE = 2
    NACKED = 3
    DISCONNECTED = 4
    UNRESPONSIVE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """How far a node has come. Encodes to JSON as it stands."""

    name: str
    state: NodeState
    planner_id: str = ""
    """The planner with its stream, or the one that had it last."""
    mode: int = 0
    instance_id: str = ""
    version: str = ""
    sent: ClusterPosition = field(default_factory=ClusterPosition)
    programmed: ClusterPosition = field(default_factory=ClusterPosition)
    desired_digest: int = 0
    programmed_digest: int = 0
    reached: tuple[Reached, ...] = ()
    """By level, lowest first."""
    pending_services: int = 0
    failures: tuple[Failure, ...] = ()
    last_seen_ns: int = 0
    drift: Drift | None = None
    """The newest repair after somebody else changed the node's kernel objects."""
    conditions: Conditions = field(default_factory=Conditions)
    """Trouble with services that the node's kernel has as planned."""
    reason: str = ""
    """Why it is in this state, for people; empty when it is synced."""
    since_ns: int = 0
    """Since when it is in this state; 0 = unknown."""
    age_ns: int = field(default=0, compare=False)
    """How long ago another planner recorded it, by the clock of the store: the clocks of planners need not agree."""
