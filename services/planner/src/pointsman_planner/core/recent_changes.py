# SPDX-License-Identifier: Apache-2.0
"""How long the last changes took to reach the kernels: from the moment the planner had one to each node's ack.

Only nodes that this planner serves count. A change ends when the last node has it; one that is pushed out of the ring,
or out of those that are followed, ends as it stands. All is bounded: the ring, the changes that are followed at a time,
the names that are shown of one change.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pointsman_model.cluster import ClusterPosition
from pointsman_model.names import ServiceKey
from pointsman_planner.core.status import NodeState, NodeStatus

CHANGES_MAX: Final = 60
FOLLOWED_MAX: Final = 32
"""Changes whose nodes are still waited for; beyond that the oldest is given up."""
SERVICES_SHOWN: Final = 3


class Percentiles(NamedTuple):
    """Of some durations, in nanoseconds; all 0 without any."""

    p50: int = 0
    p90: int = 0
    p99: int = 0
    longest: int = 0


@dataclass(slots=True, kw_only=True)
class RecentChange:
    """One change; grows older in place."""

    number: int
    """Counts changes of this process from 1."""
    begun_ns: int
    services: tuple[ServiceKey, ...]
    """The first few."""
    services_total: int
    nodes: int
    position: ClusterPosition
    version: int
    """Grows with everything that is learnt of any change."""
    waiting: set[str]
    is_followed: bool = True
    durations_ns: list[int] = field(default_factory=list)
    """Until each node had it, sorted; kept while it is followed."""
    taken: Percentiles = field(default_factory=Percentiles)
    refused: int = 0
    """Nodes that refused something while they were waited for."""
    left: int = 0
    """Nodes that went away before they had it."""
    refusing: set[str] = field(default_factory=set)


class RecentChanges:
    """The ring."""

    def __init__(self) -> None:
        self._ring: deque[RecentChange] = deque(maxlen=CHANGES_MAX)
        self._followed: OrderedDict[int, RecentChange] = OrderedDict()
        self._numbers = 0
        self.version = 0
        """Of the newest thing learnt."""

    def begun(
        self, services: Sequence[ServiceKey], nodes: Iterable[str], *, position: ClusterPosition, now_ns: int
    ) -> None:
        """The planner has a change, and these nodes are to be told."""
        waiting = set(nodes)
        self._numbers += 1
        self.version += 1
        change = RecentChange(
            number=self._numbers,
            begun_ns=now_ns,
            services=tuple(services[:SERVICES_SHOWN]),
            services_total=len(services),
            nodes=len(waiting),
            position=position,
            version=self.version,
            waiting=waiting,
        )
        self._ring.append(change)
        self._followed[change.number] = change
        while len(self._followed) > FOLLOWED_MAX:
            self._finish(next(iter(self._followed.values())))

    def told(self, status: NodeStatus, *, now_ns: int) -> None:
        """The newest of a node."""
        for change in tuple(self._followed.values()):
            if status.name in change.waiting:
                self._look(change, status, now_ns)

    def since(self, version: int) -> list[RecentChange]:
        """Changes of which something was learnt after a version, oldest first. Not to be changed by the caller."""
        return [change for change in self._ring if change.version > version]

    def latency(self) -> Percentiles:
        """Of the time until the last node had it, over the changes that every node has."""
        return percentiles(
            sorted(change.taken.longest for change in self._ring if not change.waiting and change.taken.longest)
        )

    def _look(self, change: RecentChange, status: NodeStatus, now_ns: int) -> None:
        name = status.name
        if status.state is NodeState.DISCONNECTED:
            change.left += 1
        elif _has_it(status, change.position):
            insort(change.durations_ns, max(now_ns - change.begun_ns, 0))
        else:
            if status.failures and name not in change.refusing:
                change.refusing.add(name)
                self._learnt(change)
            return
        change.waiting.discard(name)
        change.refusing.discard(name)
        self._learnt(change)
        if not change.waiting:
            self._finish(change)

    def _learnt(self, change: RecentChange) -> None:
        self.version += 1
        change.version = self.version
        change.refused = len(change.refusing)
        change.taken = percentiles(change.durations_ns)

    def _finish(self, change: RecentChange) -> None:
        self._learnt(change)
        change.is_followed = False
        change.durations_ns = []
        self._followed.pop(change.number, None)


def percentiles(ordered: Sequence[int]) -> Percentiles:
    """Nearest rank; `ordered` is sorted."""
    if not ordered:
        return Percentiles()

    def rank(percent: int) -> int:
        return ordered[max(-(-len(ordered) * percent // 100) - 1, 0)]

    return Percentiles(rank(50), rank(90), rank(99), ordered[-1])


def _has_it(status: NodeStatus, position: ClusterPosition) -> bool:
    if status.state is NodeState.SYNCED:
        return True
    is_later = status.programmed.epoch == position.epoch and status.programmed.revision >= position.revision
    return is_later and status.programmed.overrides == position.overrides and not status.failures
