# SPDX-License-Identifier: Apache-2.0
"""The session of the planner and that of the enforcer, back to back without IO: one protocol, one digest."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_enforcer.core.plan_session import Commit, PlanSession, Programmed, Send
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_model.cluster import Change, ClusterPosition
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core import framing
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.node_session import NodeSession
from pointsman_planner.core.planner import Batch, Planner
from support.random_cluster import changes

NODE = "n1"


class Pair:
    """Both ends of one stream; every message travels as bytes."""

    def __init__(self, planner: Planner, store: PlanStore) -> None:
        self.store = store
        self.enforcer = PlanSession(hello=pb.Hello(node_name=NODE, instance_id="i"), store=store, now=0.0)
        (hello,) = self.enforcer.open(0.0)
        assert isinstance(hello, Send)
        message = decode_message(hello.message.SerializeToString())
        assert isinstance(message, Hello)
        self.planner: NodeSession = planner.open(message, now_ns=0)
        self._down(framing.welcome("p", 5.0))

    def _down(self, data: bytes) -> None:
        for action in self.enforcer.receive(pb.StreamNodePlanResponse.FromString(data), 0.0):
            assert isinstance(action, Commit), "the enforcer asks for a resync of an undisturbed stream"
            self._program(action)

    def _program(self, commit: Commit) -> None:
        assert commit.in_sync
        transaction = commit.transaction
        result = Programmed(
            nonce=transaction.nonce,
            position=transaction.position,
            digest=self.store.digest,
            programmed_digest=self.store.digest,
        )
        for action in self.enforcer.programmed(result, 0.0):
            assert isinstance(action, Send)
            self.planner.receive(decode_message(action.message.SerializeToString()), now_ns=0)

    def flow(self) -> None:
        while (frame := self.planner.next_transaction(now_ns=0)) is not None:
            for part in frame.parts():
                self._down(part)
        self._down(self.planner.heartbeat(now_ns=0))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(changes(), min_size=1, max_size=4), min_size=1, max_size=8), st.sets(st.integers(0, 7)))
def test_real_enforcer_follows_real_planner(batches: list[list[Change]], reconnects: set[int]) -> None:
    planner, store = Planner(), PlanStore()
    pair = Pair(planner, store)
    for number, batch in enumerate(batches):
        position = ClusterPosition(epoch="e", revision=number + 1)
        planner.apply(Batch(changes=tuple(batch), position=position))
        if number in reconnects:
            planner.close(pair.planner)
            pair = Pair(planner, store)
        pair.flow()
        assert pair.planner.is_converged
        assert store.digest == planner.digest(NODE)
        assert tuple(store.bucket_digests) == planner.buckets(NODE).sums
