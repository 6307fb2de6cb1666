# SPDX-License-Identifier: Apache-2.0
"""While a node has two streams, each is owed the answer to its own transactions, whichever comes last."""

from __future__ import annotations

from pointsman_chassis.clock import VirtualClock
from pointsman_enforcer.core.plan_session import Commit, Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Position, Transaction
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.change import NftChange
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.reconciler import Reconciler
from pointsman_enforcer.dataplane.work import Pending, Tally
from pointsman_model.names import ServiceKey
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_plans import FACTS, digest_of, key, numbered
from support.fake_nftables import FakeNftables


def test_an_answer_is_owed_to_the_last_transaction_of_each_stream() -> None:
    pending = Pending(stream="old", nonce=7, position=Position("e", 1))
    pending.take_over("new")
    pending.nonce, pending.position = 1, Position("e", 2)
    pending.take_over("old")
    pending.nonce, pending.position = 8, Position("e", 3)
    assert (pending.stream, pending.nonce) == ("old", 8)
    assert pending.others == {"new": (1, Position("e", 2))}


def test_what_a_failed_sync_left_unsaid_is_said_with_the_next_unless_there_is_newer() -> None:
    asked = Pending(stream="old", nonce=7, position=Position("e", 1))
    asked.take_over("new")
    asked.nonce, asked.position = 1, Position("e", 2)
    newer = Pending(stream="new", nonce=2, position=Position("e", 3))
    newer.include(asked)
    assert (newer.stream, newer.nonce) == ("new", 2)
    assert newer.others == {"old": (7, Position("e", 1))}


async def test_one_sync_answers_both_streams() -> None:
    store, reports = PlanStore(), list[tuple[Pending, Programmed]]()

    def synced(pending: Pending, programmed: Programmed, _: Tally) -> None:
        reports.append((pending, programmed))

    reconciler: Reconciler[NftChange] = Reconciler(
        dataplane=NftablesDataplane(node_settings=NodeSettings(), kernel=FakeNftables()),
        store=store,
        clock=VirtualClock(),
        on_synced=synced,
    )
    held: dict[ServiceKey, bytes] = {}
    for stream, nonce, index in (("old", 5, 1), ("new", 1, 2)):
        updates = {key(index): encode_service_plan(numbered(index))}
        held |= updates
        transaction = Transaction(
            nonce=nonce, position=Position(stream, nonce), updates=updates, facts=FACTS, digest=digest_of(held)
        )
        changes = tuple(store.apply(transaction))
        reconciler.commit(Commit(transaction, changes, False), stream=stream, received_at=0.0, received_ns=0)
    await reconciler.run()
    [(pending, programmed)] = reports
    assert (pending.stream, programmed.nonce) == ("new", 1)
    assert pending.others == {"old": (5, Position("old", 5))}
    assert programmed.digest == programmed.programmed_digest == store.digest
