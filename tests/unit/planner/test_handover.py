# SPDX-License-Identifier: Apache-2.0
"""Which nodes are asked to go elsewhere, and how long what they said of unreachable planners counts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.metrics import Registry
from pointsman_planner.api.handover import Handover, HandoverPace
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.ownership import Member, candidates
from pointsman_planner.metrics import ShardingMetrics

NODE = "n1"
MEMBERS = tuple(Member(planner_id=name, address=f"{name}:7444") for name in ("p1", "p2"))
OWNER, OTHER = (member.planner_id for member in candidates(NODE, MEMBERS))


@dataclass(kw_only=True)
class Session:
    node: str
    hello: Hello


@dataclass(kw_only=True)
class Stream:
    """What a Handover knows of a stream."""

    session: Session
    opened_at: float = 0.0
    redirected_at: float | None = None
    sent: list[pb.StreamNodePlanResponse] = field(default_factory=list)

    def send(self, message: bytes) -> bool:
        self.sent.append(pb.StreamNodePlanResponse.FromString(message))
        return True


@pytest.mark.parametrize("unreachable", [frozenset(), frozenset({OWNER})])
async def test_a_node_is_asked_to_go_to_its_owner_also_if_it_once_could_not_reach_it(
    unreachable: frozenset[str],
) -> None:
    clock = VirtualClock()
    handover = Handover(planner_id=OTHER, pace=HandoverPace(), metrics=ShardingMetrics(Registry()), clock=clock)
    hello = Hello(node_name=NODE, bucket_digests=(), unreachable_planners=unreachable)
    stream = Stream(session=Session(node=NODE, hello=hello))
    moving = asyncio.create_task(handover.run(lambda: {NODE: cast("Any", stream)}))
    handover.set_members(MEMBERS)
    await clock.advance(10)
    assert len(stream.sent) == (0 if unreachable else 1)
    await clock.advance(300)
    handover.set_members(MEMBERS)
    await clock.advance(10)
    moving.cancel()
    assert [each.planner_id for each in stream.sent[-1].redirect.candidates] == [OWNER, OTHER]
