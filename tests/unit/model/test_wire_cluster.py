# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_model.cluster import (
    Change,
    ClusterObject,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    LoadBalancerIP,
    LoadBalancerMode,
    Node,
    NodeAddress,
    ObjectKey,
    ObjectKind,
    Service,
    ServiceCIDR,
    ServicePort,
    SliceKey,
    Taint,
    TargetRef,
    TrafficPolicy,
    key_of,
)
from pointsman_model.names import Family, Prefix, Protocol, ServiceKey, make_prefix
from pointsman_model.wire import WireError
from pointsman_model.wire.cluster import change_from_pb, change_to_pb, object_to_pb, serialize
from support.cluster_objects import endpoint_slice, node, service, service_cidr

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
NAMES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=8)
IPV4 = st.binary(min_size=4, max_size=4)
ADDRESSES = IPV4 | st.binary(min_size=16, max_size=16)
PORTS = st.integers(1, 65535)
PREFIXES = ADDRESSES.flatmap(
    lambda address: st.integers(0, len(address) * 8).map(lambda length: make_prefix(address, length))
)
MAPS = st.dictionaries(TEXT, TEXT, max_size=3).map(lambda found: tuple(sorted(found.items())))


def tuples(values: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(values, max_size=3).map(tuple)


SERVICES = st.builds(
    Service,
    key=st.builds(ServiceKey, NAMES, NAMES),
    uid=TEXT,
    type=TEXT,
    cluster_ips=tuples(ADDRESSES),
    external_ips=tuples(ADDRESSES),
    load_balancer_ips=tuples(st.builds(LoadBalancerIP, ADDRESSES, st.sampled_from(LoadBalancerMode))),
    ports=tuples(st.builds(ServicePort, TEXT, st.sampled_from(Protocol), PORTS, st.just(0) | PORTS, TEXT)),
    internal_traffic_policy=st.sampled_from(TrafficPolicy),
    external_traffic_policy=st.sampled_from(TrafficPolicy),
    load_balancer_source_ranges=tuples(PREFIXES),
    affinity_timeout_seconds=st.integers(0, 86400),
    health_check_node_port=st.just(0) | PORTS,
    labels=MAPS,
    annotations=MAPS,
    traffic_distribution=TEXT,
    publish_not_ready_addresses=st.booleans(),
)
ENDPOINTS = st.builds(
    Endpoint,
    IPV4,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.none() | TEXT,
    st.none() | TEXT,
    tuples(TEXT),
    tuples(TEXT),
    st.none() | st.builds(TargetRef, TEXT, TEXT, TEXT, TEXT),
    TEXT,
)


def _slice(
    namespace: str, name: str, service_name: str, endpoints: tuple[Endpoint, ...], trigger: int
) -> EndpointSlice:
    return EndpointSlice(
        key=SliceKey(namespace, name),
        service=ServiceKey(namespace, service_name),
        family=Family.IPV4,
        ports=(EndpointPort("http", Protocol.TCP, 80, "h2c"),),
        endpoints=endpoints,
        trigger_time_ns=trigger,
    )


SLICES = st.builds(_slice, NAMES, NAMES, NAMES, tuples(ENDPOINTS), st.integers(0, 2**62))
NODES = st.builds(
    Node,
    name=NAMES,
    uid=TEXT,
    addresses=tuples(st.builds(NodeAddress, TEXT, ADDRESSES)),
    pod_cidrs=tuples(PREFIXES),
    zone=TEXT,
    labels=MAPS,
    taints=tuples(st.builds(Taint, TEXT, TEXT, TEXT)),
    deleting=st.booleans(),
)
CIDRS = st.builds(ServiceCIDR, name=NAMES, cidrs=tuples(PREFIXES))


@settings(max_examples=200)
@given(SERVICES | SLICES | NODES | CIDRS, TEXT, TEXT, st.integers(0, 2**62))
def test_every_change_survives_the_wire(value: ClusterObject, version: str, traceparent: str, observed: int) -> None:
    change = Change(
        key=key_of(value), value=value, resource_version=version, traceparent=traceparent, observed_at_ns=observed
    )
    assert change_from_pb(pb.Change.FromString(serialize(change_to_pb(change)))) == change


@given(st.sampled_from(ObjectKind), TEXT, NAMES)
def test_every_removal_survives_the_wire(kind: ObjectKind, namespace: str, name: str) -> None:
    change = Change(key=ObjectKey(kind, namespace, name), value=None, resource_version="7")
    assert change_from_pb(pb.Change.FromString(serialize(change_to_pb(change)))) == change


def test_absent_facts_stay_absent_and_empty_ones_stay_empty() -> None:
    value = _slice("a", "b", "c", (Endpoint(bytes(4)), Endpoint(bytes(4), node_name="", zone="")), 0)
    message = pb.Change.FromString(serialize(change_to_pb(Change(key=key_of(value), value=value))))
    assert not message.HasField("observed_at")
    assert not message.HasField("trace")
    decoded = change_from_pb(message).value
    assert isinstance(decoded, EndpointSlice)
    assert [(e.node_name, e.zone) for e in decoded.endpoints] == [(None, None), ("", "")]


def test_equal_objects_have_equal_bytes_whatever_the_order_of_their_labels() -> None:
    labels = {f"label-{number}": "x" for number in range(50)}
    one = service("shop/web", labels=labels)
    other = service("shop/web", labels=dict(reversed(labels.items())))
    assert serialize(object_to_pb(key_of(one), one)) == serialize(object_to_pb(key_of(other), other))


def _service_message(**fields: object) -> pb.Change:
    message = change_to_pb(Change(key=key_of(service("a/b")), value=service("a/b")))
    message.service.MergeFrom(pb.Service(**fields))  # type: ignore[arg-type] # hostile on purpose
    return message


def _changed(value: ClusterObject) -> pb.Change:
    return change_to_pb(Change(key=key_of(value), value=value))


def _hostile() -> list[tuple[str, pb.Change]]:
    unnamed = pb.Change(service=pb.Service())
    mixed = _changed(endpoint_slice("a/s", "b", ["10.0.0.1"]))
    mixed.endpoint_slice.endpoints[0].address = bytes(16)
    family = _changed(endpoint_slice("a/s", "b"))
    family.endpoint_slice.family = types_pb2.IP_FAMILY_UNSPECIFIED
    orphan = _changed(endpoint_slice("a/s", "b"))
    orphan.endpoint_slice.service_name = ""
    policy = _changed(service("a/b"))
    policy.service.internal_traffic_policy = pb.TRAFFIC_POLICY_UNSPECIFIED
    bits = types_pb2.IPPrefix(address=b"\x0a\0\0\1", length=8)
    return [
        ("no object", pb.Change()),
        ("service.name", unnamed),
        ("service.name: 'x", _changed(service("a/" + "x" * 254))),
        ("service.name: 'caf", _changed(service("caf\u00e9/b"))),
        ("endpoint_slice.name: 'a", _changed(endpoint_slice("a/a\nb", "b"))),
        ("service.cluster_ips", _service_message(cluster_ips=[b"abc"])),
        ("service.ports.protocol", _service_message(ports=[pb.ServicePort(port=1)])),
        ("service.ports.port", _service_message(ports=[pb.ServicePort(port=70000, protocol=types_pb2.PROTOCOL_TCP)])),
        ("service.health_check_node_port", _service_message(health_check_node_port=65536)),
        ("load_balancer_ips.mode", _service_message(load_balancer_ips=[pb.LoadBalancerIP(address=bytes(4))])),
        ("internal_traffic_policy", policy),
        ("host bits", _service_message(load_balancer_source_ranges=[bits])),
        ("not within", _service_message(load_balancer_source_ranges=[types_pb2.IPPrefix(address=bytes(4), length=33)])),
        ("endpoints.address", mixed),
        ("family", family),
        ("service_name", orphan),
        ("node.name", _changed(node(""))),
        ("service_cidr.name", _changed(service_cidr(""))),
        ("removal.kind", pb.Change(removal=pb.Removal(name=types_pb2.NamespacedName(name="x")))),
        ("removal.name", pb.Change(removal=pb.Removal(kind=pb.OBJECT_KIND_NODE))),
    ]


@pytest.mark.parametrize(("words", "message"), _hostile(), ids=lambda value: value if isinstance(value, str) else "")
def test_what_the_contract_forbids_is_refused_by_field(words: str, message: pb.Change) -> None:
    with pytest.raises(WireError, match=words):
        change_from_pb(message)


def test_prefixes_keep_their_length_of_zero() -> None:
    value = service_cidr("all", "0.0.0.0/0", "::/0")
    assert change_from_pb(_changed(value)).value == value
    assert value.cidrs == (Prefix(bytes(4), 0), Prefix(bytes(16), 0))


@pytest.mark.parametrize(("seconds", "nanos"), [(-1, 0), (0, -1), (0, 10**9), (253_402_300_800, 0), (2**63 - 1, 0)])
def test_a_time_that_is_none_is_unknown_and_costs_nothing_else(seconds: int, nanos: int) -> None:
    message = _changed(endpoint_slice("a/s", "b", ["10.0.0.1"]))
    for time in (message.observed_at, message.endpoint_slice.trigger_time):
        time.seconds, time.nanos = seconds, nanos
    change = change_from_pb(message)
    assert isinstance(change.value, EndpointSlice)
    assert (change.observed_at_ns, change.value.trigger_time_ns) == (0, 0)
    assert len(change.value.endpoints) == 1
