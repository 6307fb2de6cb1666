# SPDX-License-Identifier: Apache-2.0
"""Addresses from the pool, and over which nodes clients come."""

from typing import Any

from pointsman_lab.controller.loadbalancers import ingress_addresses, outside_routes, plan_ingress
from support.lab_objects import Object, service

NODES = ["node-1", "node-2", "node-3"]


def balanced(address: str = "198.51.100.1", **spec: Any) -> Object:
    found = service(type="LoadBalancer", **spec)
    found["status"] = {"loadBalancer": {"ingress": [{"ip": address}]}}
    return found


def test_each_family_gets_the_first_free_address() -> None:
    wanted = plan_ingress(service(type="LoadBalancer", ipFamilies=["IPv4", "IPv6"]), ["198.51.100.1"])
    assert wanted is not None
    assert [entry["ip"] for entry in wanted["ingress"]] == ["198.51.100.2", "2001:db8:1b::1"]


def test_a_requested_address_is_honoured() -> None:
    wanted = plan_ingress(service(type="LoadBalancer", loadBalancerIP="198.51.100.77"), [])
    assert wanted is not None
    assert wanted["ingress"][0]["ip"] == "198.51.100.77"


def test_a_right_or_foreign_status_is_left_alone() -> None:
    assert plan_ingress(balanced(), []) is None
    assert plan_ingress(service(type="LoadBalancer", loadBalancerClass="acme.example/lb"), []) is None
    assert plan_ingress(service(), []) is None


def test_a_service_that_is_no_balancer_any_more_loses_its_address() -> None:
    found = balanced()
    found["spec"]["type"] = "ClusterIP"
    assert plan_ingress(found, []) == {}


def test_the_local_policy_leads_to_nodes_with_ready_endpoints() -> None:
    endpoints = [
        {"addresses": ["10.244.1.2"], "nodeName": "node-1", "conditions": {"ready": False}},
        {"addresses": ["10.244.2.2"], "nodeName": "node-2", "conditions": {"ready": True}},
    ]
    slices = [
        {
            "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": endpoints,
        }
    ]
    local = balanced(externalTrafficPolicy="Local", externalIPs=["203.0.113.77"])
    assert outside_routes([local], slices, NODES) == {"198.51.100.1": ("node-2",), "203.0.113.77": ("node-2",)}
    assert outside_routes([local], [], NODES)["198.51.100.1"] == tuple(NODES)
    assert outside_routes([balanced()], slices, NODES) == {"198.51.100.1": tuple(NODES)}


def test_addresses_that_no_route_can_lead_to_are_passed_over() -> None:
    hostile = balanced(externalIPs=["127.0.0.1", "224.0.0.1", "::", "nonsense", "203.0.113.77"])
    hostile["status"]["loadBalancer"]["ingress"] += [{"ip": 7}, {"ip": "999.1.1.1"}, {"hostname": "x"}, None]
    assert ingress_addresses(hostile) == ("198.51.100.1",)
    assert set(outside_routes([hostile], [], NODES)) == {"198.51.100.1", "203.0.113.77"}
