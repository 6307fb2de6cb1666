# SPDX-License-Identifier: Apache-2.0
"""The decoder held against answers that a real API server gave. Without the recordings these tests say so and skip."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman_model.cluster import ClusterObject, EndpointSlice, LoadBalancerMode, Node, Service, TrafficPolicy
from pointsman_model.names import Protocol, format_address, parse_prefix
from pointsman_model.wire.cluster import change_from_pb
from pointsman_watcher.core.decode import (
    Bookmark,
    Observed,
    WatchEvent,
    WatchFailure,
    decode_event,
    decode_page,
    decode_status,
)
from pointsman_watcher.core.resources import ENDPOINT_SLICES, NODES, SERVICE_CIDRS, SERVICES, Resource

RECORDED = Path(os.environ.get("POINTSMAN_RECORDED") or Path(__file__).resolve().parents[4] / "shared" / "recorded")

pytestmark = pytest.mark.skipif(
    not RECORDED.is_dir(), reason=f"no recorded API answers at {RECORDED}; set POINTSMAN_RECORDED to their folder"
)


def body(name: str) -> bytes:
    recorded: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return json.dumps(recorded["body"]).encode()


def events(resource: Resource, name: str) -> list[WatchEvent]:
    lines = (RECORDED / f"{name}.jsonl").read_bytes().splitlines()[1:]
    return [decode_event(resource, line) for line in lines if line.strip()]


def listed(resource: Resource, name: str) -> dict[str, ClusterObject | None]:
    page = decode_page(resource, body(name))
    found: dict[str, ClusterObject | None] = {}
    for item in page.items:
        assert isinstance(item, Observed), item
        assert item.problems == ()
        value = change_from_pb(pb.Change.FromString(item.body)).value if item.body is not None else None
        found[f"{item.key.namespace}/{item.key.name}".lstrip("/")] = value
    return found


def service(name: str) -> Service:
    value = listed(SERVICES, "list-services")[name]
    assert isinstance(value, Service)
    return value


def endpoint_slice(name: str) -> EndpointSlice:
    value = listed(ENDPOINT_SLICES, "list-endpointslices")[name]
    assert isinstance(value, EndpointSlice)
    return value


def test_services_that_are_not_ours_are_known_and_left_out() -> None:
    found = listed(SERVICES, "list-services")
    assert {name for name, value in found.items() if value is None} == {
        "shop/ext",
        "shop/headless",
        "shop/other-proxy",
    }
    assert len(found) == 12


def test_filtering_here_equals_filtering_at_the_server() -> None:
    ours = {name for name, value in listed(SERVICES, "list-services").items() if value is not None}
    filtered = listed(SERVICES, "list-services-proxy-filter")
    assert {name for name, value in filtered.items() if value is not None} == ours


def test_chunks_add_up_to_the_whole_list() -> None:
    chunks = [decode_page(SERVICES, body(f"list-services-chunk-{number}")) for number in (1, 2, 3)]
    assert [bool(chunk.continue_token) for chunk in chunks] == [True, True, False]
    assert {chunk.resource_version for chunk in chunks} == {"116"}
    whole = decode_page(SERVICES, body("list-services"))
    assert [item for chunk in chunks for item in chunk.items] == whole.items


def test_a_load_balancer_service_is_read_whole() -> None:
    lb = service("shop/lb")
    assert [(format_address(ip.address), ip.mode) for ip in lb.load_balancer_ips] == [
        ("203.0.113.200", LoadBalancerMode.VIP),
        ("203.0.113.201", LoadBalancerMode.PROXY),
    ]
    assert lb.external_traffic_policy is TrafficPolicy.LOCAL
    assert lb.internal_traffic_policy is TrafficPolicy.CLUSTER
    assert lb.health_check_node_port == 30914
    assert lb.ports[0].node_port == 32634
    assert lb.load_balancer_source_ranges == (parse_prefix("203.0.113.0/25"), parse_prefix("192.168.7.0/24"))


def test_single_facts_of_services_are_read() -> None:
    assert [format_address(ip) for ip in service("shop/web").cluster_ips] == ["10.109.158.203", "fd00:10:96::d0fe"]
    assert service("shop/sticky").affinity_timeout_seconds == 600
    assert service("shop/local").internal_traffic_policy is TrafficPolicy.LOCAL
    assert [port.name for port in service("shop/local").ports] == [""]
    assert service("shop/near").traffic_distribution == "PreferSameZone"
    assert [format_address(ip) for ip in service("shop/nodeport").external_ips] == ["198.51.100.7"]
    assert [port.protocol for port in service("shop/dns").ports] == [Protocol.UDP, Protocol.TCP, Protocol.SCTP]


def test_slices_without_service_of_names_or_for_headless_services_are_left_out() -> None:
    found = listed(ENDPOINT_SLICES, "list-endpointslices")
    assert {name for name, value in found.items() if value is None} == {
        "shop/fqdn",
        "shop/headless-a",
        "shop/orphan",
    }


def test_endpoint_facts_travel_whole() -> None:
    near = endpoint_slice("shop/near-a").endpoints[0]
    assert (near.node_name, near.zone, near.zone_hints, near.node_hints) == (
        "node-1",
        "zone-a",
        ("zone-a",),
        ("node-1",),
    )
    web = endpoint_slice("shop/web-v4-a")
    assert [(e.ready, e.serving, e.terminating) for e in web.endpoints] == [
        (True, True, False),
        (True, True, False),
        (False, True, True),
    ]
    assert web.endpoints[0].target is not None
    assert web.endpoints[0].target.name == "pod-10-244-0-10"
    assert web.trigger_time_ns == 1795395723_456789000
    assert endpoint_slice("shop/local-a").ports[0].name == ""


def test_absent_conditions_and_ports_without_number_follow_the_rules() -> None:
    minimal = endpoint_slice("shop/minimal")
    assert [(e.ready, e.serving, e.terminating) for e in minimal.endpoints] == [
        (True, True, False),
        (False, True, False),
    ]
    assert [port.name for port in minimal.ports] == ["a"]
    assert [e.node_name for e in minimal.endpoints] == [None, None]


def test_nodes_and_ranges_are_read() -> None:
    node = listed(NODES, "list-nodes")["node-3"]
    assert isinstance(node, Node)
    assert [(a.type, format_address(a.address)) for a in node.addresses] == [
        ("InternalIP", "192.168.7.4"),
        ("InternalIP", "2001:db8:7::4"),
    ]
    assert node.zone == "zone-b"
    assert [str(prefix) for prefix in node.pod_cidrs] == ["10.244.2.0/24", "fd00:10:244:2::/64"]
    assert [taint.key for taint in node.taints] == ["ToBeDeletedByClusterAutoscaler"]
    cidrs = listed(SERVICE_CIDRS, "list-servicecidrs")["kubernetes"]
    assert cidrs is not None
    assert "10.96.0.0/12" in str([str(prefix) for prefix in cidrs.cidrs])  # type: ignore[union-attr] # a ServiceCIDR


def test_a_label_change_behind_the_filter_reads_as_removal_and_return() -> None:
    found = events(SERVICES, "watch-services")
    observed = [(str(e.key), e.body is not None, e.resource_version) for e in found if isinstance(e, Observed)]
    assert observed[:2] == [("service shop/web", False, "121"), ("service shop/web", True, "122")]
    assert observed[-1] == ("service shop/empty", False, "126")
    assert found[-1] == Bookmark("126", ends_initial=False)


def test_initial_events_end_with_their_bookmark() -> None:
    found = events(ENDPOINT_SLICES, "watch-list-endpointslices")
    ends = [index for index, event in enumerate(found) if isinstance(event, Bookmark) and event.ends_initial]
    assert len(ends) == 1
    initial = {str(event.key) for event in found[: ends[0]] if isinstance(event, Observed)}
    assert len(initial) == ends[0] == 12


def test_an_expired_watch_is_one_failure_with_410() -> None:
    assert events(ENDPOINT_SLICES, "watch-expired") == [WatchFailure(410, "too old resource version: 5 (199)")]


def test_every_recorded_watch_line_is_understood() -> None:
    for resource, name in [
        (ENDPOINT_SLICES, "watch-endpointslices"),
        (NODES, "watch-nodes"),
        (SERVICES, "watch-services-no-rv"),
        (SERVICES, "watch-future"),
    ]:
        assert all(isinstance(event, Observed | Bookmark) for event in events(resource, name))


def test_refusals_are_read() -> None:
    expired = decode_status(body("error-410-continue-expired"))
    assert expired.code == 410
    assert expired.metadata is not None
    assert expired.metadata.continue_token
    assert "continue" in decode_status(body("error-continue-garbage")).message
