# SPDX-License-Identifier: Apache-2.0
"""When a node counts as having something: by digest, by position, and what keeps it from counting."""

from dataclasses import replace

import pytest

from pointsman_model.cluster import ClusterPosition, ResourceVersions
from pointsman_model.names import ServiceKey
from pointsman_planner.core.convergence import NO_SUCH_NODE, Convergence, Quorum, Target
from pointsman_planner.core.messages import AckLevel, Failure, FailureStage
from pointsman_planner.core.reached import Reached
from pointsman_planner.core.status import NodeState, NodeStatus

WEB, API = ServiceKey("shop", "web"), ServiceKey("shop", "api")


def at(revision: int, epoch: str = "e", services: int = 0, overrides: int = 0) -> ClusterPosition:
    versions = ResourceVersions(services=services)
    return ClusterPosition(epoch=epoch, revision=revision, resource_versions=versions, overrides=overrides)


def refused(service: ServiceKey) -> Failure:
    return Failure(service=service, stage=FailureStage.APPLY, message="no such thing")


def node(
    name: str = "a",
    *,
    wanted: int = 100,
    has: int = 0,
    programmed: ClusterPosition | None = None,
    state: NodeState = NodeState.STALE,
    failures: tuple[Failure, ...] = (),
) -> NodeStatus:
    return NodeStatus(
        name=name,
        state=state,
        desired_digest=wanted,
        programmed_digest=has,
        programmed=programmed or at(1),
        failures=failures,
        reason="on its way",
        since_ns=5,
    )


def waiting(
    target: Target, *names: str, quorum: Quorum | None = None, here: ClusterPosition | None = None
) -> Convergence:
    made = Convergence(target, quorum or Quorum(), names or ("a",))
    made.planner_at(here or target.position)
    return made


def has_it(made: Convergence, status: NodeStatus) -> bool:
    made.take(status)
    return status.name not in made.waiting


NOW = Target(position=at(5))


def test_a_node_whose_digest_is_what_is_wanted_has_it_whatever_its_position() -> None:
    assert has_it(waiting(NOW), node(has=100, programmed=at(1)))


def test_a_node_counts_by_what_was_wanted_at_any_moment_since() -> None:
    made = waiting(NOW)
    assert not has_it(made, node(wanted=100))
    made.planner_at(at(6))
    assert not has_it(made, node(wanted=101, has=99))
    assert has_it(made, node(wanted=102, has=100)), "it came to what was wanted two changes ago"


def test_what_was_wanted_before_the_target_was_reached_here_does_not_count() -> None:
    made = waiting(Target(position=at(5)), here=at(4))
    assert not has_it(made, node(wanted=100, has=100))
    made.planner_at(at(5))
    assert not has_it(made, node(wanted=101, has=100))
    assert has_it(made, node(wanted=101, has=101))


def test_under_churn_a_node_counts_by_the_position_it_acknowledged() -> None:
    made = waiting(NOW)
    for revision in range(6, 200):
        made.planner_at(at(revision))
        behind = node(wanted=revision * 7, has=10_000 + revision, programmed=at(min(revision - 3, 4)))
        assert not has_it(made, behind)
    assert has_it(made, node(wanted=9999, has=3, programmed=at(5)))


def test_positions_of_planners_with_other_watchers_are_compared_by_resource_versions() -> None:
    target = Target(position=at(5, services=70))
    assert not has_it(waiting(target), node(programmed=at(900, "other", services=69)))
    assert has_it(waiting(target), node(programmed=at(2, "other", services=70)))
    assert not has_it(waiting(Target(position=at(5))), node(programmed=at(900, "other")))


def test_a_position_with_other_overrides_does_not_count() -> None:
    made = waiting(Target(position=at(5, overrides=1)))
    assert not has_it(made, node(programmed=at(5, overrides=0)))
    assert not has_it(made, node(programmed=at(9, overrides=2)))
    made.planner_at(at(5, overrides=2))
    assert has_it(made, node(programmed=at(9, overrides=2))), "later overrides of this planner include the earlier"
    of_api_server = Target(position=at(5, overrides=1), is_of_api_server=True)
    assert has_it(waiting(of_api_server), node(programmed=at(5, overrides=3)))


def test_a_refused_service_keeps_a_node_from_counting_only_where_the_target_is_about_it() -> None:
    nacked = node(programmed=at(9), failures=(refused(API),), state=NodeState.NACKED)
    assert has_it(waiting(Target(position=at(5), service=WEB)), nacked)
    for service in (API, None):
        made = waiting(Target(position=at(5), service=service))
        assert not has_it(made, nacked)
        (laggard,) = made.decision().laggards
        assert laggard.reason == "refused shop/api: apply: no such thing"


def test_a_node_that_refused_more_than_is_remembered_is_not_believed() -> None:
    many = tuple(refused(ServiceKey("shop", f"s{n}")) for n in range(1000))
    assert not has_it(waiting(Target(position=at(5), service=WEB)), node(programmed=at(9), failures=many))


def test_a_disconnected_node_proves_nothing_new_and_loses_nothing_it_proved() -> None:
    made = waiting(NOW, "a", "b")
    assert not has_it(made, node("a", has=100, programmed=at(9), state=NodeState.DISCONNECTED))
    assert has_it(made, node("b", has=100))
    made.take(node("b", wanted=7, has=100, state=NodeState.DISCONNECTED))
    assert made.decision().reached == 1


def test_a_node_that_never_acknowledged_anything_has_nothing_even_if_the_numbers_agree() -> None:
    assert not has_it(waiting(NOW), node(wanted=0, has=0, programmed=ClusterPosition()))


@pytest.mark.parametrize("level", [AckLevel.RECEIVED, AckLevel.VERIFIED])
def test_other_levels_count_by_their_own_acknowledgements(level: AckLevel) -> None:
    target = replace(NOW, level=level)
    synced = node(has=100, state=NodeState.SYNCED)
    made = waiting(target)
    assert not has_it(made, synced)
    assert level.name.lower() in made.decision().laggards[0].reason
    assert has_it(waiting(target), replace(synced, reached=(Reached(level=level, position=at(1), digest=100),)))
    assert has_it(waiting(target), replace(synced, reached=(Reached(level=level, position=at(5), digest=1),)))


def test_a_planner_that_has_not_read_the_target_says_so_for_every_node() -> None:
    made = waiting(Target(position=at(0, "", services=70)), "a", "b", here=at(3, services=69))
    made.take(node("a", has=100, state=NodeState.SYNCED))
    made.take(node("b"))
    reasons = {laggard.reason for laggard in made.decision().laggards}
    assert reasons == {
        "this planner has not read it from the API server yet; it is at e/3 (resource versions: services 69)"
    }
    made.planner_at(at(4, services=70))
    assert has_it(made, node("a", has=100))


@pytest.mark.parametrize(
    ("quorum", "needed"),
    [
        (Quorum(), 7),
        (Quorum(count=3), 3),
        (Quorum(count=9), 7),
        (Quorum(percent=50), 4),
        (Quorum(percent=1), 1),
        (Quorum(percent=100), 7),
    ],
)
def test_a_quorum_is_a_number_or_a_share_rounded_up(quorum: Quorum, needed: int) -> None:
    names = [f"n{index}" for index in range(7)]
    made = waiting(NOW, *names, quorum=quorum)
    for index, name in enumerate(names):
        assert made.decision().is_converged == (index >= needed)
        made.take(node(name, has=100))
    decision = made.decision()
    assert (decision.is_converged, decision.needed, decision.nodes, decision.reached) == (True, needed, 7, 7)


def test_nodes_that_are_gone_do_not_count_and_nodes_that_never_were_do() -> None:
    made = waiting(NOW, "a", "ghost", "gone")
    made.take(node("a", has=100))
    made.drop("gone")
    decision = made.decision()
    assert [(laggard.name, laggard.reason) for laggard in decision.laggards] == [("ghost", NO_SUCH_NODE)]
    assert (decision.nodes, decision.is_converged) == (2, False)


def test_a_laggard_says_its_state_reason_and_since_when() -> None:
    made = waiting(NOW)
    made.take(node(state=NodeState.UNRESPONSIVE))
    (laggard,) = made.decision().laggards
    assert (laggard.state, laggard.reason, laggard.since_ns) == (NodeState.UNRESPONSIVE, "on its way", 5)
