# SPDX-License-Identifier: Apache-2.0
"""Overrides for tests, in one line each, and Hypothesis strategies that collide with those of `random_cluster`."""

from collections.abc import Iterable

from hypothesis import strategies as st

from pointsman_model.names import Protocol, parse_address
from pointsman_planner.core.override import (
    Drain,
    Kind,
    Override,
    OverrideChange,
    OverrideKey,
    Pin,
    Register,
    RegisteredEndpoint,
    RegisteredPort,
    Selector,
    Weight,
    WeightRule,
)
from support.cluster_objects import PortText, split_port

SECOND_NS = 1_000_000_000


def at(address: str = "", *, port: int = 0, node: str = "", target: str = "", prefix: str = "") -> Selector:
    """A selector."""
    return Selector(parse_address(address) if address else b"", port, node, target, prefix)


def key_of(name: str) -> OverrideKey:
    """`namespace/name`, or `name` of an override about all Services."""
    namespace, slash, rest = name.partition("/")
    return OverrideKey(namespace, rest) if slash else OverrideKey("", name)


def override(
    name: str,
    service: str,
    kind: Kind,
    *,
    owner: str = "tests",
    ttl_seconds: float = 0,
    expires_ns: int = 0,
) -> Override:
    """An override `namespace/name` (or `name`, of all) of the Service of that name in its namespace."""
    ttl_ns = round(ttl_seconds * SECOND_NS)
    if isinstance(kind, Register) and not ttl_ns:
        ttl_ns = 60 * SECOND_NS
    return Override(
        key=key_of(name), owner=owner, kind=kind, service_name=service, ttl_ns=ttl_ns, expires_ns=expires_ns
    )


def drain(name: str, service: str, selector: Selector) -> Override:
    """No new connections."""
    return override(name, service, Drain(endpoints=selector))


def weight(name: str, service: str, *rules: tuple[Selector, int]) -> Override:
    """Shares."""
    return override(name, service, Weight(rules=tuple(WeightRule(*rule) for rule in rules)))


def pin(name: str, service: str, *selectors: Selector) -> Override:
    """A subset."""
    return override(name, service, Pin(endpoints=selectors))


def register(
    name: str,
    service: str,
    *addresses: str,
    ports: Iterable[PortText] = ("80",),
    node: str = "",
    zone_hints: tuple[str, ...] = (),
) -> Override:
    """Endpoints beside the slices'."""
    return override(
        name,
        service,
        Register(
            ports=tuple(RegisteredPort(port, protocol, number) for port, number, protocol in map(split_port, ports)),
            endpoints=tuple(RegisteredEndpoint(parse_address(text), node, zone_hints) for text in addresses),
        ),
    )


def put(*overrides: Override) -> list[OverrideChange]:
    """Changes that bring these."""
    return [OverrideChange(each.key, each) for each in overrides]


def gone(*names: str) -> list[OverrideChange]:
    """Changes that end these."""
    return [OverrideChange(key_of(name), None) for name in names]


_addresses = st.integers(1, 5).map(lambda last: bytes((10, 1, 0, last)))
_addresses_of_both = st.one_of(_addresses, st.integers(1, 5).map(lambda last: parse_address(f"fd00:1::{last}")))
_nodes = st.sampled_from(["n1", "n2", "n3", "elsewhere"])
selectors = st.one_of(
    st.tuples(_addresses_of_both, st.sampled_from([0, 8080, 9090])).map(lambda pair: Selector(*pair)),
    _nodes.map(lambda name: Selector(node_name=name)),
    st.tuples(_addresses, _nodes).map(lambda pair: Selector(address=pair[0], node_name=pair[1])),
    st.sampled_from(["web-", "web-b", "x"]).map(lambda text: Selector(target_name_prefix=text)),
    st.sampled_from(["web-a", "web-b"]).map(lambda text: Selector(target_name=text)),
)
_rules = st.builds(WeightRule, selectors, st.sampled_from([0, 1, 2, 50, 999, 1000]))
_kinds = st.one_of(
    st.builds(Drain, endpoints=selectors),
    st.builds(Weight, rules=st.lists(_rules, min_size=1, max_size=3).map(tuple)),
    st.builds(Pin, endpoints=st.lists(selectors, min_size=1, max_size=3).map(tuple)),
    st.builds(
        Register,
        ports=st.lists(
            st.builds(RegisteredPort, st.sampled_from("pq"), st.just(Protocol.TCP), st.sampled_from([8080, 9090])),
            min_size=1,
            max_size=2,
        ).map(tuple),
        endpoints=st.lists(
            st.builds(
                RegisteredEndpoint,
                st.one_of(_addresses_of_both, st.sampled_from([bytes((10, 96, 0, 1)), bytes((9, 9, 9, 9))])),
                st.sampled_from(["", "n1", "n2", "elsewhere"]),
                st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True).map(tuple),
            ),
            min_size=1,
            max_size=3,
        ).map(tuple),
    ),
)


@st.composite
def overrides(draw: st.DrawFn) -> Override:
    """A legal override of one of five names; most are about one of the services of `random_cluster`."""
    kind = draw(_kinds)
    service = draw(st.sampled_from(["kubernetes", "s1", "s2", "s3", "absent"]))
    is_of_many = isinstance(kind, Drain) and draw(st.booleans())
    namespace = draw(st.sampled_from(["", "default"])) if is_of_many else "default"
    return Override(
        key=OverrideKey(namespace, f"o{draw(st.integers(1, 5))}"),
        owner=draw(st.sampled_from(["a", "b"])),
        kind=kind,
        service_name="" if is_of_many else service,
        ttl_ns=60 * SECOND_NS,
    )


def override_changes() -> st.SearchStrategy[OverrideChange]:
    """One that is applied, or (one in four) one that ends."""
    trace = st.sampled_from(["", f"00-{'a' * 32}-{'b' * 16}-01"])
    applied = st.builds(lambda each, tp: OverrideChange(each.key, each, tp), overrides(), trace)
    ended = st.builds(
        lambda namespace, number: OverrideChange(OverrideKey(namespace, f"o{number}"), None),
        st.sampled_from(["", "default"]),
        st.integers(1, 5),
    )
    return st.one_of(applied, applied, applied, ended)
