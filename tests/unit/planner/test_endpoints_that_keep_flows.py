# SPDX-License-Identifier: Apache-2.0
"""Which endpoints keep the flows they have, though no new ones come to them: `also_serving` of UDP and SCTP ports."""

import pytest

from pointsman_model.cluster import Endpoint
from pointsman_model.names import ServiceKey, format_address
from pointsman_model.plan import ServicePortPlan
from support.cluster_objects import endpoint, endpoint_slice, service
from support.planner_world import NODE, World

VIP = "172.30.1.1"


def planned(*members: Endpoint, port: str = "dns:53/UDP", **policy: bool) -> ServicePortPlan:
    world = World(
        service("dns", VIP, ports=[port], **policy),  # type: ignore[arg-type]  # flags are handed through
        endpoint_slice("dns-a", "dns", list(members), [port]),
    )
    (plan,) = world.plan.services[ServiceKey("default", "dns")].ports
    return plan


def kept(plan: ServicePortPlan) -> list[str]:
    return [f"{format_address(e.address)}:{e.port}" for e in plan.also_serving]


READY = endpoint("10.0.1.1")
DRAINING = endpoint("10.0.1.2", ready=False, serving=True, terminating=True)
STOPPED = endpoint("10.0.1.3", ready=False, serving=False, terminating=True)
UNREADY = endpoint("10.0.1.4", ready=False, serving=False)


@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_a_terminating_endpoint_that_serves_keeps_its_flows(protocol: str) -> None:
    plan = planned(READY, DRAINING, STOPPED, UNREADY, port=f"dns:53/{protocol}")
    assert [len(members) for members in plan.endpoint_sets] == [1]
    assert kept(plan) == ["10.0.1.2:53"]


def test_tcp_ports_carry_none() -> None:
    assert kept(planned(READY, DRAINING, port="dns:53/TCP")) == []


def test_an_endpoint_in_a_set_is_not_said_twice() -> None:
    plan = planned(DRAINING)
    assert [len(members) for members in plan.endpoint_sets] == [1]
    assert kept(plan) == []


def test_endpoints_that_policy_leaves_to_other_nodes_keep_their_flows() -> None:
    plan = planned(endpoint("10.0.1.1", node=NODE), endpoint("10.0.2.1", node="other"), internal_local=True)
    assert [len(members) for members in plan.endpoint_sets] == [1]
    assert kept(plan) == ["10.0.2.1:53"]


def test_endpoints_that_topology_leaves_to_other_nodes_keep_their_flows() -> None:
    plan = planned(endpoint("10.0.1.1", node_hints=[NODE]), endpoint("10.0.2.1", node_hints=["other"]))
    assert [len(members) for members in plan.endpoint_sets] == [1]
    assert kept(plan) == ["10.0.2.1:53"]
