# SPDX-License-Identifier: Apache-2.0
"""Which nodes have something in their kernels: statuses and positions go in over time, a decision comes out.

A node has the target when either holds:

    by digest     what it acknowledged is what this planner wanted of it at some moment since the target was reached
                  here. Holds for a node that the change does not touch: its digest is the same before and after.
    by position   what it acknowledged was built from a state that includes the target. Holds under continuous churn,
                  when a node is never quite up to date, and for a planner that follows another watcher.

and it did not refuse what the target is about. Having had it once is enough: a wait that ends is not undone by what
changes afterwards. A node without an enforcer proves nothing now, whatever it said before.

Overrides are no part of the API server's history. A position names its overrides by fingerprint, so one that was built
from others does not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pointsman_model.cluster import ClusterPosition
from pointsman_model.names import ServiceKey
from pointsman_planner.core.messages import AckLevel, Failure
from pointsman_planner.core.node_session import FAILURES_MAX
from pointsman_planner.core.status import NodeState, NodeStatus

_DIGESTS_KEPT = 64
_FINGERPRINTS_KEPT = 256
NO_SUCH_NODE = "there is no node of this name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What nodes must have."""

    position: ClusterPosition
    """A state that includes it: of the API server, and of overrides unless `is_of_api_server`."""
    service: ServiceKey | None = None
    """The Service it is about; None = everything."""
    level: AckLevel = AckLevel.PROGRAMMED
    is_of_api_server: bool = False
    """Whether only what the API server says counts, whatever overrides are in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """How many nodes must have it; without a number, all."""

    count: int = 0
    percent: int = 0

    def needed(self, total: int) -> int:
        """Of so many nodes."""
        if self.count:
            return min(self.count, total)
        if self.percent:
            return -(-total * self.percent // 100)
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Laggard:
    """A node that does not have it, and why."""

    name: str
    state: NodeState
    reason: str
    since_ns: int = 0
    programmed: ClusterPosition = field(default_factory=ClusterPosition)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How it stands; `laggards` are ordered by name."""

    is_converged: bool
    nodes: int
    reached: int
    needed: int
    laggards: tuple[Laggard, ...]


class Convergence:
    """One wait. Tell it the planner's position first, then the statuses of the nodes it waits for as they change."""

    def __init__(self, target: Target, quorum: Quorum, nodes: Iterable[str]) -> None:
        self._target = target
        self._quorum = quorum
        self._waiting: dict[str, NodeStatus | None] = dict.fromkeys(nodes)
        self._reached: set[str] = set()
        self._digests: dict[str, deque[int]] = {}
        self._is_here = False
        self._overrides = dict.fromkeys([target.position.overrides])
        self._position = ClusterPosition()

    @property
    def waiting(self) -> tuple[str, ...]:
        """Nodes that do not have it yet."""
        return tuple(self._waiting)

    @property
    def is_here(self) -> bool:
        """Whether this planner's own state includes the target, or did."""
        return self._is_here

    def planner_at(self, position: ClusterPosition) -> None:
        """The planner's position now."""
        self._position = position
        self._is_here = self._is_here or position.includes(self._target.position)
        if self._is_here:
            self._overrides[position.overrides] = None
            if len(self._overrides) > _FINGERPRINTS_KEPT:
                del self._overrides[next(iter(self._overrides))]

    def take(self, status: NodeStatus) -> None:
        """The status of a node now, its desired digest that of the planner's position."""
        if status.name not in self._waiting:
            return
        self._waiting[status.name] = status
        if self._is_here and self._has_it(status):
            del self._waiting[status.name]
            self._digests.pop(status.name, None)
            self._reached.add(status.name)

    def drop(self, name: str) -> None:
        """A node that no longer counts: the API server does not have it any more."""
        self._waiting.pop(name, None)
        self._digests.pop(name, None)
        self._reached.discard(name)

    @property
    def is_decided(self) -> bool:
        """Whether enough nodes have it."""
        return len(self._reached) >= self._quorum.needed(len(self._waiting) + len(self._reached))

    def decision(self) -> Decision:
        """How it stands now."""
        total = len(self._waiting) + len(self._reached)
        needed = self._quorum.needed(total)
        return Decision(
            is_converged=self.is_decided,
            nodes=total,
            reached=len(self._reached),
            needed=needed,
            laggards=tuple(self._laggard(name, self._waiting[name]) for name in sorted(self._waiting)),
        )

    def _has_it(self, status: NodeStatus) -> bool:
        if status.state is NodeState.DISCONNECTED:
            return False
        wanted = self._digests.setdefault(status.name, deque(maxlen=_DIGESTS_KEPT))
        if status.desired_digest not in wanted:
            wanted.append(status.desired_digest)
        position, digest = self._acknowledged(status)
        if position == ClusterPosition():
            return False
        return digest in wanted or (self._refusal(status) is None and self._includes(position))

    def _acknowledged(self, status: NodeStatus) -> tuple[ClusterPosition, int]:
        """What the node said last of the level that counts."""
        if self._target.level is AckLevel.PROGRAMMED:
            return status.programmed, status.programmed_digest
        for reached in status.reached:
            if reached.level is self._target.level:
                return reached.position, reached.digest
        return ClusterPosition(), 0

    def _includes(self, position: ClusterPosition) -> bool:
        if not (self._target.is_of_api_server or position.overrides in self._overrides):
            return False
        return position.includes(self._target.position)

    def _refusal(self, status: NodeStatus) -> Failure | None:
        """What the node refused of the target; who holds only the plan refuses nothing."""
        if self._target.level is AckLevel.RECEIVED or not status.failures:
            return None
        if self._target.service is None or len(status.failures) >= FAILURES_MAX:
            return status.failures[0]
        return next((failure for failure in status.failures if failure.service == self._target.service), None)

    def _laggard(self, name: str, status: NodeStatus | None) -> Laggard:
        if status is None:
            return Laggard(name=name, state=NodeState.DISCONNECTED, reason=NO_SUCH_NODE)
        return Laggard(
            name=name,
            state=status.state,
            reason=self._why(status),
            since_ns=status.since_ns,
            programmed=status.programmed,
        )

    def _why(self, status: NodeStatus) -> str:
        if not self._is_here:
            return f"this planner has not read it from the API server yet; it is at {_words(self._position)}"
        refusal = self._refusal(status)
        if refusal is not None and status.state is not NodeState.DISCONNECTED:
            return f"refused {refusal.service}: {refusal.stage.name.lower()}: {refusal.message}"
        if status.state is NodeState.SYNCED:
            return f"programmed, and not acknowledged as {self._target.level.name.lower()}"
        return status.reason


def _words(position: ClusterPosition) -> str:
    versions = ", ".join(
        f"{name.replace('_', ' ')} {number}" for name, number in position.resource_versions._asdict().items() if number
    )
    return f"{position.epoch}/{position.revision}" + (f" (resource versions: {versions})" if versions else "")
