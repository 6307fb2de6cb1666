# SPDX-License-Identifier: Apache-2.0
"""How long changes took: counted to each node's ack, bounded whatever happens."""

from pointsman_model.cluster import ClusterPosition
from pointsman_model.names import ServiceKey
from pointsman_planner.core.messages import Failure, FailureStage
from pointsman_planner.core.recent_changes import CHANGES_MAX, FOLLOWED_MAX, Percentiles, RecentChanges, percentiles
from pointsman_planner.core.status import NodeState, NodeStatus

WEB = ServiceKey("shop", "web")


def at(revision: int, *, overrides: int = 0) -> ClusterPosition:
    return ClusterPosition(epoch="e", revision=revision, overrides=overrides)


def status(
    name: str, state: NodeState, revision: int = 0, *, overrides: int = 0, failures: tuple[Failure, ...] = ()
) -> NodeStatus:
    return NodeStatus(name=name, state=state, programmed=at(revision, overrides=overrides), failures=failures)


def test_a_change_lasts_until_the_last_node_has_it() -> None:
    recent = RecentChanges()
    recent.begun([WEB], ["a", "b", "c"], position=at(5), now_ns=1_000)
    recent.told(status("a", NodeState.SYNCED), now_ns=1_010)
    recent.told(status("b", NodeState.STALE, 4), now_ns=1_015)
    (change,) = recent.since(0)
    assert (change.waiting, change.taken.longest) == ({"b", "c"}, 10)
    assert recent.latency() == Percentiles()
    recent.told(status("b", NodeState.STALE, 6), now_ns=1_020)
    recent.told(status("c", NodeState.SYNCED), now_ns=1_040)
    assert (change.waiting, change.is_followed, change.taken) == (set(), False, Percentiles(20, 40, 40, 40))
    assert recent.latency().p99 == 40


def test_a_position_with_other_overrides_proves_nothing() -> None:
    recent = RecentChanges()
    recent.begun([WEB], ["a"], position=at(5, overrides=7), now_ns=0)
    recent.told(status("a", NodeState.STALE, 5), now_ns=10)
    assert recent.since(0)[0].waiting == {"a"}
    recent.told(status("a", NodeState.STALE, 5, overrides=7), now_ns=20)
    assert not recent.since(0)[0].waiting


def test_nodes_that_refuse_or_leave_are_counted_and_not_timed() -> None:
    recent = RecentChanges()
    recent.begun([WEB], ["a", "b"], position=at(5), now_ns=0)
    refused = (Failure(service=WEB, stage=FailureStage.APPLY, message="no"),)
    for _ in range(2):
        recent.told(status("a", NodeState.NACKED, 5, failures=refused), now_ns=5)
    recent.told(status("b", NodeState.DISCONNECTED), now_ns=9)
    (change,) = recent.since(0)
    assert (change.refused, change.left, change.waiting, change.taken) == (1, 1, {"a"}, Percentiles())


def test_only_what_was_learnt_since_is_told() -> None:
    recent = RecentChanges()
    recent.begun([WEB], ["a"], position=at(1), now_ns=0)
    recent.begun([WEB], ["b"], position=at(2), now_ns=0)
    seen = recent.version
    assert recent.since(seen) == []
    recent.told(status("b", NodeState.SYNCED), now_ns=3)
    assert [change.number for change in recent.since(seen)] == [2]


def test_a_thousand_changes_that_nobody_acknowledges_stay_bounded() -> None:
    recent = RecentChanges()
    for number in range(1000):
        recent.begun([WEB] * 10, ["a"], position=at(number), now_ns=0)
    changes = recent.since(0)
    assert len(changes) == CHANGES_MAX
    assert sum(change.is_followed for change in changes) == FOLLOWED_MAX
    assert (len(changes[-1].services), changes[-1].services_total) == (3, 10)


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    assert percentiles(range(1, 101)) == Percentiles(50, 90, 99, 100)
    assert percentiles([7]) == Percentiles(7, 7, 7, 7)
    assert percentiles([]) == Percentiles()
