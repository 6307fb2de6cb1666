# SPDX-License-Identifier: Apache-2.0
"""Plans for enforcer tests: small ones by hand, many by number, any by Hypothesis, and transactions of them."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st

from pointsman_enforcer.core.transaction import Position, Transaction
from pointsman_model.digest import DigestBuckets, bucket_of, plan_digest
from pointsman_model.names import Family, Prefix, Protocol, ServiceKey, make_prefix, parse_address, parse_prefix
from pointsman_model.plan import (
    DROP,
    REJECT,
    Action,
    Frontend,
    FrontendKind,
    NodeFacts,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    Verdict,
)
from pointsman_model.wire.plan import encode_service_plan

FACTS = NodeFacts(
    name="node-1",
    addresses=(parse_address("192.168.0.2"), parse_address("2001:db8::1")),
    pod_cidrs=(parse_prefix("10.0.1.0/24"),),
    service_cidrs=(parse_prefix("172.30.0.0/16"), parse_prefix("fd00:10:96::/112")),
)


def forward(index: int = 0, *, masquerade: bool = False) -> Verdict:
    return Verdict(Action.FORWARD, index, masquerade)


def key(index: int | str) -> ServiceKey:
    return ServiceKey("default", f"svc-{index}")


def endpoints(*texts: str, port: int = 8080, hairpin: tuple[str, ...] = ()) -> tuple[PlanEndpoint, ...]:
    return tuple(sorted(PlanEndpoint(parse_address(text), port, 1, text in hairpin) for text in texts))


def cluster_ip(
    address: str, port: int, chosen: tuple[PlanEndpoint, ...], protocol: Protocol = Protocol.TCP
) -> ServicePortPlan:
    """A cluster IP with Cluster policy, or with no endpoint anywhere."""
    packed = parse_address(address)
    verdicts = (forward(), forward(masquerade=True), forward(masquerade=True)) if chosen else (REJECT, REJECT, REJECT)
    frontend = Frontend(FrontendKind.CLUSTER_IP, packed, port, *verdicts)
    family = Family.IPV4 if len(packed) == 4 else Family.IPV6
    sets = (chosen,) if chosen else ()
    return ServicePortPlan(name="", protocol=protocol, family=family, frontends=(frontend,), endpoint_sets=sets)


def numbered(index: int, count: int = 10, *, first: int = 1) -> ServicePlan:
    """Service `index` of many, with `count` endpoints of its own numbered from `first`."""
    address = bytes([172, 30, index >> 8 & 255, index & 255])
    chosen = tuple(
        PlanEndpoint(bytes([10, index >> 8 & 255, index & 255, first + each]), 8080) for each in range(count)
    )
    verdicts = (forward(), forward(masquerade=True), forward(masquerade=True))
    frontend = Frontend(FrontendKind.CLUSTER_IP, address, 80, *verdicts)
    port = ServicePortPlan(
        name="http", protocol=Protocol.TCP, family=Family.IPV4, frontends=(frontend,), endpoint_sets=(chosen,)
    )
    return ServicePlan(ports=(port,))


def load_balancer() -> ServicePlan:
    """Two families, three kinds of address, external policy Local, source ranges, weights."""
    everyone = endpoints("10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", hairpin=("10.1.0.1",))
    local = everyone[:1]
    by_class = (forward(0), forward(0, masquerade=True), forward(1))
    inside = (forward(0), forward(0, masquerade=True), forward(0, masquerade=True))
    ranges = (parse_prefix("192.168.0.0/24"), parse_prefix("203.0.113.0/25"))
    four = (
        Frontend(FrontendKind.CLUSTER_IP, parse_address("172.30.0.42"), 80, *inside),
        Frontend(FrontendKind.LOAD_BALANCER_IP, parse_address("1.2.3.4"), 80, *by_class, ranges),
        Frontend(FrontendKind.NODE_PORT, b"", 3001, *by_class),
    )
    weighted = tuple(PlanEndpoint(parse_address(f"fd00:10::{each}"), 8080, each, each == 1) for each in (1, 2, 3))
    six = (
        Frontend(FrontendKind.CLUSTER_IP, parse_address("fd00:10:96::42"), 80, *inside),
        Frontend(FrontendKind.EXTERNAL_IP, parse_address("2001:db8:99::1"), 80, REJECT, DROP, REJECT),
    )
    return ServicePlan(
        ports=(
            ServicePortPlan(
                name="http", protocol=Protocol.TCP, family=Family.IPV4, frontends=four, endpoint_sets=(everyone, local)
            ),
            ServicePortPlan(
                name="http", protocol=Protocol.TCP, family=Family.IPV6, frontends=six, endpoint_sets=(weighted,)
            ),
        )
    )


def whole(plans: Mapping[ServiceKey, ServicePlan], *, nonce: int = 1) -> Transaction:
    """The transaction that makes these the whole plan."""
    encoded = {name: encode_service_plan(plan) for name, plan in plans.items()}
    return Transaction(
        nonce=nonce,
        position=Position("test", nonce),
        updates=encoded,
        replaces_all=True,
        facts=FACTS,
        digest=digest_of(encoded),
        in_sync=True,
    )


def digest_of(encoded: Mapping[ServiceKey, bytes]) -> int:
    buckets = DigestBuckets()
    for name, data in encoded.items():
        buckets.replace(bucket_of(name), 0, plan_digest(name, data))
    return buckets.total


def service_plans(owner: int) -> st.SearchStrategy[ServicePlan]:
    """Any plan whose addresses nobody but `owner` uses; endpoints are shared by all."""
    return st.tuples(_port(owner, Family.IPV4), _port(owner, Family.IPV6), st.sampled_from((0, 0, 10800))).map(
        lambda parts: ServicePlan(
            ports=tuple(port for port in parts[:2] if port is not None), affinity_timeout_seconds=parts[2]
        )
    )


def _port(owner: int, family: Family) -> st.SearchStrategy[ServicePortPlan | None]:
    return st.one_of(
        st.none(),
        st.lists(_endpoint_sets(family), min_size=1, max_size=2).flatmap(
            lambda sets: _frontends(owner, family, len(sets)).map(
                lambda frontends: ServicePortPlan(
                    name="p",
                    protocol=Protocol.TCP,
                    family=family,
                    frontends=tuple(sorted(frontends)),
                    endpoint_sets=tuple(sets),
                )
            )
        ),
    )


def _endpoint_sets(family: Family) -> st.SearchStrategy[tuple[PlanEndpoint, ...]]:
    one = st.tuples(st.integers(1, 6), st.sampled_from((80, 8080)))
    return st.dictionaries(one, st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=5).map(
        lambda found: tuple(
            sorted(
                PlanEndpoint(bytes(family.address_bytes - 2) + bytes((10, host)), port, weight, hairpin)
                for (host, port), (weight, hairpin) in found.items()
            )
        )
    )


def _frontends(owner: int, family: Family, sets: int) -> st.SearchStrategy[list[Frontend]]:
    kinds = st.lists(st.sampled_from(tuple(FrontendKind)), min_size=1, max_size=4, unique=True)
    return kinds.flatmap(lambda chosen: st.tuples(*(_frontend(owner, family, kind, sets) for kind in chosen)).map(list))


def _frontend(owner: int, family: Family, kind: FrontendKind, sets: int) -> st.SearchStrategy[Frontend]:
    address = b"" if kind is FrontendKind.NODE_PORT else bytes(family.address_bytes - 3) + bytes((172, kind, owner))
    port = 30000 + owner if kind is FrontendKind.NODE_PORT else 80
    masquerades = st.just(True) if kind is FrontendKind.CLUSTER_IP else st.booleans()
    verdict = st.one_of(
        st.just(REJECT),
        st.just(DROP),
        st.builds(Verdict, st.just(Action.FORWARD), st.integers(0, sets - 1), masquerades),
    )
    pod = st.one_of(
        st.just(REJECT), st.just(DROP), st.builds(Verdict, st.just(Action.FORWARD), st.integers(0, sets - 1))
    )
    ranges = _ranges(family) if kind is FrontendKind.LOAD_BALANCER_IP else st.just(())
    return st.builds(Frontend, st.just(kind), st.just(address), st.just(port), pod, verdict, verdict, ranges)


def _ranges(family: Family) -> st.SearchStrategy[tuple[Prefix, ...]]:
    one = st.tuples(st.integers(0, 255), st.integers(1, family.address_bits)).map(
        lambda pair: make_prefix(bytes((pair[0],)) + bytes(family.address_bytes - 1), pair[1])
    )
    return st.lists(one, max_size=3, unique=True).map(lambda found: tuple(sorted(found)))
