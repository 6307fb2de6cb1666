# SPDX-License-Identifier: Apache-2.0
"""What of a slice, a Node and a ServiceCIDR reaches the vocabulary."""

import pytest

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman_model.cluster import ClusterObject, EndpointSlice, Node, ServiceCIDR, Taint
from pointsman_model.wire.cluster import change_from_pb
from pointsman_watcher.core.decode import Observed, decode_event
from pointsman_watcher.core.resources import ENDPOINT_SLICES, NODES, SERVICE_CIDRS, Resource
from support.cluster_objects import (
    Json,
    endpoint,
    endpoint_json,
    endpoint_slice,
    endpoint_slice_json,
    event,
    node_json,
    service_cidr_json,
    text,
)


def observe(resource: Resource, value: Json) -> tuple[ClusterObject | None, list[str]]:
    item = decode_event(resource, event("MODIFIED", value))
    assert isinstance(item, Observed), item
    decoded = change_from_pb(pb.Change.FromString(item.body)).value if item.body is not None else None
    return decoded, [problem.field for problem in item.problems]


def read(value: Json) -> tuple[EndpointSlice, list[str]]:
    decoded, problems = observe(ENDPOINT_SLICES, value)
    assert isinstance(decoded, EndpointSlice)
    return decoded, problems


def test_the_builders_of_both_forms_agree() -> None:
    api = endpoint_slice_json(
        "shop/web-1",
        "web",
        [endpoint_json("10.0.0.1", serving=True, node="n1", zone="a", node_hints=["n1"])],
        ["http:8080", "dns:53/UDP"],
    )
    model = endpoint_slice(
        "shop/web-1",
        "web",
        [endpoint("10.0.0.1", node="n1", zone="a", node_hints=["n1"])],
        ["http:8080", "dns:53/UDP"],
        uid="uid-shop-web-1",
    )
    assert read(api) == (model, [])


@pytest.mark.parametrize(
    "value",
    [
        endpoint_slice_json("shop/x", None, ["10.0.0.1"]),
        endpoint_slice_json("shop/x", None, ["10.0.0.1"], labels={"kubernetes.io/service-name": ""}),
        endpoint_slice_json("shop/x", "web", ["10.0.0.1"], labels={"service.kubernetes.io/headless": ""}),
        endpoint_slice_json("shop/x", "web", ["a.example.com"], address_type="FQDN"),
    ],
)
def test_slices_that_are_not_ours_are_left_out_silently(value: Json) -> None:
    assert observe(ENDPOINT_SLICES, value) == (None, [])


def test_an_address_type_of_the_future_is_reported() -> None:
    assert observe(ENDPOINT_SLICES, endpoint_slice_json("shop/x", "web", address_type="IPv9")) == (
        None,
        ["addressType"],
    )


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (None, (True, True, False)),
        ({}, (True, True, False)),
        ({"ready": None, "serving": None, "terminating": None}, (True, True, False)),
        ({"ready": False}, (False, True, False)),
        ({"ready": True, "serving": False}, (True, False, False)),
        ({"ready": False, "serving": True, "terminating": True}, (False, True, True)),
    ],
)
def test_nil_conditions_have_their_defaults(conditions: Json | None, expected: tuple[bool, bool, bool]) -> None:
    value = endpoint_slice_json("shop/x", "web", [{"addresses": ["10.0.0.1"], "conditions": conditions}])
    (found,) = read(value)[0].endpoints
    assert (found.ready, found.serving, found.terminating) == expected


def test_only_the_first_address_of_an_endpoint_counts() -> None:
    value, problems = read(endpoint_slice_json("shop/x", "web", [{"addresses": ["10.0.0.1", "bogus"]}]))
    assert [text(e.address) for e in value.endpoints] == ["10.0.0.1"]
    assert problems == []


@pytest.mark.parametrize(
    "hostile",
    [
        "10.0.0",
        "",
        "fd00::1",
        "a.example.com",
        "127.0.0.1",
        "0.0.0.7",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "10.0.0.1/32",
    ],
)
def test_a_hostile_ipv4_address_costs_one_endpoint(hostile: str) -> None:
    value, problems = read(endpoint_slice_json("shop/x", "web", ["10.0.0.1", hostile, "10.0.0.2"], address_type="IPv4"))
    assert [text(e.address) for e in value.endpoints] == ["10.0.0.1", "10.0.0.2"]
    assert problems == ["endpoints[1].addresses[0]"]


@pytest.mark.parametrize(
    "hostile", ["10.0.0.1", "::ffff:10.0.0.1", "::", "::1", "fe80::1", "febf::1", "ff02::1", "fd00::1%eth0"]
)
def test_a_hostile_ipv6_address_costs_one_endpoint(hostile: str) -> None:
    value, problems = read(
        endpoint_slice_json("shop/x", "web", ["fd00::1", hostile, "2001:db8::2"], address_type="IPv6")
    )
    assert [text(e.address) for e in value.endpoints] == ["fd00::1", "2001:db8::2"]
    assert problems == ["endpoints[1].addresses[0]"]


def test_an_endpoint_without_addresses_is_reported() -> None:
    value, problems = read(endpoint_slice_json("shop/x", "web", [{"addresses": []}, {"addresses": None}, {}]))
    assert value.endpoints == ()
    assert problems == [f"endpoints[{index}].addresses" for index in range(3)]


def test_ports_without_name_or_number_are_no_ports_and_bad_ones_are_reported() -> None:
    api = endpoint_slice_json("shop/x", "web")
    api["ports"] = [{"name": "", "port": 80}, {"port": 80}, {"name": "a"}, {"name": "b", "port": None},
                    {"name": "c", "port": 0}, {"name": "d", "port": 70000}, {"name": "e", "port": 1, "protocol": "tcp"},
                    {"name": "f", "port": 5, "protocol": "UDP", "appProtocol": "x"}]  # fmt: skip
    value, problems = read(api)
    assert [(p.name, p.protocol.name, p.port, p.app_protocol) for p in value.ports] == [
        ("", "TCP", 80, ""),
        ("f", "UDP", 5, "x"),
    ]
    assert problems == ["ports[5].port", "ports[6].protocol"]


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("2026-11-23T01:02:03.456789Z", 1795395723456789000),
        ("2026-11-23T01:02:03Z", 1795395723000000000),
        ("2026-11-23T01:02:03.123456789Z", 1795395723123456789),
        ("2026-11-23T02:02:03.5+01:00", 1795395723500000000),
        ("1970-01-01T00:00:00.000000001Z", 1),
    ],
)
def test_the_trigger_time_is_exact(stamp: str, expected: int) -> None:
    annotations = {"endpoints.kubernetes.io/last-change-trigger-time": stamp}
    assert read(endpoint_slice_json("shop/x", "web", annotations=annotations))[0].trigger_time_ns == expected


@pytest.mark.parametrize(
    "stamp",
    [
        "yesterday",
        "2026-11-23",
        "2026-11-23T01:02:03",
        "9999999999",
        "2026-13-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "1969-12-31T23:59:59.999Z",
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_a_malformed_trigger_time_counts_as_none(stamp: str) -> None:
    annotations = {"endpoints.kubernetes.io/last-change-trigger-time": stamp}
    value, problems = read(endpoint_slice_json("shop/x", "web", ["10.0.0.1"], annotations=annotations))
    assert value.trigger_time_ns == 0
    assert len(value.endpoints) == 1
    assert problems == ["metadata.annotations[endpoints.kubernetes.io/last-change-trigger-time]"]


def test_empty_names_of_node_zone_and_hints_count_as_none() -> None:
    hints = {"forZones": [{"name": ""}, {"name": "a"}], "forNodes": None}
    value, _ = read(
        endpoint_slice_json("shop/x", "web", [{"addresses": ["10.0.0.1"], "nodeName": "", "zone": "", "hints": hints}])
    )
    (found,) = value.endpoints
    assert (found.node_name, found.zone, found.zone_hints, found.node_hints) == (None, None, ("a",), ())


def test_a_node_is_read_with_its_faulty_items_left_out() -> None:
    api = node_json("n1", "192.168.7.2", "bogus", zone="a", pod_cidrs=["10.244.0.0/24", "x"])
    api["spec"]["taints"] = [{"key": "k", "effect": "NoSchedule"}]
    api["metadata"]["deletionTimestamp"] = "2026-11-23T01:02:03Z"
    value, problems = observe(NODES, api)
    assert isinstance(value, Node)
    assert [text(a.address) for a in value.addresses] == ["192.168.7.2"]
    assert [str(prefix) for prefix in value.pod_cidrs] == ["10.244.0.0/24"]
    assert (value.zone, value.deleting, value.taints) == ("a", True, (Taint("k", "", "NoSchedule"),))
    assert problems == ["status.addresses[1].address", "spec.podCIDRs[1]"]


def test_pod_cidr_stands_in_for_pod_cidrs() -> None:
    api = node_json("n1")
    api["spec"] = {"podCIDR": "10.244.1.0/24"}
    value, _ = observe(NODES, api)
    assert isinstance(value, Node)
    assert [str(prefix) for prefix in value.pod_cidrs] == ["10.244.1.0/24"]


def test_a_service_cidr_is_read() -> None:
    value, problems = observe(SERVICE_CIDRS, service_cidr_json("kubernetes", "10.96.0.0/12", "fd00:10:96::/112", "x/y"))
    assert isinstance(value, ServiceCIDR)
    assert [str(prefix) for prefix in value.cidrs] == ["10.96.0.0/12", "fd00:10:96::/112"]
    assert problems == ["spec.cidrs[2]"]
