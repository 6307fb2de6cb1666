# SPDX-License-Identifier: Apache-2.0
"""One simulated planner: the real Planner and its NodeSessions.

What is played here is the shell, which reads, writes and keeps time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from simulation.cluster_log import ClusterLog
from simulation.link import Link
from simulation.sim_clock import SimClock

from pointsman_model.cluster import Change, ClusterPosition
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core import framing
from pointsman_planner.core.framing import RedirectReason
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.node_session import NodeSession
from pointsman_planner.core.ownership import Member, Verdict, candidates, judge
from pointsman_planner.core.planner import Batch, Planner

HEARTBEAT_SECONDS = 5.0
_SILENT_INTERVALS_MAX = 3
_CANDIDATES_MAX = 4
_TURNED_AWAY_SECONDS = 5.0
_GRACE_SECONDS = 30.0
_ASKED_AGAIN_SECONDS = 60.0
_UNREACHABLE_SECONDS = 300.0
_REASONS = {Verdict.NOT_OWNER: RedirectReason.NOT_OWNER, Verdict.DRAINING: RedirectReason.DRAINING}


class PlannerProcess:
    """A planner that follows the log at its own pace; after a restart it begins with a snapshot."""

    def __init__(self, name: str, log: ClusterLog, clock: SimClock, *, say: Callable[[str], None]) -> None:
        self.name = name
        self.address = f"{name}:7444"
        self.links: list[Link] = []
        self._log = log
        self._clock = clock
        self._say = say
        self._turned_away: list[tuple[Link, float]] = []
        self._moved_at = 0.0
        self.start()

    def start(self) -> None:
        """Begin anew, knowing nothing; every stream of before is broken."""
        self.planner = Planner()
        self.revision = 0
        self.members: tuple[Member, ...] = ()
        """Who serves, as this planner was told last."""
        self.is_draining = False
        for link in (*self.links, *(link for link, _ in self._turned_away)):
            link.planner_closed()
        self.links, self._turned_away = [], []

    @property
    def member(self) -> Member:
        """This planner as others are told of it."""
        return Member(planner_id=self.name, address=self.address, is_draining=self.is_draining)

    def follow(self, changes: int) -> None:
        """Take in some more changes; the first time, a snapshot of a state that is so many changes old."""
        if not self.planner.is_in_sync:
            self.revision = max(self._log.revision - changes, self.revision)
            objects = self._log.objects_at(self.revision)
            batch = tuple(Change(key=key, value=value) for key, value in objects.items())
        else:
            batch = tuple(self._log.changes[self.revision : self.revision + changes])
            self.revision += len(batch)
        position = ClusterPosition(epoch="log", revision=self.revision)
        self.planner.apply(Batch(changes=batch, position=position))

    @property
    def is_behind(self) -> bool:
        """Whether there is something to follow."""
        return not self.planner.is_in_sync or self.revision < self._log.revision

    # -- where nodes belong ------------------------------------------------------------------------------------------

    def hear(self, members: Sequence[Member]) -> None:
        """Who serves now."""
        self.members = tuple(members)

    def move_nodes(self) -> list[Link]:
        """Ask the nodes that belong elsewhere to go there; the streams on which that was done."""
        now = self._moved_at = self._clock.monotonic()
        asked = []
        for link in self.links:
            if link.plans is None:
                continue
            is_recent = now - link.opened_at < _UNREACHABLE_SECONDS
            verdict = self._verdict(link.node, link.plans.hello.unreachable_planners if is_recent else ())
            is_due = link.asked_at is None or now - link.asked_at > _ASKED_AGAIN_SECONDS
            if verdict is not Verdict.SERVE and is_due:
                link.asked_at = now
                self._send(link, self._redirect(link.node, verdict, _GRACE_SECONDS))
                asked.append(link)
        return asked

    def _ordered(self, node: str) -> tuple[Member, ...]:
        mine = [self.member if each.planner_id == self.name else each for each in self.members]
        return candidates(node, mine)

    def _verdict(self, node: str, unreachable: Collection[str]) -> Verdict:
        return judge(self.name, self._ordered(node), unreachable)

    def _candidates(self, node: str) -> tuple[Member, ...]:
        ordered = self._ordered(node)
        return (tuple(member for member in ordered if not member.is_draining) or ordered)[:_CANDIDATES_MAX]

    def _redirect(self, node: str, verdict: Verdict, grace_seconds: float) -> bytes:
        return framing.redirect(self._candidates(node), _REASONS[verdict], grace_seconds=grace_seconds)

    # -- streams -----------------------------------------------------------------------------------------------------

    def receive(self, link: Link, data: bytes | None) -> None:
        """A message of a node, or the end of its stream."""
        link.heard_at = self._clock.monotonic()
        if data is None:
            self.close(link)
            return
        message = decode_message(data)
        if link.plans is not None:
            link.plans.receive(message, now_ns=self._clock.wall_ns())
        elif isinstance(message, Hello):
            self._begin(link, message)

    def _begin(self, link: Link, hello: Hello) -> None:
        verdict = self._verdict(link.node, hello.unreachable_planners)
        welcome = framing.welcome(self.name, HEARTBEAT_SECONDS, framing.CAPABILITIES, self._candidates(link.node))
        if verdict is not Verdict.SERVE:
            self._send(link, welcome)
            self._send(link, self._redirect(link.node, verdict, _TURNED_AWAY_SECONDS))
            self._turned_away.append((link, self._clock.monotonic() + _TURNED_AWAY_SECONDS))
            return
        link.plans = self.planner.open(hello, now_ns=self._clock.wall_ns())
        for older in [each for each in self.links if each.node == link.node]:
            self._say(f"{self.name}: {link} takes over from {older}")
            self._end(older)
        self.links.append(link)
        link.opened_at = self._clock.monotonic()
        self._send(link, welcome)

    def close(self, link: Link) -> None:
        """Let go of a stream and tell the node."""
        self._turned_away = [(each, until) for each, until in self._turned_away if each is not link]
        self._end(link)

    def _end(self, link: Link) -> None:
        session = link.plans
        if link in self.links:
            self.links.remove(link)
        link.planner_closed()
        if session is not None:
            self.planner.close(session)

    def write(self, link: Link) -> list[bytes]:
        """Build the next transaction and send it; its parts."""
        frame = None if link.plans is None else link.plans.next_transaction(now_ns=self._clock.wall_ns())
        parts = [] if frame is None else list(frame.parts())
        for part in parts:
            self._send(link, part)
        return parts

    def writable(self) -> list[Link]:
        """Streams on which there is a transaction to be sent."""
        return [link for link in self.links if link.plans is not None and link.plans.has_work]

    def tick(self) -> None:
        """Heartbeats, and the end of streams that are silent, or were turned away and did not go."""
        now = self._clock.monotonic()
        for link in list(self.links):
            if now - link.heard_at > _SILENT_INTERVALS_MAX * HEARTBEAT_SECONDS:
                self._say(f"{self.name} gives up {link}: silent")
                self._end(link)
            elif link.plans is not None and now - link.sent_at >= 0.75 * HEARTBEAT_SECONDS:
                self._send(link, link.plans.heartbeat(now_ns=self._clock.wall_ns()))
        for link in [each for each, until in self._turned_away if until <= now]:
            self.close(link)
        if now - self._moved_at >= _ASKED_AGAIN_SECONDS / 2:
            self.move_nodes()

    def session_of(self, node: str) -> NodeSession | None:
        """The session of a node."""
        return next((link.plans for link in self.links if link.node == node), None)

    def _send(self, link: Link, data: bytes) -> None:
        link.sent_at = self._clock.monotonic()
        link.send_to_node(data)
