# SPDX-License-Identifier: Apache-2.0
"""The stream's rules from the enforcer's side."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_enforcer.core.errors import PlanProtocolError
from pointsman_enforcer.core.messages import transaction_to_pb
from pointsman_enforcer.core.plan_session import Commit, GiveUp, PlanSession, Programmed, Send
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.told_failures import Failure
from pointsman_enforcer.core.transaction import Position, Stage, Transaction
from pointsman_model.digest import bucket_of
from pointsman_model.names import ServiceKey
from pointsman_model.wire.plan import node_facts_to_pb
from support.enforcer_plans import FACTS, digest_of, key


def response(part: pb.Transaction) -> pb.StreamNodePlanResponse:
    return pb.StreamNodePlanResponse(transaction=part)


def welcome(interval_seconds: float = 10.0) -> pb.StreamNodePlanResponse:
    message = pb.StreamNodePlanResponse()
    message.welcome.planner_id = "planner-1"
    message.welcome.heartbeat_interval.FromNanoseconds(round(interval_seconds * 1e9))
    return message


def opened(store: PlanStore | None = None, *, interval_seconds: float = 10.0) -> PlanSession:
    session = PlanSession(hello=pb.Hello(node_name="node-1"), store=PlanStore() if store is None else store, now=0.0)
    session.open(0.0)
    session.receive(welcome(interval_seconds), 0.0)
    return session


def first(plans: dict[ServiceKey, bytes], **changes: object) -> pb.Transaction:
    part = transaction_to_pb(
        Transaction(
            nonce=1,
            position=Position("e", 1),
            updates=plans,
            replaces_all=True,
            facts=FACTS,
            digest=digest_of(plans),
            in_sync=True,
        )
    )
    for name, value in changes.items():
        setattr(part, name, value)
    return part


def test_hello_comes_first_and_says_what_is_held() -> None:
    store = PlanStore()
    store.apply(Transaction(nonce=1, position=Position("e", 7), updates={key(1): b"x"}))
    session = PlanSession(hello=pb.Hello(node_name="node-1"), store=store, now=0.0)
    [action] = session.open(0.0)
    assert isinstance(action, Send)
    hello = action.message.hello
    assert (hello.node_name, hello.position.epoch, hello.position.revision) == ("node-1", "e", 7)
    assert tuple(hello.bucket_digests) == store.bucket_digests
    assert sum(hello.bucket_digests) == store.digest


def test_nothing_but_a_welcome_may_come_first() -> None:
    session = PlanSession(hello=pb.Hello(), store=PlanStore(), now=0.0)
    session.open(0.0)
    with pytest.raises(PlanProtocolError, match="not a welcome"):
        session.receive(response(first({})), 0.0)


def test_parts_become_one_transaction_only_on_commit() -> None:
    plans = {key(1): b"one", key(2): b"two"}
    session = opened(store := PlanStore())
    head, tail = first({key(1): b"one"}, commit=False), first({key(2): b"two"}, part=1, digest=digest_of(plans))
    assert session.receive(response(head), 1.0) == []
    assert len(store) == 0
    [commit] = session.receive(response(tail), 1.0)
    assert isinstance(commit, Commit)
    assert commit.in_sync
    assert [change.key for change in commit.changes] == [key(1), key(2)]
    assert store.facts == FACTS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"part": 1}, "part 1 came where 0 was due"),
        ({"nonce": 0}, "comes after transaction 0"),
        ({"replaced_buckets": 1024}, "bucket 1024"),
        ({"removals": "default/svc-1"}, "twice"),
        ({"removals": "default/"}, "not a namespace or name"),
        ({"removals": "de\x00fault/x"}, "not a namespace or name"),
        ({"node": b"\x01\x02\x03"}, "node.addresses"),
        ({"facts": None}, "the first one carries the facts"),
    ],
)
def test_a_broken_rule_ends_the_stream_and_changes_nothing(change: dict[str, object], words: str) -> None:
    part = first({key(1): b"one"})
    for name, value in change.items():
        if name == "replaced_buckets":
            part.replaced_buckets.append(1024)
        elif name == "removals":
            namespace, _, service = str(value).partition("/")
            part.removals.add(namespace=namespace, name=service)
        elif name == "node":
            part.node.addresses[:] = [b"\x01\x02\x03"]
        elif name == "facts":
            part.ClearField("node")
        else:
            setattr(part, name, value)
    session = opened(store := PlanStore())
    with pytest.raises(PlanProtocolError, match=words):
        session.receive(response(part), 1.0)
    assert len(store) == 0


def test_transactions_may_not_interleave() -> None:
    session = opened()
    session.receive(response(first({}, commit=False)), 1.0)
    with pytest.raises(PlanProtocolError, match="begins before transaction 1 is complete"):
        session.receive(response(first({}, nonce=2)), 1.0)


def test_a_wrong_digest_asks_for_what_differs_and_is_not_in_sync() -> None:
    session = opened(store := PlanStore())
    commit, resync = session.receive(response(first({key(1): b"one"}, digest=12345)), 1.0)
    assert isinstance(commit, Commit)
    assert isinstance(resync, Send)
    assert not commit.in_sync
    assert not session.is_in_sync
    assert tuple(resync.message.resync.bucket_digests) == store.bucket_digests
    assert store.get(key(1)) == b"one", "what a transaction names is certain"


def test_a_planner_that_never_agrees_is_left_after_a_few_resyncs() -> None:
    session = opened()
    for nonce in range(1, 4):
        session.receive(response(first({}, nonce=nonce, digest=1)), 1.0)
    commit, end = session.receive(response(first({key(1): b"one"}, nonce=4, digest=1)), 1.0)
    assert isinstance(commit, Commit), "what it changed is in the plan held and has to be programmed"
    assert [change.key for change in commit.changes] == [key(1)]
    assert isinstance(end, GiveUp)
    assert "after 3 resyncs" in str(end.error)


def test_failures_are_sent_before_the_ack_that_covers_them() -> None:
    session = opened()
    session.receive(response(first({key(1): b"one"})), 1.0)
    failure = Failure(key=key(1), stage=Stage.UNSUPPORTED, message="no")
    nack, ack = session.programmed(
        Programmed(nonce=1, position=Position("e", 1), digest=5, programmed_digest=3, failures=(failure,)), 2.0
    )
    assert isinstance(nack, Send)
    assert isinstance(ack, Send)
    assert nack.message.nack.failures[0].stage == pb.ServiceFailure.STAGE_UNSUPPORTED
    assert (ack.message.ack.nonce, ack.message.ack.digest, ack.message.ack.programmed_digest) == (1, 5, 3)
    assert ack.message.ack.level == pb.ACK_LEVEL_PROGRAMMED


def test_a_nonce_that_was_never_received_is_our_own_bug() -> None:
    with pytest.raises(ValueError, match="nonce 9"):
        opened().programmed(Programmed(nonce=9, position=Position(), digest=0, programmed_digest=0), 1.0)


def test_many_failures_are_split_over_messages() -> None:
    session = opened()
    session.receive(response(first({})), 1.0)
    failures = tuple(Failure(key=key(each), stage=Stage.DECODE, message="x" * 5000) for each in range(1201))
    actions = session.programmed(
        Programmed(nonce=1, position=Position(), digest=0, programmed_digest=0, failures=failures), 1.0
    )
    sizes = [action.message.ByteSize() for action in actions if isinstance(action, Send)]
    assert len(sizes) == 4
    assert max(sizes) < 1 << 20


def test_heartbeats_fill_silence_and_three_silent_intervals_end_the_stream() -> None:
    session = opened(interval_seconds=2.0)
    assert session.tick(1.9) == []
    [beat] = session.tick(2.0)
    assert isinstance(beat, Send)
    assert beat.message.HasField("heartbeat")
    assert session.tick(3.9) == []
    session.receive(pb.StreamNodePlanResponse(heartbeat=pb.Heartbeat()), 5.0)
    session.tick(10.9)
    with pytest.raises(PlanProtocolError, match="silent for 6"):
        session.tick(11.0)


def test_two_fields_in_one_message_are_refused() -> None:
    message = welcome()
    message.heartbeat.SetInParent()
    session = PlanSession(hello=pb.Hello(), store=PlanStore(), now=0.0)
    session.open(0.0)
    with pytest.raises(PlanProtocolError, match="exactly one"):
        session.receive(message, 0.0)


def test_a_message_of_a_kind_that_only_newer_planners_know_is_passed_over() -> None:
    session = opened()
    assert session.receive(pb.StreamNodePlanResponse.FromString(b"\xc2\x3e\x03abc"), 1.0) == []
    assert session.receive(response(first({key(1): b"x"})), 1.0) != []


names = st.integers(0, 11).map(key)
states = st.dictionaries(names, st.binary(max_size=4), max_size=8)


@settings(max_examples=200)
@given(data=st.data(), history=st.lists(states, min_size=1, max_size=6))
def test_any_correct_planner_brings_the_enforcer_to_its_state(
    data: st.DataObject, history: list[dict[ServiceKey, bytes]]
) -> None:
    """A model planner sends each state as a delta, as replaced buckets or as a whole, in parts of any size."""
    session = opened(store := PlanStore())
    held: dict[ServiceKey, bytes] = {}
    for nonce, state in enumerate(history, start=1):
        how = data.draw(st.sampled_from(("delta", "buckets", "all"))) if nonce > 1 else "all"
        changed = {name: plan for name, plan in state.items() if held.get(name) != plan}
        gone = [name for name in held if name not in state]
        buckets = {bucket_of(name) for name in (*changed, *gone)}
        updates = {
            "delta": changed,
            "buckets": {name: plan for name, plan in state.items() if bucket_of(name) in buckets},
            "all": state,
        }[how]
        parts = data.draw(st.integers(1, 3))
        items = list(updates.items())
        actions = []
        for part in range(parts):
            message = pb.Transaction(nonce=nonce, part=part, commit=part == parts - 1)
            for name, plan in items[part::parts]:
                message.updates.add(plan=plan).name.MergeFrom(pb.ServiceUpdate(name=_named(name)).name)
            if message.commit:
                message.digest, message.in_sync = digest_of(state), True
                message.replaces_all = how == "all"
                message.replaced_buckets.extend(sorted(buckets) if how == "buckets" else ())
                message.removals.extend(_named(name) for name in gone if how == "delta")
                message.node.CopyFrom(node_facts_to_pb(FACTS))
            actions = session.receive(response(message), 1.0)
        [commit] = actions
        assert isinstance(commit, Commit)
        assert commit.in_sync
        assert {name: store.get(name) for name in store} == state
        assert store.digest == digest_of(state)
        assert {change.key for change in commit.changes} == {
            name for name in {*held, *state} if held.get(name) != state.get(name)
        }
        held = state


def _named(name: ServiceKey) -> object:
    update = pb.ServiceUpdate()
    update.name.namespace, update.name.name = name
    return update.name


@given(noise=st.binary(max_size=200))
def test_noise_never_changes_what_is_held(noise: bytes) -> None:
    session = opened(store := PlanStore())
    session.receive(response(first({key(1): b"one"})), 1.0)
    with contextlib.suppress(PlanProtocolError, DecodeError):
        session.receive(pb.StreamNodePlanResponse.FromString(noise), 2.0)
    assert store.get(key(1)) == b"one"
