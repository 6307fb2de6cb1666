# SPDX-License-Identifier: Apache-2.0
"""kube-proxy goes only from nodes that can do without it, and every step has its way back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_ctl.core.migration import (
    LABEL,
    judge_configuration,
    judge_coverage,
    judge_daemon_set,
    laid_over,
    rollback_steps,
    steps,
)
from pointsman_ctl.core.verdict import Outcome


def daemon_set(affinity: Any = None) -> dict[str, Any]:
    pod = {"affinity": {"nodeAffinity": affinity}} if affinity else {}
    return {
        "metadata": {"name": "kube-proxy"},
        "spec": {"template": {"spec": pod}},
        "status": {"desiredNumberScheduled": 2},
    }


KEPT_OFF = {"required": [{"key": LABEL, "operator": "NotIn", "values": ["true"]}]}


def test_first_the_daemon_set_keeps_off_then_each_node_gets_the_label() -> None:
    found = steps(["a", "b"], "kube-system", daemon_set())
    assert [step.node for step in found] == ["", "a", "b"]
    patch = json.loads(found[0].arguments[-1])
    (term,) = patch["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert term == {"matchExpressions": [{"key": LABEL, "operator": "NotIn", "values": ["true"]}]}
    assert found[1].text == f"kubectl label --overwrite node a {LABEL}=true"


def test_a_second_run_goes_on_where_the_first_one_ended() -> None:
    assert [step.node for step in steps(["b"], "kube-system", daemon_set(KEPT_OFF))] == ["b"]


def test_a_node_or_all_of_them_go_back() -> None:
    assert [step.text for step in rollback_steps(["a"], "ns", "kube-proxy")] == [f"kubectl label node a {LABEL}-"]
    patch, labels = rollback_steps([], "ns", "kube-proxy")
    assert json.loads(patch.arguments[-1]) == {"spec": {"template": {"spec": {"affinity": None}}}}
    assert labels.text == f"kubectl label nodes --all {LABEL}-"


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (None, Outcome.FAILED),
        (daemon_set(), Outcome.PASSED),
        (daemon_set(KEPT_OFF), Outcome.PASSED),
        (daemon_set({"required": [{"key": "other"}]}), Outcome.FAILED),
    ],
)
def test_a_kube_proxy_that_cannot_be_kept_off_is_left_alone(found: Any, outcome: Outcome) -> None:
    assert judge_daemon_set(found, "kube-system/kube-proxy").outcome is outcome


@pytest.mark.parametrize(
    ("states", "enforcers", "outcome"),
    [
        ({"a": pb.NodeStatus.STATE_SYNCED, "b": pb.NodeStatus.STATE_SYNCED}, None, Outcome.PASSED),
        ({"a": pb.NodeStatus.STATE_SYNCED, "b": pb.NodeStatus.STATE_STALE}, None, Outcome.FAILED),
        ({"a": pb.NodeStatus.STATE_SYNCED}, None, Outcome.FAILED),
        ({}, daemon_set({"required": [{"key": LABEL, "operator": "In", "values": ["true"]}]}), Outcome.PASSED),
        ({}, daemon_set(), Outcome.FAILED),
    ],
)
def test_every_node_has_a_synced_enforcer_or_gets_one_with_the_label(
    states: dict[str, Any], enforcers: Any, outcome: Outcome
) -> None:
    statuses = [pb.NodeStatus(name=name, state=state) for name, state in states.items()]
    assert judge_coverage(["a", "b"], statuses, enforcers).outcome is outcome


def test_configurations_are_laid_over_each_other() -> None:
    base = {"mode": "nftables", "conntrack": {"min": 1, "maxPerCore": 2}}
    assert laid_over([base, {"mode": "ipvs", "conntrack": {"min": 3}}, {}]) == {
        "mode": "ipvs",
        "conntrack": {"min": 3, "maxPerCore": 2},
    }


def test_a_configuration_that_says_otherwise_is_shown_field_by_field() -> None:
    converted = {"apiVersion": "v", "kind": "k", "mode": "ipvs", "clusterCIDR": "10.0.0.0/8"}
    assert judge_configuration(converted, {"mode": "ipvs", "clusterCIDR": "10.0.0.0/8"}).outcome is Outcome.PASSED
    differing = judge_configuration(converted, {"mode": "nftables"})
    assert differing.outcome is Outcome.WARNING
    assert differing.message == 'mode: "ipvs" there, "nftables" here; clusterCIDR: "10.0.0.0/8" there, the default here'
    assert judge_configuration(converted, None).outcome is Outcome.WARNING
