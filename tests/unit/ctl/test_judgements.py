# SPDX-License-Identifier: Apache-2.0
"""Each thing that `check` looks at: what is well, what deserves a look, what fails."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2 as plan_pb
from pointsman_ctl.core import judge_cluster, judge_machine, judge_planners
from pointsman_ctl.core.verdict import Outcome, Result

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SYNCED, STALE, GONE = (
    pb.NodeStatus.STATE_SYNCED,
    pb.NodeStatus.STATE_STALE,
    pb.NodeStatus.STATE_DISCONNECTED,
)


def node(name: str, state: Any = SYNCED, **fields: Any) -> pb.NodeStatus:
    return pb.NodeStatus(name=name, state=state, **{"planner_id": "p1", **fields})


def page(planner: str, *members: str, **fields: Any) -> dict[str, Any]:
    return {"planner": planner, "membership": {"members": [{"planner": each} for each in members]}, **fields}


def daemon_set(name: str, count: int, image: str = "x:1") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
        "status": {"desiredNumberScheduled": count},
    }


def kernel(name: str, version: str, system: str = "linux") -> dict[str, Any]:
    info = {"kernelVersion": version, "operatingSystem": system}
    return {"metadata": {"name": name}, "status": {"nodeInfo": info}}


def expect(result: Result, outcome: str, *said: str) -> None:
    assert result.outcome.value == outcome, result
    for text in said:
        assert text in result.message


@pytest.mark.parametrize(
    ("nodes", "outcome", "said"),
    [
        ([], "failed", "there are no nodes"),
        ([node("a"), node("b")], "passed", "2 nodes: 2 Synced"),
        ([node("a"), node("b", STALE, reason="3 services")], "warning", "b Stale (3 services)"),
        ([node("a", STALE), node("b", GONE, reason="never connected")], "failed", "b Disconnected (never connected)"),
        ([node(f"n{number}", GONE) for number in range(9)], "failed", "and 4 more"),
    ],
)
def test_nodes(nodes: list[pb.NodeStatus], outcome: str, said: str) -> None:
    expect(judge_planners.judge_nodes(nodes), outcome, said)


@pytest.mark.parametrize(
    ("pages", "nodes", "outcome", "said"),
    [
        ([], [], "skipped", "no /statusz"),
        ([page("p1", "p1", "p2"), page("p2", "p2", "p1")], [node("a")], "passed", "p1 1, p2 0"),
        ([page("p1", "p1"), page("p2", "p2")], [], "failed", "planners disagree on who they are: p1 against p2"),
        ([page("p1", "p1")], [node("a", planner_id="dead")], "failed", "served by no live planner: a"),
        ([page("p1", "p1")], [node("a", GONE, planner_id="dead")], "passed", "p1 0"),
        ([page("p1")], [node("a")], "passed", "p1 1"),
    ],
)
def test_shards(pages: list[dict[str, Any]], nodes: list[pb.NodeStatus], outcome: str, said: str) -> None:
    expect(judge_planners.judge_shards(nodes, pages), outcome, said)


def test_a_frozen_membership_deserves_a_look() -> None:
    frozen = page("p1", "p1")
    frozen["membership"]["isFrozen"] = True
    expect(judge_planners.judge_shards([node("a")], [frozen]), "warning", "frozen")


def test_pages_of_planners() -> None:
    well = {"planner": "p1", "inSync": True, "store": {"isAvailable": True}, "degraded": []}
    ill = {"planner": "p1", "inSync": False, "store": {"isAvailable": False, "error": "refused"}, "degraded": ["slow"]}
    for judge in (judge_planners.judge_sync, judge_planners.judge_store, judge_planners.judge_degraded):
        expect(judge(well), "passed")
    expect(judge_planners.judge_sync(ill), "failed")
    expect(judge_planners.judge_store(ill), "failed", "refused")
    expect(judge_planners.judge_degraded(ill), "warning", "slow")
    expect(judge_planners.judge_sync({}), "failed")


def test_versions_modes_and_foreign_changes() -> None:
    expect(judge_planners.judge_versions([node("a", version="1"), node("b", version="2")]), "warning", "1 x 1, 1 x 2")
    expect(judge_planners.judge_versions([node("a", version="1"), node("b")]), "passed", "all enforcers are 1")
    modes = [node("a", mode=plan_pb.PROXY_MODE_IPVS), node("b", mode=plan_pb.PROXY_MODE_USERSPACE)]
    expect(judge_planners.judge_modes(modes), "warning", "1 x ipvs, 1 x userspace")
    touched = node("a")
    touched.drift.process = "firewalld"
    touched.drift.repaired_at.FromSeconds(1000)
    expect(judge_planners.judge_drift([touched], 1060), "warning", "a 60s ago by firewalld")
    expect(judge_planners.judge_drift([touched], 90000), "passed")


@pytest.mark.parametrize(
    ("sets", "is_before", "outcome"),
    [
        ([daemon_set("kindnet", 3)], False, "passed"),
        ([daemon_set("kube-proxy", 0)], False, "passed"),
        ([daemon_set("kube-proxy", 3)], False, "failed"),
        ([daemon_set("kube-proxy", 3)], True, "warning"),
        ([daemon_set("proxy", 3, "registry.k8s.io/kube-proxy:v1.36.2")], False, "failed"),
        ([daemon_set("cilium", 3)], False, "warning"),
        ([daemon_set("cilium", 3), daemon_set("kube-proxy", 3)], False, "failed"),
    ],
)
def test_other_proxies(sets: list[dict[str, Any]], is_before: bool, outcome: str) -> None:
    expect(judge_cluster.judge_foreign_proxies(sets, is_before=is_before), outcome)


@pytest.mark.parametrize(
    ("nodes", "outcome", "said"),
    [
        ([kernel("a", "6.1.0-42"), kernel("b", "5.13.1")], "passed", "2 nodes"),
        ([kernel("a", "5.10.0"), kernel("b", "6.1")], "warning", "older than 5.13: a 5.10.0"),
        ([kernel("a", "10.0.20348", "windows")], "warning", "not Linux: a"),
        ([kernel("a", "")], "passed", "1 nodes"),
    ],
)
def test_kernels(nodes: list[dict[str, Any]], outcome: str, said: str) -> None:
    expect(judge_cluster.judge_kernels(nodes), outcome, said)


@pytest.mark.parametrize(("skew", "outcome"), [(0.2, "passed"), (-0.9, "passed"), (3, "warning"), (-45, "failed")])
def test_clocks(skew: float, outcome: str) -> None:
    expect(judge_cluster.judge_clock("c", "clock", skew), outcome)


@pytest.mark.parametrize(
    ("minor", "outcome"), [("36", "passed"), ("33+", "passed"), ("29", "warning"), ("", "warning")]
)
def test_versions_of_the_api_server(minor: str, outcome: str) -> None:
    found = {"serverVersion": {"minor": minor, "gitVersion": f"v1.{minor}.0"}}
    expect(judge_cluster.judge_server_version(found), outcome)


def test_workloads_and_rights() -> None:
    half = {"kind": "Deployment", "metadata": {"name": "w"}, "spec": {"replicas": 2}, "status": {"readyReplicas": 1}}
    full = {"kind": "DaemonSet", "metadata": {"name": "e"}, "status": {"desiredNumberScheduled": 3, "numberReady": 3}}
    first, second = judge_cluster.judge_workloads([half, full], "ns")
    expect(first, "failed", "1 of 2 pods are ready")
    expect(second, "passed", "3 of 3")
    expect(judge_cluster.judge_workloads([], "ns")[0], "skipped")
    expect(judge_cluster.judge_rights("x", ["list nodes"], 3, "h"), "failed", "list nodes")


@pytest.mark.parametrize(
    ("days_before", "days_left", "outcome"),
    [
        (1, 300, "passed"),
        (80, 10, "warning"),
        (30, 0.5, "failed"),
        (30, -1, "failed"),
        (-1, 30, "failed"),
        (1, 6, "passed"),
    ],
)
def test_certificates(days_before: float, days_left: float, outcome: str) -> None:
    """One that lives for a week is not worth a word while most of the week is left."""
    begins, ends = NOW - timedelta(days=days_before), NOW + timedelta(days=days_left)
    result = judge_machine.judge_certificate("c", "n", begins=begins, ends=ends, now=NOW)
    expect(result, outcome)


def test_this_machine() -> None:
    expect(judge_machine.judge_nft(None, None), "warning", "not installed")
    expect(judge_machine.judge_nft("v1", None), "skipped", "needs root")
    expect(judge_machine.judge_nft("v1", "no such thing"), "failed", "no such thing")
    expect(judge_machine.judge_nft("v1", ""), "passed")
    iptables, ipvs = judge_machine.judge_tools({"iptables-restore": True, "ipset": True})
    assert (iptables.outcome, ipvs.outcome) == (Outcome.PASSED, Outcome.WARNING)
    expect(judge_machine.judge_sysctls({"net.ipv4.ip_forward": "0"}), "failed")
    expect(judge_machine.judge_sysctls({"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "0"}), "warning")
    expect(judge_machine.judge_sysctls({}), "skipped")
    expect(judge_machine.judge_leftovers(["iptables chains KUBE-*"]), "warning")
    expect(judge_machine.judge_ports(["10256"]), "warning", "10256")
