# SPDX-License-Identifier: Apache-2.0
"""Rules of one service: exact odds, no chain per endpoint, nobody remembered twice."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.iptables.layout import Kind, unpack
from pointsman_enforcer.dataplane.iptables.render import render_service
from pointsman_model.names import Family, Protocol, make_prefix
from pointsman_model.plan import (
    DROP,
    DataplaneSettings,
    DetectLocal,
    Frontend,
    FrontendKind,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
)
from support.enforcer_plans import forward

PODS = DataplaneSettings(detect_local=DetectLocal.CIDR, detect_local_cidrs=(make_prefix(bytes((10, 0, 0, 0)), 8),))
VIP = bytes((172, 30, 0, 41))
MASQUERADED = forward(masquerade=True)


def plan(weights: tuple[int, ...], *, seconds: int = 0, frontends: tuple[Frontend, ...] = ()) -> ServicePlan:
    chosen = tuple(PlanEndpoint(bytes((10, 0, 0, index)), 80, weight) for index, weight in enumerate(weights))
    cluster_ip = Frontend(FrontendKind.CLUSTER_IP, VIP, 80, forward(), MASQUERADED, MASQUERADED)
    port = ServicePortPlan(
        name="p",
        protocol=Protocol.TCP,
        family=Family.IPV4,
        frontends=(cluster_ip, *frontends),
        endpoint_sets=(chosen, chosen[:1]),
    )
    return ServicePlan(ports=(port,), affinity_timeout_seconds=seconds)


def rules(of: ServicePlan, kind: Kind) -> list[list[str]]:
    found = unpack(render_service(of, PODS))
    return [value.decode().splitlines() for record, value in found.items() if record.kind is kind]


@pytest.mark.parametrize("weights", [(1,), (1, 1, 1), (1, 2, 3, 6), (1, 4294967295), (1,) * 100])
def test_each_endpoint_has_its_share_of_connections(weights: tuple[int, ...]) -> None:
    [lines] = rules(plan(weights), Kind.ENDPOINTS)
    left, shares = Fraction(1), []
    for line in lines:
        match = re.search(r"--probability ([0-9.]+)", line)
        odds = Fraction(match[1]) if match else Fraction(1)
        shares.append(left * odds)
        left *= 1 - odds
    assert left == 0
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - Fraction(weight, sum(weights))) < Fraction(len(weights), 2**31)


def test_a_service_has_one_chain_and_one_rule_for_each_endpoint() -> None:
    assert [len(lines) for lines in rules(plan((1,) * 50), Kind.ENDPOINTS)] == [50]


def test_classes_are_asked_for_only_where_they_differ() -> None:
    differing = Frontend(FrontendKind.LOAD_BALANCER_IP, bytes((1, 2, 3, 4)), 80, forward(), MASQUERADED, DROP)
    assert rules(plan((1, 1)), Kind.FRONTEND) == [
        [f"-d 172.30.0.41/32 -p tcp -m tcp --dport 80 -g {_chain(plan((1, 1)))}"]
    ]
    lines = rules(plan((1, 1), frontends=(differing,)), Kind.FRONTEND)[0]
    chain = _chain(plan((1, 1)))
    match = "-d 1.2.3.4/32 -p tcp -m tcp --dport 80 "
    assert lines == [
        f"-s 10.0.0.0/8 {match}-g {chain}",
        f"{match}-m addrtype --src-type LOCAL -j POINTSMAN-MARK",
        f"{match}-m addrtype --src-type LOCAL -g {chain}",
        f"{match}-g POINTSMAN-DROP",
    ]


def _chain(of: ServicePlan) -> str:
    found = unpack(render_service(of, PODS))
    return next(record.key.decode() for record in found if record.kind is Kind.ENDPOINTS)


def test_a_client_that_draws_an_endpoint_is_taken_out_of_the_memories_outside_of_the_set() -> None:
    local = Frontend(FrontendKind.NODE_PORT, b"", 3001, forward(), MASQUERADED, forward(1))
    chains = rules(plan((1, 1, 1), seconds=60, frontends=(local,)), Kind.ENDPOINTS)
    memories = {re.search(r"--match-set (\S+)", line)[1] for line in max(chains, key=len) if "--match-set" in line}  # type: ignore[index]  # it is there
    narrow = min(chains, key=len)
    own = {re.search(r"--match-set (\S+)", line)[1] for line in narrow if "--match-set" in line}  # type: ignore[index]  # it is there
    taken_out = {re.search(r"--del-set (\S+)", line)[1] for line in narrow if "--del-set" in line}  # type: ignore[index]  # it is there
    assert len(memories) == 3
    assert len(own) == 1
    assert taken_out == memories - own
    assert not any("--del-set" in line for line in max(chains, key=len))


def test_what_cannot_be_said_is_refused() -> None:
    plain = Frontend(FrontendKind.CLUSTER_IP, bytes((172, 30, 0, 42)), 80, forward(), forward(), forward())
    with pytest.raises(UnsupportedPlanError, match="always masqueraded"):
        render_service(plan((1,), frontends=(plain,)), PODS)
    with pytest.raises(UnsupportedPlanError, match="weight"):
        render_service(plan((0, 1)), PODS)
    with pytest.raises(UnsupportedPlanError, match="remembered"):
        render_service(plan((1,), seconds=3_000_000), PODS)
    with pytest.raises(UnsupportedPlanError, match="requires teleport"):
        render_service(ServicePlan(required_capabilities=("teleport",)), PODS)
