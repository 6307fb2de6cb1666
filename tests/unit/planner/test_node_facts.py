# SPDX-License-Identifier: Apache-2.0
"""What a planner tells a node about itself, and when. Packet-flow row 146: which nodes take load balancer traffic."""

from __future__ import annotations

import pytest

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.cluster import Change, ClusterPosition, Node, Taint, key_of
from pointsman_model.names import parse_address
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.planner import Batch, Planner
from support.cluster_objects import node
from support.model_enforcer import ModelEnforcer

AUTOSCALER = Taint("ToBeDeletedByClusterAutoscaler", "", "NoSchedule")
OTHER = Taint("node.kubernetes.io/unreachable", "", "NoExecute")


class World:
    """A planner and one node that follows it."""

    def __init__(self, first: Node) -> None:
        self.planner = Planner()
        self.revision = 0
        self.change(first)
        hello = decode_message(ModelEnforcer(first.name).hello().SerializeToString())
        assert isinstance(hello, Hello)
        self.session = self.planner.open(hello, now_ns=0)

    def change(self, value: Node) -> None:
        self.revision += 1
        position = ClusterPosition(epoch="e", revision=self.revision)
        self.planner.apply(Batch(changes=(Change(key=key_of(value), value=value),), position=position))

    def told(self) -> pb.NodeFacts | None:
        """The facts in the next transaction; None when there is no transaction."""
        frame = self.session.next_transaction(now_ns=0)
        if frame is None:
            return None
        parts = [pb.StreamNodePlanResponse.FromString(part).transaction for part in frame.parts()]
        [facts] = [part.node for part in parts if part.HasField("node")]
        return facts


@pytest.mark.parametrize(
    ("taints", "deleting", "eligible"),
    [
        ((), False, True),
        ((OTHER,), False, True),
        ((AUTOSCALER,), False, False),
        ((OTHER, AUTOSCALER), False, False),
        ((), True, False),
    ],
)
def test_row_146_a_node_about_to_go_is_not_eligible(taints: tuple[Taint, ...], deleting: bool, eligible: bool) -> None:
    facts = World(node("n", "192.168.0.2", taints=taints, deleting=deleting)).told()
    assert facts is not None
    assert facts.eligible is eligible


def test_row_146_a_taint_that_is_taken_away_is_told() -> None:
    world = World(node("n", "192.168.0.2", taints=(AUTOSCALER,)))
    world.told()
    world.change(node("n", "192.168.0.2"))
    facts = world.told()
    assert facts is not None
    assert facts.eligible


def test_new_addresses_and_pod_cidrs_are_told_at_once_and_nothing_else_is() -> None:
    world = World(node("n", "192.168.0.2", pod_cidrs=["10.0.0.0/24"]))
    world.told()
    world.change(node("n", "192.168.0.3", "192.168.0.2", pod_cidrs=["10.0.1.0/24"]))
    facts = world.told()
    assert facts is not None
    assert list(facts.addresses) == [parse_address("192.168.0.3"), parse_address("192.168.0.2")]
    assert [prefix.address for prefix in facts.pod_cidrs] == [parse_address("10.0.1.0")]
    world.change(node("n", "192.168.0.3", "192.168.0.2", pod_cidrs=["10.0.1.0/24"], labels={"a": "b"}))
    assert world.told() is None
