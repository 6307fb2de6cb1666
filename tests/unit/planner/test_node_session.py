# SPDX-License-Identifier: Apache-2.0
"""The session against a model enforcer: whatever the interleaving, both end with one plan."""

from collections import deque

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.cluster import Change, ClusterPosition
from pointsman_model.wire.plan import encode_service_plan
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.node_plan import plan
from pointsman_planner.core.node_session import WINDOW, NodeSession
from pointsman_planner.core.planner import Batch, Planner
from support.model_enforcer import ModelEnforcer
from support.random_cluster import NODES, changes


class Link:
    """A stream: both directions keep order and may be late."""

    def __init__(self, planner: Planner, enforcer: ModelEnforcer) -> None:
        hello = decode_message(enforcer.hello().SerializeToString())
        assert isinstance(hello, Hello)
        self.planner, self.enforcer = planner, enforcer
        self.session: NodeSession = planner.open(hello, now_ns=0)
        self.down: deque[bytes] = deque()
        self.up: deque[bytes] = deque()
        self.is_damaged = False
        """The enforcer lost a service and the planner has not made up for it yet."""

    def write(self) -> None:
        frame = self.session.next_transaction(now_ns=0)
        if frame is not None:
            self.down.extend(frame.parts())

    def deliver_down(self, *, acks: bool = True) -> None:
        if self.down:
            nonce = self.enforcer.receive(self.down.popleft())
            if nonce is None:
                return
            if self.enforcer.agrees:
                self.is_damaged = False
            else:
                assert self.is_damaged, "the planner's digest is not what its own transactions lead to"
                self.send(self.enforcer.resync())
            if acks:
                self.send(self.enforcer.ack(nonce))

    def send(self, message: pb.StreamNodePlanRequest) -> None:
        self.up.append(message.SerializeToString())

    def deliver_up(self) -> None:
        if self.up:
            self.session.receive(decode_message(self.up.popleft()), now_ns=0)

    def settle(self) -> None:
        for _ in range(1000):
            self.write()
            if not (self.down or self.up):
                return
            while self.down:
                self.deliver_down()
            while self.up:
                self.deliver_up()
        raise AssertionError("planner and enforcer never come to rest")


class Streams(RuleBasedStateMachine):
    """Random changes, late acks, resyncs, lost plans and reconnects with stale buckets."""

    @initialize()
    def start(self) -> None:
        self.planner = Planner()
        self.revision = 0
        self.links = {name: Link(self.planner, ModelEnforcer(name)) for name in (*NODES, "unknown-node")}

    @rule(batch=st.lists(changes(), min_size=1, max_size=4))
    def change(self, batch: list[Change]) -> None:
        self.revision += 1
        position = ClusterPosition(epoch="e", revision=self.revision)
        self.planner.apply(Batch(changes=tuple(batch), position=position))

    @rule(name=st.sampled_from([*NODES, "unknown-node"]), steps=st.integers(1, 4))
    def write(self, name: str, steps: int) -> None:
        for _ in range(steps):
            self.links[name].write()

    @rule(name=st.sampled_from(NODES), acks=st.booleans())
    def arrive(self, name: str, acks: bool) -> None:
        self.links[name].deliver_down(acks=acks)

    @rule(name=st.sampled_from(NODES))
    def answer(self, name: str) -> None:
        self.links[name].deliver_up()

    @rule(name=st.sampled_from(NODES))
    def lose_a_service(self, name: str) -> None:
        enforcer = self.links[name].enforcer
        if enforcer.plans:
            del enforcer.plans[min(enforcer.plans)]
            self.links[name].is_damaged = True
            self.links[name].send(enforcer.resync())

    @rule(name=st.sampled_from(NODES))
    def reconnect(self, name: str) -> None:
        old = self.links[name]
        self.planner.close(old.session)
        self.links[name] = Link(self.planner, old.enforcer)

    @rule(name=st.sampled_from(NODES))
    def take_over(self, name: str) -> None:
        old = self.links[name]
        self.links[name] = Link(self.planner, old.enforcer)
        assert old.session.superseded
        self.planner.close(old.session)

    @rule(name=st.sampled_from(NODES))
    def spontaneous_heartbeat(self, name: str) -> None:
        self.links[name].send(self.links[name].enforcer.heartbeat())

    @invariant()
    def back_pressure_is_bounded(self) -> None:
        for link in getattr(self, "links", {}).values():
            assert link.session.in_flight <= WINDOW
            assert link.session.pending_services <= 4
            if not self.planner.is_in_sync:
                assert not link.down

    def teardown(self) -> None:
        if not getattr(self, "planner", None):
            return
        self.change([])
        for name, link in self.links.items():
            link.settle()
            link.send(link.enforcer.ack(link.enforcer.nonce))  # acks that were never sent are made up for: cumulative
            link.settle()
            wanted = {
                key: encode_service_plan(value) for key, value in plan(name, self.planner.cluster).services.items()
            }
            assert link.enforcer.plans == wanted
            assert link.enforcer.digest == self.planner.digest(name)
            assert link.enforcer.in_sync
            assert link.session.is_converged
            assert not link.session.has_pending


TestStreams = Streams.TestCase
TestStreams.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
