# SPDX-License-Identifier: Apache-2.0
"""Gives nodes to the planners they belong to: says where to go when an enforcer dials, and moves those that are here.

Moves are paced, in no order, so that no planner gets a herd; a node is asked to move, and served until it has
arrived elsewhere (make before break). What a change of membership does to a node is judged anew at the moment of its
move, so members that come and go cost nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Final

import structlog

from pointsman_chassis.clock import Clock
from pointsman_planner.api.plan_stream import PlanStream
from pointsman_planner.core import framing
from pointsman_planner.core.framing import RedirectReason
from pointsman_planner.core.ownership import Member, Verdict, candidates, judge
from pointsman_planner.metrics import ShardingMetrics

_CANDIDATES_MAX = 4
_AGAIN_SECONDS = 60.0
"""A node that did not go is asked again."""
_UNREACHABLE_SECONDS = 300.0
"""So long counts what an enforcer said, when it came, of planners that it could not reach. Then it is asked to try."""
_DRAIN_POLL_SECONDS = 0.05
_REASONS: Final[Mapping[Verdict, RedirectReason]] = MappingProxyType(
    {Verdict.NOT_OWNER: RedirectReason.NOT_OWNER, Verdict.DRAINING: RedirectReason.DRAINING}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverPace:
    """How fast nodes are given away."""

    nodes_per_second: float = 20.0
    grace_seconds: float = 30.0
    """A node that was asked to move is served for so long at least."""
    overload_seconds: float = 5.0
    """A refused node comes back after one to two times this."""


class Handover:
    """Knows the members, and which node belongs to whom."""

    def __init__(
        self,
        *,
        planner_id: str,
        pace: HandoverPace,
        metrics: ShardingMetrics,
        clock: Clock,
        random: Random | None = None,
    ) -> None:
        self._planner_id = planner_id
        self._pace = pace
        self._metrics = metrics
        self._clock = clock
        self._random = random or Random()  # noqa: S311 - spreads load, guards nothing
        self._members: tuple[Member, ...] = ()
        self.changes = 0
        """How often the members changed."""
        self._is_draining = False
        self._changed = asyncio.Event()

    @property
    def members(self) -> tuple[Member, ...]:
        """Who serves, as last told."""
        return self._members

    def set_members(self, members: Sequence[Member]) -> None:
        """Who serves now; nodes that belong elsewhere will be moved."""
        self._members = tuple(members)
        self.changes += 1
        self._changed.set()

    # -- where a node belongs ----------------------------------------------------------------------------------------

    def judge(self, node: str, unreachable: Collection[str]) -> Verdict:
        """Whether this planner serves the node."""
        return judge(self._planner_id, self._ordered(node), unreachable)

    def candidates(self, node: str) -> tuple[Member, ...]:
        """The node's planners for its enforcer to know, best first; without those that drain, if there are others."""
        ordered = [member for member in self._ordered(node) if member.address]
        staying = [member for member in ordered if not member.is_draining]
        return tuple((staying or ordered)[:_CANDIDATES_MAX])

    def redirect(self, node: str, verdict: Verdict, *, grace_seconds: float) -> bytes:
        """The message that sends a node where it belongs."""
        reason = _REASONS[verdict]
        self._metrics.redirects.labels(verdict.value).inc()
        return framing.redirect(self.candidates(node), reason, grace_seconds=grace_seconds)

    def overloaded(self, node: str, *, waiting: int) -> bytes:
        """The message that sends a node away for a while; the more wait already, the longer."""
        self._metrics.redirects.labels("overloaded").inc()
        base = self._pace.overload_seconds * (1.0 + waiting / 1000)
        delay = base * (1.0 + self._random.random())
        return framing.redirect(
            self.candidates(node), RedirectReason.OVERLOADED, grace_seconds=0.0, delay_seconds=delay
        )

    def _ordered(self, node: str) -> tuple[Member, ...]:
        members = self._members
        if self._is_draining:
            members = tuple(
                replace(member, is_draining=True) if member.planner_id == self._planner_id else member
                for member in members
            )
        return candidates(node, members)

    # -- moves -------------------------------------------------------------------------------------------------------

    async def run(self, streams: Callable[[], Mapping[str, PlanStream]]) -> None:
        """Move nodes that belong elsewhere, for ever."""
        while True:
            again = self._clock.call_later(_AGAIN_SECONDS / 2, self._changed.set)
            await self._changed.wait()
            again.cancel()
            self._changed.clear()
            if not self._is_draining:
                await self._move(streams, self._pace.nodes_per_second, self._pace.grace_seconds)

    async def drain(self, streams: Callable[[], Mapping[str, PlanStream]], *, period_seconds: float) -> None:
        """Give all nodes away within the period; returns when none is left that could go, or when it is over."""
        self._is_draining = True
        deadline = self._clock.monotonic() + period_seconds
        count = len(self._elsewhere(streams))
        if not count:
            return
        structlog.get_logger("handover").info("draining", nodes=count, seconds=period_seconds)
        rate = max(self._pace.nodes_per_second, count / (0.6 * period_seconds))
        await self._move(streams, rate, period_seconds)
        while self._elsewhere(streams, is_again=True) and self._clock.monotonic() < deadline:
            await self._clock.sleep(_DRAIN_POLL_SECONDS)
        structlog.get_logger("handover").info("drained", left=len(streams()))

    async def _move(
        self, streams: Callable[[], Mapping[str, PlanStream]], nodes_per_second: float, grace_seconds: float
    ) -> None:
        pending = self._elsewhere(streams)
        self._random.shuffle(pending)
        for index, stream in enumerate(pending):
            self._metrics.moves_pending.set(len(pending) - index)
            await self._clock.sleep((0.5 + self._random.random()) / nodes_per_second)
            if streams().get(stream.session.node) is not stream:
                continue
            verdict = self._verdict(stream)
            if verdict is not Verdict.SERVE and self._is_due(stream):
                stream.redirected_at = self._clock.monotonic()
                stream.send(self.redirect(stream.session.node, verdict, grace_seconds=grace_seconds))
        self._metrics.moves_pending.set(0)

    def _elsewhere(
        self, streams: Callable[[], Mapping[str, PlanStream]], *, is_again: bool = False
    ) -> list[PlanStream]:
        """Streams whose node belongs elsewhere and was not asked to go of late; `is_again` = asked or not."""
        return [
            stream
            for stream in streams().values()
            if self._verdict(stream) is not Verdict.SERVE and (is_again or self._is_due(stream))
        ]

    def _is_due(self, stream: PlanStream) -> bool:
        asked_at = stream.redirected_at
        return asked_at is None or self._clock.monotonic() - asked_at > _AGAIN_SECONDS

    def _verdict(self, stream: PlanStream) -> Verdict:
        is_recent = self._clock.monotonic() - stream.opened_at < _UNREACHABLE_SECONDS
        return self.judge(stream.session.node, stream.session.hello.unreachable_planners if is_recent else ())
