# SPDX-License-Identifier: Apache-2.0
"""Service ports that drop traffic because all their endpoints are on other nodes, counted as kube-proxy counts them."""

from __future__ import annotations

from pointsman_enforcer.core.local_endpoints import Gap, GapCount, gaps_of
from pointsman_model.names import Family, Protocol, parse_address
from pointsman_model.plan import DROP, REJECT, Frontend, FrontendKind, ServicePlan, ServicePortPlan, Verdict
from support.enforcer_plans import endpoints, forward, key


def port(name: str, cluster_ip: Verdict, *external: Verdict) -> ServicePortPlan:
    address = parse_address("172.30.0.41")
    outside = [Frontend(FrontendKind.NODE_PORT, b"", 3001, forward(), forward(), verdict) for verdict in external]
    return ServicePortPlan(
        name=name,
        protocol=Protocol.TCP,
        family=Family.IPV4,
        frontends=(Frontend(FrontendKind.CLUSTER_IP, address, 80, cluster_ip, cluster_ip, cluster_ip), *outside),
        endpoint_sets=(endpoints("10.0.0.1"),),
    )


def test_each_policy_of_each_service_port_is_a_gap_of_its_own() -> None:
    plan = ServicePlan(ports=(port("a", DROP, DROP, DROP), port("b", forward(), DROP), port("c", DROP, forward())))
    internal, external = Gap("internal", Family.IPV4), Gap("external", Family.IPV4)
    assert sorted(gaps_of(plan)) == sorted([internal, external, external, internal])


def test_a_service_without_any_endpoint_has_no_gap() -> None:
    assert gaps_of(ServicePlan(ports=(port("a", REJECT, REJECT),))) == ()


def test_counts_follow_the_services() -> None:
    counts, gap = GapCount(), Gap("internal", Family.IPV4)
    counts.update(key(1), ServicePlan(ports=(port("a", DROP), port("b", DROP))))
    counts.update(key(2), ServicePlan(ports=(port("a", DROP),)))
    assert counts.count(gap) == 3
    assert counts.count(Gap("internal", Family.IPV6)) == 0
    counts.update(key(1), ServicePlan(ports=(port("a", forward()),)))
    assert counts.count(gap) == 1
    counts.update(key(2), None)
    assert counts.count(gap) == 0
