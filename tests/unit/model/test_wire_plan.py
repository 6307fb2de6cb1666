# SPDX-License-Identifier: Apache-2.0
"""plan.v1 on the wire: round trips, stable bytes, and refusal of everything the proto forbids."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_model.names import Family, Prefix, Protocol, make_prefix, parse_address, parse_prefix
from pointsman_model.plan import (
    DROP,
    REJECT,
    Action,
    DataplaneSettings,
    DetectLocal,
    Frontend,
    FrontendKind,
    HealthCheck,
    NodeFacts,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    Verdict,
)
from pointsman_model.wire import WireError
from pointsman_model.wire.plan import (
    PlanFormatError,
    decode_service_plan,
    encode_service_plan,
    node_facts_from_pb,
    node_facts_to_pb,
    service_plan_to_pb,
    settings_from_pb,
    settings_to_pb,
)

_numbers = st.integers(1, 65535)


def addresses(family: Family) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=family.address_bytes, max_size=family.address_bytes)


def prefixes(family: Family) -> st.SearchStrategy[Prefix]:
    return st.builds(make_prefix, addresses(family), st.integers(0, family.address_bits))


@st.composite
def ports(draw: st.DrawFn) -> ServicePortPlan:
    family = draw(st.sampled_from(Family))
    sets = draw(
        st.lists(
            st.dictionaries(
                st.tuples(addresses(family), _numbers),
                st.tuples(st.integers(1, 100), st.booleans()),
                min_size=1,
                max_size=5,
            ),
            max_size=3,
        )
    )
    endpoint_sets = tuple(tuple(PlanEndpoint(*pair, *found[pair]) for pair in sorted(found)) for found in sets)
    forward = st.builds(Verdict, st.just(Action.FORWARD), st.integers(0, max(len(sets) - 1, 0)), st.booleans())
    verdicts = st.one_of(st.just(REJECT), st.just(DROP), *([forward] if sets else []))
    kind = st.sampled_from(FrontendKind)
    frontends = []
    for _ in range(draw(st.integers(0, 3))):
        chosen = draw(kind)
        address = b"" if chosen is FrontendKind.NODE_PORT else draw(addresses(family))
        ranges = tuple(draw(st.lists(prefixes(family), max_size=3)))
        frontends.append(
            Frontend(chosen, address, draw(_numbers), draw(verdicts), draw(verdicts), draw(verdicts), ranges)
        )
    protocol = draw(st.sampled_from(Protocol))
    others = st.just(set[tuple[bytes, int]]())
    if protocol is not Protocol.TCP:
        others = st.sets(st.tuples(addresses(family), _numbers), max_size=3)
    return ServicePortPlan(
        name=draw(st.sampled_from(["", "http"])),
        protocol=protocol,
        family=family,
        frontends=tuple(frontends),
        endpoint_sets=endpoint_sets,
        also_serving=tuple(PlanEndpoint(*pair) for pair in sorted(draw(others))),
    )


plans = st.builds(
    ServicePlan,
    ports=st.lists(ports(), max_size=3).map(tuple),
    affinity_timeout_seconds=st.integers(0, 86400),
    health_check=st.none() | st.builds(HealthCheck, node_port=_numbers, local_endpoints=st.integers(0, 1000)),
    required_capabilities=st.lists(st.sampled_from(["a", "b"]), unique=True).map(lambda names: tuple(sorted(names))),
    ipvs_scheduler=st.sampled_from(["", "mh,mh-fallback"]),
)


@settings(max_examples=200, deadline=None)
@given(plans)
def test_decode_is_the_inverse_of_encode(plan: ServicePlan) -> None:
    data = encode_service_plan(plan)
    assert decode_service_plan(data) == plan
    assert encode_service_plan(decode_service_plan(data)) == data


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_plan_or_a_format_error(data: bytes) -> None:
    with contextlib.suppress(PlanFormatError):
        plan = decode_service_plan(data)
        assert decode_service_plan(encode_service_plan(plan)) == plan


def good() -> pb.ServicePlan:
    endpoints = (PlanEndpoint(bytes((10, 0, 0, 1)), 80), PlanEndpoint(bytes((10, 0, 0, 2)), 80, hairpin=True))
    forward = Verdict(Action.FORWARD, 0, masquerade=True)
    ranges = (parse_prefix("10.0.0.0/8"),)
    frontend = Frontend(FrontendKind.LOAD_BALANCER_IP, bytes((1, 2, 3, 4)), 80, forward, forward, DROP, ranges)
    port = ServicePortPlan(
        name="p", protocol=Protocol.TCP, family=Family.IPV4, frontends=(frontend,), endpoint_sets=(endpoints,)
    )
    return service_plan_to_pb(ServicePlan(ports=(port,)))


def broken(field: str, value: object) -> Callable[[pb.ServicePlan], None]:
    def change(plan: pb.ServicePlan) -> None:
        target = plan.ports[0]
        *path, last = field.split(".")
        for name in path:
            target = getattr(target, name)[0] if name in {"frontends", "endpoint_sets"} else getattr(target, name)
        if isinstance(value, list):
            del getattr(target, last)[:]
            getattr(target, last).extend(value)
        else:
            setattr(target, last, value)

    return change


BREAKS = {
    "protocol unspecified": ("protocol", 0),
    "protocol unknown": ("protocol", 99),
    "family unspecified": ("family", 0),
    "family of the addresses": ("family", 6),
    "kind unspecified": ("frontends.kind", 0),
    "node port with an address": ("frontends.kind", 4),
    "address too short": ("frontends.address", b"\x01"),
    "port 0": ("frontends.port", 0),
    "port too large": ("frontends.port", 65536),
    "action unspecified": ("frontends.from_pod.action", 0),
    "action unknown": ("frontends.from_pod.action", 9),
    "endpoint set missing": ("frontends.from_pod.endpoint_set", 1),
    "range has host bits": (
        "frontends.source_ranges",
        [pb.Frontend().source_ranges.add(address=b"\x0a\1\1\1", length=8)],
    ),
    "range too long": ("frontends.source_ranges", [pb.Frontend().source_ranges.add(address=bytes(4), length=33)]),
    "range of another family": (
        "frontends.source_ranges",
        [pb.Frontend().source_ranges.add(address=bytes(16), length=8)],
    ),
    "empty set": ("endpoint_sets.ports", []),
    "endpoint port 0": ("endpoint_sets.ports", [0, 80]),
    "fewer addresses than ports": ("endpoint_sets.addresses", bytes((10, 0, 0, 1))),
    "not sorted": ("endpoint_sets.addresses", bytes((10, 0, 0, 2, 10, 0, 0, 1))),
    "duplicate": ("endpoint_sets.addresses", bytes((10, 0, 0, 1, 10, 0, 0, 1))),
    "weights of another length": ("endpoint_sets.weights", [1]),
    "weight 0": ("endpoint_sets.weights", [1, 0]),
    "hairpin index": ("endpoint_sets.hairpin", [2]),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_rule_is_named(name: str) -> None:
    message = good()
    assert decode_service_plan(message.SerializeToString()).ports
    broken(*BREAKS[name])(message)
    with pytest.raises(PlanFormatError, match=r"^ports\[0\]"):
        decode_service_plan(message.SerializeToString())


@pytest.mark.parametrize(
    ("protocol", "change", "problem"),
    [
        (Protocol.TCP, {}, "is for UDP and SCTP only"),
        (Protocol.UDP, {"weights": [2]}, "has neither weights nor hairpin"),
        (Protocol.SCTP, {"hairpin": [0]}, "has neither weights nor hairpin"),
        (Protocol.UDP, {"addresses": bytes(16)}, "16 address bytes for 1 ports"),
        (Protocol.UDP, {"addresses": b"", "ports": []}, "an endpoint set is never empty"),
    ],
)
def test_endpoints_that_keep_their_flows_are_checked(
    protocol: Protocol, change: dict[str, bytes | list[int]], problem: str
) -> None:
    message = good()
    message.ports[0].protocol = types_pb2.Protocol.ValueType(protocol)
    fields: dict[str, Any] = {"addresses": bytes((10, 0, 0, 9)), "ports": [80]} | change
    message.ports[0].also_serving.CopyFrom(pb.EndpointSet(**fields))
    with pytest.raises(PlanFormatError, match=rf"^ports\[0\]\.also_serving: {problem}"):
        decode_service_plan(message.SerializeToString())


def test_health_check_port_is_checked() -> None:
    message = good()
    message.health_check.node_port = 70000
    with pytest.raises(PlanFormatError, match=r"health_check\.node_port"):
        decode_service_plan(message.SerializeToString())


def test_node_facts_round_trip_and_refuse_bad_addresses() -> None:
    facts = NodeFacts(
        name="n",
        addresses=(parse_address("10.0.0.1"), parse_address("fd00::1")),
        pod_cidrs=(parse_prefix("10.1.0.0/24"),),
        service_cidrs=(parse_prefix("10.96.0.0/16"),),
        eligible=False,
    )
    assert node_facts_from_pb(node_facts_to_pb(facts)) == facts
    with pytest.raises(WireError, match=r"node\.addresses"):
        node_facts_from_pb(pb.NodeFacts(addresses=[b"abc"]))


def test_settings_round_trip_and_refuse_an_unknown_detector() -> None:
    made = DataplaneSettings(
        detect_local=DetectLocal.CIDR,
        detect_local_cidrs=(parse_prefix("10.0.0.0/8"),),
        masquerade_all=True,
        node_port_addresses=(parse_prefix("0.0.0.0/0"),),
    )
    assert settings_from_pb(settings_to_pb(made)) == made
    with pytest.raises(WireError, match="detect_local"):
        settings_from_pb(pb.DataplaneSettings())
