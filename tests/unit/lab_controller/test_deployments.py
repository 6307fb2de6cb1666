# SPDX-License-Identifier: Apache-2.0
"""The steps of a Deployment: rollout limits hold at every step, and every start ends in the wanted pods."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pointsman_lab.controller.deployments import HASH_LABEL, plan_deployment, template_hash
from pointsman_lab.controller.objects import is_pod_ready
from support.lab_objects import Object, deployment, pod

HASH = template_hash(deployment()["spec"]["template"])


def owned(
    name: str, *, digest: str = HASH, ready: bool = True, node: str = "node-1", terminating: bool = False
) -> Object:
    labels = {"app": "web", HASH_LABEL: digest}
    return pod(name, labels=labels, ready=ready, node=node, owner="web", terminating=terminating)


def step(found: Object, pods: list[Object]) -> tuple[list[Object], list[str], Object]:
    counter = itertools.count()
    plan = plan_deployment(found, pods, lambda: f"x{next(counter)}", now="T")
    return list(plan.create), list(plan.delete), plan.status


def test_a_new_deployment_makes_all_its_pods() -> None:
    create, delete, _ = step(deployment(), [])
    assert len(create) == 3
    assert not delete
    assert create[0]["metadata"]["name"].startswith(f"web-{HASH}-")
    assert create[0]["metadata"]["labels"] == {"app": "web", HASH_LABEL: HASH}


def test_pods_of_others_and_terminating_pods_do_not_count() -> None:
    pods = [owned("web-a", terminating=True), pod("other"), owned("web-b")]
    create, _, _ = step(deployment(replicas=2), pods)
    assert len(create) == 1


def test_a_rollout_adds_one_before_it_removes_one() -> None:
    old = [owned(f"old-{n}", digest="old") for n in range(3)]
    create, delete, _ = step(deployment(), old)
    assert (len(create), delete) == (1, [])
    unready = owned("new-0", ready=False)
    assert step(deployment(), [*old, unready])[:2] == ([], [])
    create, delete, _ = step(deployment(), [*old, owned("new-0")])
    assert len(delete) == 1
    assert delete[0].startswith("old-")


def test_old_pods_that_are_not_ready_go_at_once() -> None:
    old = [owned("old-0", digest="old"), owned("old-1", digest="old", ready=False), owned("old-2", digest="old")]
    _, delete, _ = step(deployment(), old)
    assert delete == ["old-1"]


def test_recreate_removes_all_before_it_makes_any() -> None:
    old = [owned("old-0", digest="old")]
    assert step(deployment(type="Recreate"), old)[:2] == ([], ["old-0"])
    assert len(step(deployment(type="Recreate"), [])[0]) == 3


def test_scaling_down_keeps_ready_pods_spread_over_nodes() -> None:
    pods = [
        owned("a1", node="node-1"),
        owned("a2", node="node-1"),
        owned("b1", node="node-2"),
        owned("c1", node="node-3", ready=False),
    ]
    _, delete, _ = step(deployment(replicas=2), pods)
    assert delete[0] == "c1"
    assert delete[1] in {"a1", "a2"}


def test_percentages_round_surge_up_and_unavailable_down() -> None:
    limits = {"maxSurge": "25%", "maxUnavailable": "25%"}
    old = [owned(f"old-{n}", digest="old") for n in range(3)]
    create, delete, _ = step(deployment(rollingUpdate=limits), old)
    assert (len(create), delete) == (1, [])


def test_status_counts_what_is_there() -> None:
    pods = [owned("a"), owned("b", ready=False), owned("c", digest="old")]
    _, _, status = step(deployment(), pods)
    counted = {key: status[key] for key in ("replicas", "updatedReplicas", "readyReplicas", "unavailableReplicas")}
    assert counted == {"replicas": 3, "updatedReplicas": 2, "readyReplicas": 2, "unavailableReplicas": 1}
    assert {c["type"]: c["status"] for c in status["conditions"]} == {"Available": "False", "Progressing": "True"}


def test_status_is_stable_when_nothing_changes() -> None:
    found = deployment()
    found["status"] = step(found, [owned("a")])[2]
    again = plan_deployment(found, [owned("a")], lambda: "x", now="later").status
    assert again == found["status"]


@given(
    replicas=st.integers(0, 6),
    surge=st.integers(0, 3),
    unavailable=st.integers(0, 3),
    old_ready=st.lists(st.booleans(), max_size=6),
)
def test_every_rollout_ends_and_never_breaks_its_limits(
    replicas: int, surge: int, unavailable: int, old_ready: list[bool]
) -> None:
    found = deployment(replicas=replicas, rollingUpdate={"maxSurge": surge, "maxUnavailable": unavailable})
    pods = [owned(f"old-{n}", digest="old", ready=ready) for n, ready in enumerate(old_ready)]
    names = itertools.count()
    allowed = max(replicas + surge, len(pods))
    ready_before = sum(map(is_pod_ready, pods))
    lowest = min(ready_before, replicas - (unavailable if surge or unavailable else 1))
    for _ in range(60):
        plan = plan_deployment(found, pods, lambda: f"n{next(names)}", now="T")
        if not plan.create and not plan.delete and all(map(is_pod_ready, pods)):
            break
        pods = [p for p in pods if p["metadata"]["name"] not in plan.delete]
        assert sum(map(is_pod_ready, pods)) >= min(lowest, replicas)
        # Created pods become ready by the next step.
        made = {p["metadata"]["name"] for p in pods if p["metadata"]["name"].startswith("web-")}
        pods = [owned(p["metadata"]["name"]) if p["metadata"]["name"] in made else p for p in pods]
        pods += [owned(p["metadata"]["name"], ready=False) for p in plan.create]
        assert len(pods) <= allowed
    assert len(pods) == replicas
    assert all(p["metadata"]["labels"][HASH_LABEL] == HASH for p in pods)
