# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for small clusters that collide on purpose: few names, addresses, nodes and zones."""

from hypothesis import strategies as st

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
    TargetRef,
    TrafficPolicy,
    key_of,
)
from pointsman_model.names import Family, Protocol, ServiceKey, make_prefix, parse_address, parse_prefix

NODES = ("n1", "n2", "n3")
ZONES = ("", "a", "b")
_SERVICES = tuple(ServiceKey("default", name) for name in ("kubernetes", "s1", "s2", "s3"))
_TARGETS = tuple(TargetRef("Pod", "default", name, "") for name in ("web-a", "web-b", "x"))
_policies = st.sampled_from(TrafficPolicy)
_external = st.lists(st.sampled_from([parse_address(t) for t in ("9.9.9.9", "10.96.0.1", "fd00::99")]), max_size=2)
_ranges = st.lists(
    st.sampled_from([parse_prefix(t) for t in ("192.168.0.0/30", "203.0.113.0/25", "fd00:1::/64", "0.0.0.0/0")]),
    max_size=2,
)


@st.composite
def services(draw: st.DrawFn) -> Service:
    """A Service of one of four names."""
    key = draw(st.sampled_from(_SERVICES))
    number = _SERVICES.index(key) + 1
    ips = [bytes((10, 96, 0, number)), parse_address(f"fd00:96::{number}")]
    balancer = [LoadBalancerIP(parse_address("1.2.3.4"), draw(st.sampled_from(LoadBalancerMode)))]
    return Service(
        key=key,
        type=draw(st.sampled_from(["ClusterIP", "LoadBalancer"])),
        cluster_ips=tuple(ips[: draw(st.integers(1, 2))]),
        external_ips=tuple(draw(_external)),
        load_balancer_ips=tuple(balancer if draw(st.booleans()) else ()),
        ports=tuple(
            ServicePort(name, Protocol.TCP, port, draw(st.sampled_from([0, 30001, 30002])))
            for name, port in (("p", 80), ("q", 81))[: draw(st.integers(1, 2))]
        ),
        internal_traffic_policy=draw(_policies),
        external_traffic_policy=draw(_policies),
        load_balancer_source_ranges=tuple(draw(_ranges)),
        affinity_timeout_seconds=draw(st.sampled_from([0, 10800])),
        health_check_node_port=draw(st.sampled_from([0, 32000])),
    )


@st.composite
def slices(draw: st.DrawFn) -> EndpointSlice:
    """A slice of one of six names, for any of the services."""
    family = draw(st.sampled_from(Family))
    hints = st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True).map(tuple)
    base = bytes((10, 1, 0)) if family is Family.IPV4 else parse_address("fd00:1::")[:15]
    endpoints = draw(
        st.lists(
            st.builds(
                Endpoint,
                address=st.integers(1, 4).map(lambda last: base + bytes((last,))),
                ready=st.booleans(),
                serving=st.booleans(),
                terminating=st.booleans(),
                node_name=st.sampled_from([*NODES, None, "elsewhere"]),
                zone_hints=hints,
                node_hints=st.lists(st.sampled_from(NODES), max_size=2, unique=True).map(tuple),
                target=st.sampled_from([None, *_TARGETS]),
            ),
            max_size=4,
        )
    )
    return EndpointSlice(
        key=SliceKey("default", f"slice-{draw(st.integers(1, 6))}"),
        service=draw(st.sampled_from(_SERVICES)),
        family=family,
        ports=tuple(EndpointPort(name, Protocol.TCP, 8080) for name in draw(st.sampled_from(["p", "q", "pq"]))),
        endpoints=tuple(endpoints),
        trigger_time_ns=draw(st.sampled_from([0, 1_700_000_000_000_000_000])),
    )


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    """One of three nodes, its zone and address drawn."""
    address = bytes((192, 168, 0, draw(st.integers(1, 6))))
    return Node(
        name=draw(st.sampled_from(NODES)),
        zone=draw(st.sampled_from(ZONES)),
        addresses=(NodeAddress("InternalIP", address),),
    )


_cidrs = st.builds(
    ServiceCIDR, name=st.just("kubernetes"), cidrs=st.sampled_from([(), (make_prefix(bytes((10, 96, 0, 0)), 16),)])
)


def objects() -> st.SearchStrategy[ClusterObject]:
    """Any object."""
    return st.one_of(services(), slices(), slices(), nodes(), _cidrs)


def keys() -> st.SearchStrategy[ObjectKey]:
    """The key of an object that may exist."""
    return st.one_of(
        st.sampled_from(_SERVICES).map(lambda key: ObjectKey(ObjectKind.SERVICE, *key)),
        st.integers(1, 6).map(lambda n: ObjectKey(ObjectKind.ENDPOINT_SLICE, "default", f"slice-{n}")),
        st.sampled_from(NODES).map(lambda name: ObjectKey(ObjectKind.NODE, "", name)),
    )


def changes() -> st.SearchStrategy[Change]:
    """An upsert, or (one in five) a removal; some are traced."""
    trace = st.sampled_from(["", f"00-{'a' * 32}-{'b' * 16}-01"])
    upsert = st.builds(lambda value, tp: Change(key=key_of(value), value=value, traceparent=tp), objects(), trace)
    removal = keys().map(lambda key: Change(key=key, value=None))
    return st.one_of(upsert, upsert, upsert, upsert, removal)
