# SPDX-License-Identifier: Apache-2.0
"""What state a node is in, and why in words: with a stream here, and from what another planner recorded."""

from dataclasses import replace

import pytest

from pointsman_model.cluster import Change, ClusterPosition, key_of
from pointsman_model.names import ServiceKey
from pointsman_planner.core.messages import Ack, AckLevel, Failure, FailureStage, Hello, Nack
from pointsman_planner.core.node_session import NodeSession
from pointsman_planner.core.planner import Batch, Planner
from pointsman_planner.core.standing import (
    Patience,
    Standings,
    Viewpoint,
    connected_status,
    disconnected_status,
    recorded_status,
)
from pointsman_planner.core.status import NodeState, NodeStatus
from support.cluster_objects import service

SECOND = 1_000_000_000
PATIENCE = Patience(heartbeat_seconds=5.0)
WEB = service("shop/web", "10.96.0.1", ports=["p:80"])


def planner() -> Planner:
    made = Planner()
    batch = Batch(changes=(Change(key=key_of(WEB), value=WEB),), position=ClusterPosition(epoch="e", revision=1))
    made.apply(batch)
    return made


def connected(made: Planner) -> NodeSession:
    return made.open(Hello(node_name="n", bucket_digests=(0,) * 1024), now_ns=0)


def standing(made: Planner, session: NodeSession, seconds: float) -> tuple[NodeState, str]:
    now_ns = round(seconds * SECOND)
    status = connected_status(session, made, planner_id="p", now_ns=now_ns, patience=PATIENCE)
    return status.state, status.reason


def acknowledge(made: Planner, session: NodeSession, seconds: float, level: AckLevel = AckLevel.PROGRAMMED) -> None:
    digest = made.digest("n")
    ack = Ack(nonce=1, level=level, digest=digest, programmed_digest=digest)
    session.receive(ack, now_ns=round(seconds * SECOND))


def test_the_way_of_a_node_from_hello_to_synced() -> None:
    made = planner()
    session = connected(made)
    assert standing(made, session, 2) == (
        NodeState.STALE,
        "connected 2.0 s ago, its first transaction is still to be sent",
    )
    session.next_transaction(now_ns=2 * SECOND)
    assert standing(made, session, 2.3) == (NodeState.STALE, "transaction 1 sent 0.3 s ago is not acknowledged")
    acknowledge(made, session, 3, AckLevel.RECEIVED)
    assert standing(made, session, 4)[1] == "transaction 1 sent 2.0 s ago is received and not programmed yet"
    acknowledge(made, session, 5)
    assert standing(made, session, 6) == (NodeState.SYNCED, "")


@pytest.mark.parametrize(("is_received", "patience_seconds"), [(False, 10), (True, 30)])
def test_an_ack_that_does_not_come_makes_a_node_unresponsive(is_received: bool, patience_seconds: float) -> None:
    made = planner()
    session = connected(made)
    session.next_transaction(now_ns=0)
    if is_received:
        acknowledge(made, session, 0, AckLevel.RECEIVED)
    session.last_heard_ns = round(patience_seconds * SECOND)
    assert standing(made, session, patience_seconds)[0] is NodeState.STALE
    state, reason = standing(made, session, patience_seconds + 2)
    assert (state, reason.startswith("acks late: transaction 1 sent ")) == (NodeState.UNRESPONSIVE, True)


def test_a_node_that_says_nothing_is_unresponsive_though_it_is_synced() -> None:
    made = planner()
    session = connected(made)
    session.next_transaction(now_ns=0)
    acknowledge(made, session, 1)
    assert standing(made, session, 11) == (NodeState.SYNCED, "")
    assert standing(made, session, 12) == (
        NodeState.UNRESPONSIVE,
        "silent: nothing was heard for 11 s; heartbeats are due every 5 s",
    )


def test_refusals_are_named_with_the_first_reason() -> None:
    made = planner()
    session = connected(made)
    session.next_transaction(now_ns=0)
    failures = tuple(
        Failure(service=ServiceKey("shop", name), stage=FailureStage.APPLY, message="no room")
        for name in ("web", "api")
    )
    session.receive(Nack(nonce=1, failures=failures), now_ns=0)
    session.receive(Ack(nonce=1, level=AckLevel.PROGRAMMED, digest=made.digest("n"), programmed_digest=1), now_ns=0)
    assert standing(made, session, 1) == (
        NodeState.NACKED,
        "2 services refused, the first: shop/web: apply: no room",
    )


RECORD = NodeStatus(
    name="n", state=NodeState.SYNCED, planner_id="other", programmed_digest=7, since_ns=5, last_seen_ns=100 * SECOND
)
VIEW = Viewpoint(planner_id="p", position=ClusterPosition(epoch="e", revision=9), patience=PATIENCE)


def judged(record: NodeStatus | None, digest: int = 7, view: Viewpoint = VIEW) -> NodeStatus:
    return recorded_status("n", record, digest, view)


def test_a_record_is_judged_by_what_is_wanted_here() -> None:
    synced = judged(RECORD)
    assert (synced.state, synced.programmed, synced.since_ns) == (NodeState.SYNCED, VIEW.position, 5)
    other = judged(RECORD, digest=8)
    assert (other.state, other.desired_digest, other.since_ns) == (NodeState.STALE, 8, 0)
    assert other.reason.startswith("other calls it synced at ")
    behind = replace(RECORD, state=NodeState.STALE, reason="transaction 4 sent 0.1 s ago is not acknowledged")
    assert judged(behind).state is NodeState.SYNCED, "what it is behind of has not come here yet"
    assert judged(behind, digest=8).reason == behind.reason


@pytest.mark.parametrize("state", [NodeState.NACKED, NodeState.UNRESPONSIVE])
def test_trouble_that_its_planner_sees_is_trouble_whatever_the_digest(state: NodeState) -> None:
    assert judged(replace(RECORD, state=state, reason="why")).reason == "why"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (None, "never connected"),
        (replace(RECORD, age_ns=36 * SECOND), "unknown: other has not reported it for 36 s"),
        (replace(RECORD, planner_id="p"), "disconnected: it has not come back since this planner lost it"),
        (disconnected_status(RECORD, "closed by the enforcer", now_ns=9), "disconnected: closed by the enforcer"),
    ],
)
def test_a_node_that_nobody_speaks_for_is_disconnected_with_the_reason(record: NodeStatus | None, reason: str) -> None:
    status = judged(record)
    assert (status.state, status.reason) == (NodeState.DISCONNECTED, reason)


def test_without_the_store_nobody_knows_and_that_is_said() -> None:
    assert judged(None, view=replace(VIEW, is_store_available=False)).reason.startswith("unknown: ")


def test_a_state_begins_when_the_node_was_given_something_to_do() -> None:
    held = Standings()
    assert held.since_ns("n", NodeState.SYNCED, 10) == 10
    held.fell_behind("n", 20)
    held.fell_behind("n", 25)
    assert held.since_ns("n", NodeState.STALE, 30) == 20
    assert held.since_ns("n", NodeState.UNRESPONSIVE, 40) == 40
    held.fell_behind("n", 50)
    assert held.since_ns("n", NodeState.UNRESPONSIVE, 60) == 40
    held.forget("n")
    assert held.state("n") is None
