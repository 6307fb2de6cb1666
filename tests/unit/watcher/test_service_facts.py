# SPDX-License-Identifier: Apache-2.0
"""What of a v1 Service reaches the vocabulary, and that a faulty item costs itself only."""

from typing import Any

import pytest

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman_model.cluster import LoadBalancerIP, LoadBalancerMode, Service, TrafficPolicy
from pointsman_model.names import Prefix, parse_address, parse_prefix
from pointsman_model.wire.cluster import change_from_pb
from pointsman_watcher.core.decode import Observed, Rejected, decode_event
from pointsman_watcher.core.resources import SERVICES
from pointsman_watcher.core.services import NOBODY_IPV4, NOBODY_IPV6
from support.cluster_objects import Json, event, service, service_json, text


def observe(value: Json) -> Observed:
    item = decode_event(SERVICES, event("ADDED", value))
    assert isinstance(item, Observed), item
    return item


def read(value: Json) -> tuple[Service, list[str]]:
    item = observe(value)
    assert item.body is not None
    decoded = change_from_pb(pb.Change.FromString(item.body)).value
    assert isinstance(decoded, Service)
    return decoded, [problem.field for problem in item.problems]


def with_spec(*cluster_ips: str, **spec: Any) -> Json:
    return service_json("shop/web", *cluster_ips, spec=spec)


def test_the_builders_of_both_forms_agree() -> None:
    value, problems = read(
        service_json("shop/web", "10.96.0.7", "fd00::7", ports=["a:80", "b:53/UDP"], node_ports={"a": 30080})
    )
    assert value == service(
        "shop/web", "10.96.0.7", "fd00::7", ports=["a:80", "b:53/UDP"], node_ports={"a": 30080}, uid="uid-shop-web"
    )
    assert problems == []


@pytest.mark.parametrize(
    "value",
    [
        with_spec("None"),
        with_spec("None", clusterIPs=["None"]),
        with_spec(clusterIP="", clusterIPs=None),
        with_spec(clusterIP=None, clusterIPs=None),
        with_spec(type="ExternalName"),
        service_json("shop/web", labels={"service.kubernetes.io/service-proxy-name": "other"}),
        service_json("shop/web", labels={"service.kubernetes.io/service-proxy-name": ""}),
    ],
)
def test_services_that_others_serve_or_nobody_are_not_ours(value: Json) -> None:
    assert observe(value).body is None


def test_the_headless_label_on_a_service_means_nothing() -> None:
    assert observe(service_json("shop/web", labels={"service.kubernetes.io/headless": ""})).body is not None


def test_cluster_ips_win_over_cluster_ip_which_is_the_fallback() -> None:
    assert read(with_spec("10.96.0.1", clusterIP="10.96.0.9"))[0].cluster_ips == (parse_address("10.96.0.1"),)
    assert read(with_spec(clusterIP="10.96.0.9", clusterIPs=None))[0].cluster_ips == (parse_address("10.96.0.9"),)
    assert read(with_spec(clusterIP="10.96.0.9", clusterIPs=[]))[0].cluster_ips == (parse_address("10.96.0.9"),)


def test_sloppy_addresses_become_canonical() -> None:
    value, problems = read(with_spec("172.30.0.041", externalIPs=["203.0.113.001", "::ffff:198.51.100.7"]))
    assert text(value.cluster_ips[0]) == "172.30.0.41"
    assert [text(ip) for ip in value.external_ips] == ["203.0.113.1", "198.51.100.7"]
    assert problems == []


def test_a_malformed_item_is_left_out_and_the_rest_stays() -> None:
    hostile = with_spec("10.96.0.1", "fd00::zz", externalIPs=["198.51.100.7", "10.0.0", "198.51.100.8"])
    hostile["status"] = {
        "loadBalancer": {"ingress": [{"ip": "nope"}, {"ip": "203.0.113.1"}, {"hostname": "lb"}, {"ip": ""}]}
    }
    value, problems = read(hostile)
    assert [text(ip) for ip in value.cluster_ips] == ["10.96.0.1"]
    assert [text(ip) for ip in value.external_ips] == ["198.51.100.7", "198.51.100.8"]
    assert value.load_balancer_ips == (LoadBalancerIP(parse_address("203.0.113.1"), LoadBalancerMode.VIP),)
    assert problems == ["spec.clusterIPs[1]", "spec.externalIPs[1]", "status.loadBalancer.ingress[0].ip"]


def test_without_any_readable_cluster_ip_the_last_good_state_stays() -> None:
    item = decode_event(SERVICES, event("MODIFIED", with_spec("bogus", "10.96.0.256")))
    assert isinstance(item, Rejected)
    assert str(item.key) == "service shop/web"
    assert item.problem.field == "spec.clusterIPs"


def test_a_second_address_of_one_family_is_reported() -> None:
    value, problems = read(with_spec("10.96.0.1", "10.96.0.2"))
    assert [text(ip) for ip in value.cluster_ips] == ["10.96.0.1"]
    assert problems == ["spec.clusterIPs"]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(None, [LoadBalancerMode.VIP]), ("VIP", [LoadBalancerMode.VIP]), ("Proxy", [LoadBalancerMode.PROXY]), ("Odd", [])],
)
def test_ip_mode_defaults_to_vip_and_a_new_one_captures_nothing(mode: str | None, expected: list[object]) -> None:
    value = service_json("shop/web")
    value["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1", **({"ipMode": mode} if mode else {})}]}}
    assert [ip.mode for ip in read(value)[0].load_balancer_ips] == expected


def test_ports_default_to_tcp_and_bad_ones_are_left_out() -> None:
    ports = [
        {"port": 80},
        {"port": 0},
        {"port": 65536},
        {"port": 53, "protocol": "ICMP"},
        {"name": "n", "port": 10**30},
        {"name": "x", "port": 9, "protocol": "SCTP", "nodePort": 70000, "appProtocol": "h2c"},
    ]
    value, problems = read(with_spec(ports=ports))
    assert [(p.name, p.protocol.name, p.port, p.node_port, p.app_protocol) for p in value.ports] == [
        ("", "TCP", 80, 0, ""),
        ("x", "SCTP", 9, 0, "h2c"),
    ]
    assert problems == ["spec.ports[1].port", "spec.ports[2].port", "spec.ports[3].protocol", "spec.ports[4].port",
                        "spec.ports[5].nodePort"]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "expected", "problem_count"),
    [
        ({"sessionAffinity": "None"}, 0, 0),
        ({"sessionAffinity": None}, 0, 0),
        ({"sessionAffinity": "ClientIP"}, 10800, 0),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {}}, 10800, 0),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}, 1, 0),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}, 10800, 1),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}, 10800, 1),
        ({"sessionAffinity": "None", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}, 0, 0),
        ({"sessionAffinity": "Cookie"}, 0, 1),
    ],
)
def test_affinity(spec: Json, expected: int, problem_count: int) -> None:
    value, problems = read(with_spec(**spec))
    assert value.affinity_timeout_seconds == expected
    assert len(problems) == problem_count


def test_policies_are_local_only_when_they_say_so() -> None:
    local = read(with_spec(internalTrafficPolicy="Local", externalTrafficPolicy="Local"))[0]
    assert (local.internal_traffic_policy, local.external_traffic_policy) == (TrafficPolicy.LOCAL, TrafficPolicy.LOCAL)
    odd, problems = read(with_spec(internalTrafficPolicy=None, externalTrafficPolicy="Zonal"))
    assert (odd.internal_traffic_policy, odd.external_traffic_policy) == (TrafficPolicy.CLUSTER, TrafficPolicy.CLUSTER)
    assert problems == ["spec.externalTrafficPolicy"]


def test_of_the_annotations_only_ours_travel() -> None:
    value, _ = read(
        service_json("shop/web", annotations={"pointsman.io/b": "2", "other/x": "y", "pointsman.io/a": "1"})
    )
    assert value.annotations == (("pointsman.io/a", "1"), ("pointsman.io/b", "2"))


SOURCE_RANGES: list[tuple[str, list[str], tuple[Prefix, ...], int]] = [
    ("none given: everybody", [], (), 0),
    ("sloppy but readable", [" 203.0.113.000/025 "], (parse_prefix("203.0.113.0/25"),), 0),
    ("all malformed IPv4: nobody of IPv4", ["10.0.0.0/33"], (NOBODY_IPV4,), 1),
    ("all malformed IPv6: nobody of IPv6", ["fd00::/129"], (NOBODY_IPV6,), 1),
    ("no telling which family: nobody at all", ["everyone"], (NOBODY_IPV4, NOBODY_IPV6), 1),
    ("empty text: nobody at all", [""], (NOBODY_IPV4, NOBODY_IPV6), 1),
    ("both separators: nobody at all", ["::ffff:1.2.3.4/7"], (NOBODY_IPV4, NOBODY_IPV6), 1),
    ("a valid range of that family restricts already", ["10.0.0.0/8", "10.1.0.0/40"], (parse_prefix("10.0.0.0/8"),), 1),
    ("the other family's range does not", ["fd00::/8", "10.1.0.0/40"], (parse_prefix("fd00::/8"), NOBODY_IPV4), 1),
    ("everybody stays everybody", ["0.0.0.0/0", "10.1.0.0/40"], (parse_prefix("0.0.0.0/0"),), 1),
]


@pytest.mark.parametrize(
    ("texts", "expected", "problem_count"), [row[1:] for row in SOURCE_RANGES], ids=[row[0] for row in SOURCE_RANGES]
)
def test_a_malformed_source_range_never_opens_a_service(
    texts: list[str], expected: tuple[Prefix, ...], problem_count: int
) -> None:
    value, problems = read(with_spec(loadBalancerSourceRanges=texts))
    assert value.load_balancer_source_ranges == expected
    assert len(problems) == problem_count
