# SPDX-License-Identifier: Apache-2.0
"""Services are defaulted, given addresses and ports, and refused, as a real API server does."""

import ipaddress
from typing import Any

import pytest

from pointsman_lab.apiserver import ApiError, ClusterOptions, Patch, Registry, new_cluster
from pointsman_lab.apiserver.patches import MERGE_PATCH
from pointsman_lab.apiserver.resources import SERVICECIDRS, SERVICES

Json = dict[str, Any]


@pytest.fixture
def registry() -> Registry:
    return new_cluster(ClusterOptions(seed=1))


def create(registry: Registry, name: str = "web", **spec: Any) -> Json:
    body = {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}
    result: Json = registry.create(SERVICES, body, "default").decode()["spec"]
    return result


def patch(registry: Registry, spec: Json, name: str = "web") -> Json:
    change = Patch(media_type=MERGE_PATCH, document={"spec": spec})
    result: Json = registry.patch(SERVICES, change, "default", name).decode()["spec"]
    return result


def refusal(registry: Registry, **spec: Any) -> list[str]:
    with pytest.raises(ApiError) as refused:
        create(registry, **spec)
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")
    return [cause["field"] for cause in refused.value.status["details"]["causes"]]


def test_plain_service_gets_the_usual_defaults(registry: Registry) -> None:
    spec = create(registry)
    assert ipaddress.ip_address(spec["clusterIP"]) in ipaddress.ip_network("10.96.0.0/12")
    del spec["clusterIP"], spec["clusterIPs"]
    assert spec == {
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
    }


def test_dual_stack_service_gets_an_address_of_each_family(registry: Registry) -> None:
    spec = create(registry, ipFamilyPolicy="PreferDualStack", ipFamilies=["IPv6"])
    assert spec["ipFamilies"] == ["IPv6", "IPv4"]
    assert [ipaddress.ip_address(ip).version for ip in spec["clusterIPs"]] == [6, 4]


def test_single_stack_cluster_gives_one_family_and_refuses_to_require_two() -> None:
    registry = new_cluster(ClusterOptions(service_cidrs=("fd00:1::/112",)))
    assert create(registry, ipFamilyPolicy="PreferDualStack")["ipFamilies"] == ["IPv6"]
    assert refusal(registry, name="b", ipFamilyPolicy="RequireDualStack") == ["spec.ipFamilyPolicy"]
    assert refusal(registry, name="c", ipFamilies=["IPv4"]) == ["spec.ipFamilies[0]"]


def test_headless_service_has_the_word_none(registry: Registry) -> None:
    spec = create(registry, clusterIP="None", selector={"a": "b"})
    assert (spec["clusterIPs"], spec["ipFamilies"]) == (["None"], ["IPv4"])
    alone = create(registry, "alone", clusterIP="None")
    assert (alone["ipFamilyPolicy"], alone["ipFamilies"]) == ("RequireDualStack", ["IPv4", "IPv6"])


def test_external_name_service_has_no_addresses(registry: Registry) -> None:
    spec = create(registry, type="ExternalName", externalName="example.com", ports=[])
    assert "clusterIP" not in spec
    assert refusal(registry, name="b", type="ExternalName") == ["spec.externalName"]


def test_local_load_balancer_gets_node_ports_and_a_health_check_port(registry: Registry) -> None:
    both = [{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53, "protocol": "TCP"}]
    spec = create(registry, type="LoadBalancer", externalTrafficPolicy="Local", ports=both)
    first, second = (port["nodePort"] for port in spec["ports"])
    assert first == second
    assert {first, spec["healthCheckNodePort"]} <= set(range(30000, 32768))
    assert first != spec["healthCheckNodePort"]
    assert spec["allocateLoadBalancerNodePorts"] is True


def test_addresses_and_ports_are_given_once_and_again_after_deletion(registry: Registry) -> None:
    spec = create(registry, clusterIP="10.96.7.7", type="NodePort", ports=[{"port": 80, "nodePort": 30080}])
    assert spec["clusterIP"] == "10.96.7.7"
    assert refusal(registry, name="b", clusterIP="10.96.7.7") == ["spec.clusterIPs"]
    assert refusal(registry, name="b", type="NodePort", ports=[{"port": 1, "nodePort": 30080}]) == [
        "spec.ports[0].nodePort"
    ]
    registry.delete(SERVICES, "default", "web")
    create(registry, "b", clusterIP="10.96.7.7", type="NodePort", ports=[{"port": 80, "nodePort": 30080}])


def test_small_ranges_fill_up_and_say_so() -> None:
    registry = new_cluster(ClusterOptions(service_cidrs=("10.9.0.0/29",), node_ports=range(31000, 31002)))
    given = {create(registry, f"s{n}")["clusterIP"] for n in range(5)}
    assert given == {f"10.9.0.{n}" for n in range(2, 7)}
    with pytest.raises(ApiError, match="range is full"):
        create(registry, "one-too-many")
    assert refusal(registry, name="far", clusterIP="10.10.0.1") == ["spec.clusterIPs"]


def test_another_service_cidr_widens_the_range() -> None:
    registry = new_cluster(ClusterOptions(service_cidrs=("10.9.0.0/30",)))
    create(registry, "last")
    registry.create(SERVICECIDRS, {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.8.0.0/24"]}})
    assert ipaddress.ip_address(create(registry)["clusterIP"]) in ipaddress.ip_network("10.8.0.0/24")


def test_type_change_takes_and_gives_back_node_ports(registry: Registry) -> None:
    address = create(registry)["clusterIP"]
    node_port = patch(registry, {"type": "NodePort"})
    assert (node_port["clusterIP"], node_port["externalTrafficPolicy"]) == (address, "Cluster")
    assert node_port["ports"][0]["nodePort"]
    kept = patch(registry, {"ports": [{"port": 80, "targetPort": 9}]})
    assert kept["ports"][0]["nodePort"] == node_port["ports"][0]["nodePort"]
    plain = patch(registry, {"type": "ClusterIP"})
    assert "nodePort" not in plain["ports"][0]
    assert "externalTrafficPolicy" not in plain


def test_cluster_ip_never_changes_and_may_be_left_out(registry: Registry) -> None:
    address = create(registry)["clusterIP"]
    assert patch(registry, {"clusterIP": None, "clusterIPs": None, "selector": {"a": "b"}})["clusterIP"] == address
    with pytest.raises(ApiError) as refused:
        patch(registry, {"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"]})
    assert "may not change once set" in refused.value.message


def test_second_family_comes_and_goes_by_policy(registry: Registry) -> None:
    first = create(registry)["clusterIPs"]
    dual = patch(registry, {"ipFamilyPolicy": "RequireDualStack"})
    assert dual["clusterIPs"][:1] == first
    assert len(dual["clusterIPs"]) == 2
    single = patch(registry, {"ipFamilyPolicy": "SingleStack"})
    assert (single["clusterIPs"], single["ipFamilies"]) == (first, ["IPv4"])


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({"ports": []}, ["spec.ports"]),
        ({"ports": [{"port": 70000}]}, ["spec.ports[0].port", "spec.ports[0].targetPort"]),
        ({"ports": [{"port": 0}]}, ["spec.ports[0].port", "spec.ports[0].targetPort"]),
        ({"ports": [{"port": 80, "protocol": "ICMP"}]}, ["spec.ports[0].protocol"]),
        ({"ports": [{"port": 80}, {"port": 81}]}, ["spec.ports[0].name", "spec.ports[1].name"]),
        ({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}, ["spec.ports[1]"]),
        ({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}, ["spec.ports[1].name"]),
        ({"ports": [{"port": 80, "nodePort": 30001}]}, ["spec.ports[0].nodePort"]),
        ({"ports": [{"port": 80, "targetPort": "No Such"}]}, ["spec.ports[0].targetPort"]),
        ({"type": "Portal"}, ["spec.type"]),
        ({"sessionAffinity": "Cookie"}, ["spec.sessionAffinity"]),
        ({"externalTrafficPolicy": "Local"}, ["spec.externalTrafficPolicy"]),
        ({"externalIPs": ["300.1.1.1"]}, ["spec.externalIPs[0]"]),
        ({"clusterIP": "not-an-ip"}, ["spec.clusterIPs[0]"]),
        ({"loadBalancerSourceRanges": ["x"], "type": "LoadBalancer"}, ["spec.loadBalancerSourceRanges[0]"]),
        ({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"}, ["spec.ipFamilyPolicy"]),
    ],
)
def test_service_that_breaks_rules_is_refused_with_every_finding(
    registry: Registry, spec: Json, fields: list[str]
) -> None:
    assert refusal(registry, **spec) == fields
