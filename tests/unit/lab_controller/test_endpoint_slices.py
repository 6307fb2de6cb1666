# SPDX-License-Identifier: Apache-2.0
"""Which slices a Service gets, and that a change writes as little as possible."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_lab.controller.endpointslices import (
    ENDPOINTS_MAX,
    TRIGGER_TIME_ANNOTATION,
    SlicePlan,
    plan_slices,
    resolve_port,
)
from support.lab_objects import Object, node, pod, service

NODES = {"node-1": node("node-1", "zone-a"), "node-2": node("node-2", "zone-b")}


def plan(svc: Object, pods: list[Object], existing: list[Object] | None = None) -> SlicePlan:
    return plan_slices(svc, pods, NODES, existing or [], trigger_time="T1")


def stored(plan_: SlicePlan, existing: list[Object] | None = None) -> list[Object]:
    """What the API holds after the writes of a plan."""
    slices = {slice_["metadata"]["name"]: slice_ for slice_ in existing or []}
    for number, created in enumerate(plan_.create):
        named = copy.deepcopy(created)
        named["metadata"]["name"] = f"{created['metadata']['generateName']}{len(slices)}-{number}"
        slices[named["metadata"]["name"]] = named
    for updated in plan_.update:
        slices[updated["metadata"]["name"]] = updated
    for name in plan_.delete:
        del slices[name]
    return list(slices.values())


def test_an_endpoint_carries_conditions_node_zone_and_target() -> None:
    (slice_,) = plan(service(), [pod()]).create
    assert slice_["endpoints"] == [
        {
            "addresses": ["10.244.1.2"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-1", "uid": "uid-web-1"},
            "nodeName": "node-1",
            "zone": "zone-a",
        }
    ]
    assert slice_["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    assert slice_["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
    assert slice_["metadata"]["annotations"][TRIGGER_TIME_ANNOTATION] == "T1"
    assert slice_["metadata"]["ownerReferences"][0]["uid"] == "uid-web"


@pytest.mark.parametrize(
    ("ready", "terminating", "publish", "conditions"),
    [
        (True, False, False, (True, True, False)),
        (False, False, False, (False, False, False)),
        (True, True, False, (False, True, True)),
        (False, True, False, (False, False, True)),
        (False, False, True, (True, False, False)),
        (True, True, True, (True, True, True)),
    ],
)
def test_conditions_follow_readiness_and_deletion(
    ready: bool, terminating: bool, publish: bool, conditions: tuple[bool, bool, bool]
) -> None:
    (slice_,) = plan(service(publishNotReadyAddresses=publish), [pod(ready=ready, terminating=terminating)]).create
    assert tuple(slice_["endpoints"][0]["conditions"].values()) == conditions


def test_each_family_has_its_own_slices() -> None:
    both = pod(ips=("10.244.1.2", "fd00:10:244:1::2"))
    slices = {s["addressType"]: s for s in plan(service(ipFamilies=["IPv4", "IPv6"]), [both]).create}
    assert slices["IPv4"]["endpoints"][0]["addresses"] == ["10.244.1.2"]
    assert slices["IPv6"]["endpoints"][0]["addresses"] == ["fd00:10:244:1::2"]


def test_pods_that_resolve_a_port_name_differently_get_different_slices() -> None:
    old = pod("old")
    new = pod("new", ips=("10.244.1.3",), ports=[{"name": "http", "containerPort": 9090}])
    ports = {
        slice_["ports"][0]["port"]: slice_["endpoints"][0]["targetRef"]["name"]
        for slice_ in plan(service(), [old, new]).create
    }
    assert ports == {8080: "old", 9090: "new"}


def test_a_port_name_must_match_its_protocol() -> None:
    udp = pod(ports=[{"name": "http", "containerPort": 1, "protocol": "UDP"}, {"name": "http", "containerPort": 2}])
    assert resolve_port({"port": 80, "targetPort": "http", "protocol": "UDP"}, udp) == 1
    assert resolve_port({"port": 80, "targetPort": "http"}, udp) == 2
    assert resolve_port({"port": 80, "targetPort": "absent"}, udp) is None
    assert resolve_port({"port": 80}, udp) == 80


@pytest.mark.parametrize(
    ("distribution", "hints"),
    [
        (None, None),
        ("PreferClose", {"forZones": [{"name": "zone-a"}]}),
        ("PreferSameZone", {"forZones": [{"name": "zone-a"}]}),
        ("PreferSameNode", {"forZones": [{"name": "zone-a"}], "forNodes": [{"name": "node-1"}]}),
    ],
)
def test_traffic_distribution_becomes_hints(distribution: str | None, hints: Object | None) -> None:
    (slice_,) = plan(service(trafficDistribution=distribution), [pod()]).create
    assert slice_["endpoints"][0].get("hints") == hints


def test_an_endpoint_that_is_not_ready_has_no_hints() -> None:
    (slice_,) = plan(service(trafficDistribution="PreferClose"), [pod(ready=False)]).create
    assert "hints" not in slice_["endpoints"][0]


def test_without_endpoints_one_empty_slice_stays() -> None:
    first = plan(service(), [])
    assert [(s["endpoints"], s["ports"]) for s in first.create] == [([], [])]
    assert not plan(service(), [], stored(first))


def test_a_headless_service_is_labelled() -> None:
    (slice_,) = plan(service(clusterIP="None"), [pod()]).create
    assert slice_["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def test_one_changed_pod_updates_one_slice_and_leaves_the_order() -> None:
    pods = [pod(f"web-{n:03}", ips=(f"10.244.1.{n + 2}",)) for n in range(150)]
    slices = stored(plan(service(), pods))
    assert sorted(len(s["endpoints"]) for s in slices) == [50, ENDPOINTS_MAX]
    pods[3] = pod("web-003", ips=("10.244.1.5",), ready=False)
    change = plan(service(), pods, slices)
    assert (len(change.create), len(change.update), len(change.delete)) == (0, 1, 0)
    addresses = [e["addresses"][0] for e in change.update[0]["endpoints"]]
    assert addresses == [e["addresses"][0] for e in slices[0]["endpoints"]]


def test_a_family_that_was_dropped_loses_its_slices() -> None:
    both = [pod(ips=("10.244.1.2", "fd00:10:244:1::2"))]
    slices = stored(plan(service(ipFamilies=["IPv4", "IPv6"]), both))
    change = plan(service(), both, slices)
    assert len(change.delete) == 1
    assert not change.update


numbers = st.sets(st.integers(2, 250), max_size=230)


@given(before=numbers, after=numbers)
def test_any_change_ends_in_exactly_the_wanted_endpoints(before: set[int], after: set[int]) -> None:
    def pods(members: set[int]) -> list[Object]:
        return [pod(f"web-{n}", ips=(f"10.244.1.{n}",)) for n in members]

    slices = stored(plan(service(), pods(before)))
    slices = stored(plan(service(), pods(after), slices), slices)
    found = [e["addresses"][0] for s in slices for e in s["endpoints"]]
    assert sorted(found) == sorted(f"10.244.1.{n}" for n in after)
    assert all(len(s["endpoints"]) <= ENDPOINTS_MAX for s in slices)
    assert not plan(service(), pods(after), slices)
