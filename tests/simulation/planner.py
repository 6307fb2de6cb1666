# SPDX-License-Identifier: Apache-2.0
"""One simulated planner: the real Planner and its NodeSessions.

What is played here is the shell, which reads, writes and keeps time.
"""

from __future__ import annotations

from collections.abc import Callable

from simulation.cluster_log import ClusterLog
from simulation.link import Link
from simulation.sim_clock import SimClock

from pointsman_model.cluster import Change, ClusterPosition
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core import framing
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.node_session import NodeSession
from pointsman_planner.core.planner import Batch, Planner

HEARTBEAT_SECONDS = 5.0
_SILENT_INTERVALS_MAX = 3


class PlannerProcess:
    """A planner that follows the log at its own pace; after a restart it begins with a snapshot."""

    def __init__(self, name: str, log: ClusterLog, clock: SimClock, *, say: Callable[[str], None]) -> None:
        self.name = name
        self.links: list[Link] = []
        self._log = log
        self._clock = clock
        self._say = say
        self.start()

    def start(self) -> None:
        """Begin anew, knowing nothing; every stream of before is broken."""
        self.planner = Planner()
        self.revision = 0
        for link in self.links:
            link.planner_closed()
        self.links = []

    def follow(self, changes: int) -> None:
        """Take in some more changes; the first time, a snapshot of a state that is so many changes old."""
        if not self.planner.is_in_sync:
            self.revision = max(self._log.revision - changes, self.revision)
            batch = tuple(Change(key=key, value=value) for key, value in self._log.objects_at(self.revision).items())
        else:
            batch = tuple(self._log.changes[self.revision : self.revision + changes])
            self.revision += len(batch)
        position = ClusterPosition(epoch="log", revision=self.revision)
        self.planner.apply(Batch(changes=batch, position=position))

    @property
    def is_behind(self) -> bool:
        """Whether there is something to follow."""
        return not self.planner.is_in_sync or self.revision < self._log.revision

    # -- streams -----------------------------------------------------------------------------------------------------

    def receive(self, link: Link, data: bytes | None) -> None:
        """A message of a node, or the end of its stream."""
        now_ns = self._clock.wall_ns()
        link.heard_at = self._clock.monotonic()
        if data is None:
            self.close(link)
            return
        message = decode_message(data)
        if link.plans is not None:
            link.plans.receive(message, now_ns=now_ns)
            return
        if not isinstance(message, Hello):
            raise TypeError(f"{link}: the first message is {message}")
        link.plans = self.planner.open(message, now_ns=now_ns)
        for older in [each for each in self.links if each.node == link.node]:
            self._say(f"{self.name}: {link} takes over from {older}")
            self._end(older)
        self.links.append(link)
        self._send(link, framing.welcome(self.name, HEARTBEAT_SECONDS, framing.CAPABILITIES))

    def close(self, link: Link) -> None:
        """Let go of a stream and tell the node."""
        if link.plans is not None:
            self._end(link)

    def _end(self, link: Link) -> None:
        session, is_open = link.plans, link in self.links
        if is_open:
            self.links.remove(link)
        link.planner_closed()
        if session is not None:
            self.planner.close(session)

    def write(self, link: Link) -> list[bytes]:
        """Build the next transaction and send it; its parts, for whoever wants to damage them."""
        frame = None if link.plans is None else link.plans.next_transaction(now_ns=self._clock.wall_ns())
        parts = [] if frame is None else list(frame.parts())
        for part in parts:
            self._send(link, part)
        return parts

    def writable(self) -> list[Link]:
        """Streams on which there is a transaction to be sent."""
        return [link for link in self.links if link.plans is not None and link.plans.has_work]

    def tick(self) -> None:
        """Heartbeats, and the end of streams that are silent."""
        now = self._clock.monotonic()
        for link in list(self.links):
            if now - link.heard_at > _SILENT_INTERVALS_MAX * HEARTBEAT_SECONDS:
                self._say(f"{self.name} gives up {link}: silent")
                self._end(link)
            elif link.plans is not None and now - link.sent_at >= 0.75 * HEARTBEAT_SECONDS:
                self._send(link, link.plans.heartbeat(now_ns=self._clock.wall_ns()))

    def session_of(self, node: str) -> NodeSession | None:
        """The session of a node."""
        return next((link.plans for link in self.links if link.node == node), None)

    def _send(self, link: Link, data: bytes) -> None:
        link.sent_at = self._clock.monotonic()
        link.send_to_node(data)
