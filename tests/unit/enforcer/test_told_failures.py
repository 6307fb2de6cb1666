# SPDX-License-Identifier: Apache-2.0
"""Each planner learns of every failure, whatever other planners were told and whatever it has forgotten since."""

from __future__ import annotations

import pytest

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_enforcer.core.messages import transaction_to_pb
from pointsman_enforcer.core.plan_session import FAILURES_PER_NACK, PlanSession, Programmed, Send
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.told_failures import Failure, ToldFailures
from pointsman_enforcer.core.transaction import Position, Stage, Transaction
from pointsman_model.digest import bucket_of
from support.enforcer_plans import FACTS, key

BAD = Failure(key=key(1), stage=Stage.APPLY, message="no")


def told(*transactions: Transaction) -> ToldFailures:
    book = ToldFailures()
    for each in transactions:
        book.committed(each)
    return book


def test_a_failure_is_told_once_and_so_is_its_end() -> None:
    book = told(Transaction(nonce=1, updates={key(1): b"x"}))
    assert book.news(1, [BAD]) == ([BAD], [])
    assert book.news(0, [BAD]) == ([], [])
    assert book.news(0, []) == ([], [key(1)])
    assert book.news(0, []) == ([], [])


def test_another_stage_is_news() -> None:
    book = told(Transaction(nonce=1))
    book.news(1, [BAD])
    worse = Failure(key=key(1), stage=Stage.DECODE, message="no")
    assert book.news(0, [worse]) == ([worse], [])


@pytest.mark.parametrize(
    "again",
    [
        Transaction(nonce=2, updates={key(1): b"x"}),
        Transaction(nonce=2, removals=(key(1),)),
        Transaction(nonce=2, replaced_buckets=frozenset({bucket_of(key(1))})),
        Transaction(nonce=2, replaces_all=True),
    ],
    ids=["update", "removal", "bucket", "everything"],
)
def test_a_failure_of_a_service_that_was_sent_again_is_told_again_with_the_answer(again: Transaction) -> None:
    book = told(Transaction(nonce=1), again)
    assert book.news(1, [BAD]) == ([BAD], [])
    assert book.news(2, [BAD]) == ([BAD], [])


def test_a_transaction_about_others_makes_nobody_forget() -> None:
    book = told(Transaction(nonce=1), Transaction(nonce=2, updates={key(2): b"x"}))
    book.news(1, [BAD])
    assert book.news(2, [BAD]) == ([], [])


def test_a_planner_that_waits_for_no_answer_fills_no_memory() -> None:
    book = told(*(Transaction(nonce=nonce, updates={key(1): b"x"}) for nonce in range(1, 1000)))
    assert len(book._unanswered) < 20
    assert book.news(1, [BAD]) == ([BAD], [])


def test_a_new_planner_hears_of_failures_that_another_one_was_told_of() -> None:
    store = PlanStore()
    for _ in ("the first planner", "the second one"):
        session = _synced(store)
        nack, ack = _messages(
            session, Programmed(nonce=1, position=Position(), digest=2, programmed_digest=1, failures=[BAD])
        )
        assert [each.message for each in nack.nack.failures] == ["no"]
        assert ack.ack.nonce == 1


def test_however_many_services_recover_each_is_named() -> None:
    session = _synced(PlanStore())
    count = 2 * FAILURES_PER_NACK + 1
    failures = [Failure(key=key(each), stage=Stage.APPLY, message="no") for each in range(count)]
    _messages(session, Programmed(nonce=1, position=Position(), digest=2, programmed_digest=1, failures=failures))
    acks = _messages(session, Programmed(nonce=0, position=Position(), digest=2, programmed_digest=1, failures=[BAD]))
    names = {name.name for each in acks for name in each.ack.recovered}
    assert names == {each.key.name for each in failures if each.key != BAD.key}


def _synced(store: PlanStore) -> PlanSession:
    session = PlanSession(hello=pb.Hello(node_name="node-1"), store=store, now=0.0)
    session.open(0.0)
    session.receive(pb.StreamNodePlanResponse(welcome=pb.Welcome(planner_id="p")), 0.0)
    first = Transaction(nonce=1, facts=FACTS, digest=store.digest, in_sync=True)
    session.receive(pb.StreamNodePlanResponse(transaction=transaction_to_pb(first)), 0.0)
    return session


def _messages(session: PlanSession, result: Programmed) -> list[pb.StreamNodePlanRequest]:
    return [each.message for each in session.programmed(result, 1.0) if isinstance(each, Send)]
