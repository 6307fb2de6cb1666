# SPDX-License-Identifier: Apache-2.0
"""Who chooses an endpoint and how: schedulers, their flags, weights, affinity; what cannot be done is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from pointsman_chassis.errors import UnsupportedError
from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.ipvs.genetlink.model import ServiceFlags
from pointsman_enforcer.dataplane.ipvs.schedulers import NAMES
from pointsman_model.names import Family, Protocol
from pointsman_model.plan import FrontendKind
from support.ipvs_node import ENDPOINTS, PORT, VIP, IpvsNode, plan_of, who

A, B, C = ENDPOINTS[Family.IPV4]
ABSENT = "twos"
"""Younger than the guest's kernel package."""


@pytest.fixture(name="node", scope="module")
def one_node() -> Iterator[IpvsNode]:
    with IpvsNode() as node:
        yield node


def traits(node: IpvsNode) -> set[str]:
    """How virtual servers choose, as ipvsadm prints it."""
    return {line.partition(" -s ")[2] for line in node.servers() if line.startswith("-A")}


@pytest.mark.parametrize("name", [name for name in NAMES if name != ABSENT])
def test_a_service_gets_the_scheduler_it_wishes(node: IpvsNode, name: str) -> None:
    node.program({"web": plan_of(A, B, ipvs_scheduler=name)})
    assert traits(node) == {name}
    assert who(node) in {A, B}
    assert node.differing() == ""


@pytest.mark.parametrize(
    ("wish", "printed"),
    [
        ("mh,mh-fallback", "mh -b mh-fallback"),
        ("mh, mh-port", "mh -b mh-port"),
        ("mh,mh-fallback,mh-port", "mh -b mh-fallback,mh-port"),
        ("sh,sh-fallback,sh-port", "sh -b sh-fallback,sh-port"),
    ],
)
def test_flags_of_schedulers_reach_the_kernel(node: IpvsNode, wish: str, printed: str) -> None:
    node.program({"web": plan_of(A, B, ipvs_scheduler=wish)})
    assert traits(node) == {printed}


@pytest.mark.parametrize(
    ("wish", "words"),
    [("best", "no scheduler 'best'; it has rr"), ("rr,mh-port", "rr has no flag"), (ABSENT, "module ip_vs_twos")],
)
def test_what_the_kernel_cannot_do_is_refused_and_the_service_stays_as_it_was(
    node: IpvsNode, wish: str, words: str
) -> None:
    node.program({"web": plan_of(A, ipvs_scheduler="lc")})
    with pytest.raises(UnsupportedPlanError, match=words):
        node.program({"web": plan_of(A, B, ipvs_scheduler=wish)})
    assert traits(node) == {"lc"}
    assert who(node) == A


def test_weights_are_honoured_and_round_robin_becomes_weighted(node: IpvsNode) -> None:
    node.program({"web": plan_of(A, B, weights={A: 1, B: 3})})
    assert traits(node) == {"wrr"}
    assert Counter(who(node) for _ in range(16)) == {A: 4, B: 12}
    node.program({"web": plan_of(A, B, weights={A: 1, B: 3}, ipvs_scheduler="lc")})
    assert traits(node) == {"wlc"}
    with pytest.raises(UnsupportedPlanError, match="dh knows no weights"):
        node.program({"web": plan_of(A, B, weights={A: 1, B: 3}, ipvs_scheduler="dh")})


def test_source_hashing_keeps_a_client_at_its_endpoint(node: IpvsNode) -> None:
    node.program({"web": plan_of(A, B, C, ipvs_scheduler="sh")})
    assert len({who(node) for _ in range(12)}) == 1


def test_affinity_is_persistence_with_the_services_timeout(node: IpvsNode) -> None:
    node.program({"web": plan_of(A, B, C, affinity_timeout_seconds=300)})
    assert f"-A -t {VIP[Family.IPV4]}:{PORT} -s rr -p 300" in node.servers()
    first = who(node)
    assert {who(node) for _ in range(8)} == {first}
    rest = [each for each in (A, B, C) if each != first]
    node.program({"web": plan_of(*rest, affinity_timeout_seconds=300)})
    assert len({who(node) for _ in range(6)} & set(rest)) == 1


def test_affinity_of_a_class_of_its_own_is_refused(node: IpvsNode) -> None:
    plan = plan_of(A, B, affinity_timeout_seconds=300)
    (port,) = plan.ports
    other = port.frontends[0].from_host._replace(endpoint_set=1)
    frontend = port.frontends[0]._replace(kind=FrontendKind.EXTERNAL_IP, from_outside=other)
    uneven = type(port)(
        name="",
        protocol=Protocol.TCP,
        family=port.family,
        frontends=(frontend,),
        endpoint_sets=(port.endpoint_sets[0], port.endpoint_sets[0][:1]),
    )
    with pytest.raises(UnsupportedPlanError, match="different endpoints"):
        node.program({"web": type(plan)(ports=(uneven,), affinity_timeout_seconds=300)})


def test_a_plan_that_needs_more_than_ipvs_can_is_refused(node: IpvsNode) -> None:
    with pytest.raises(UnsupportedPlanError, match="telepathy"):
        node.program({"web": plan_of(A, required_capabilities=("telepathy",))})


def test_the_nodes_scheduler_is_everybodys_who_wishes_for_none(node: IpvsNode) -> None:
    node.program({})
    node.namespace.run("ipvsadm", "-C")
    node.restart(scheduler="mh", flags=ServiceFlags.MH_PORT)
    node.program({"web": plan_of(A, B), "dns": plan_of(C, port=53, protocol=Protocol.UDP, ipvs_scheduler="lc")})
    assert traits(node) == {"mh -b mh-port", "lc"}
    node.dataplane.close()
    with pytest.raises(UnsupportedError, match="no scheduler 'best'"):
        node.restart(scheduler="best")
    node.restart(scheduler="", flags=ServiceFlags.NONE)
