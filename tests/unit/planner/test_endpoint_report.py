# SPDX-License-Identifier: Apache-2.0
"""Every endpoint is accounted for: in which sets it is as a node sees it, and why it is not in the others."""

import hypothesis.strategies as st
from hypothesis import given

from pointsman_model.cluster import Change, ClusterObject
from pointsman_model.names import ServiceKey, format_address, parse_address
from pointsman_planner.core.assignment import plan_service
from pointsman_planner.core.cluster_state import ClusterState
from pointsman_planner.core.endpoint_report import ServiceReport, SetKind, report_endpoints
from pointsman_planner.core.exclusions import Cause
from pointsman_planner.core.override import (
    Drain,
    Override,
    OverrideChange,
    OverrideKey,
    Register,
    RegisteredEndpoint,
    RegisteredPort,
    Selector,
)
from pointsman_planner.core.view import view_of
from support.cluster_objects import Protocol, endpoint, endpoint_slice, node, service
from support.planner_world import cluster_of
from support.random_cluster import NODES, changes

CLUSTER, LOCAL = SetKind.CLUSTER, SetKind.LOCAL
WEB = ServiceKey("shop", "web")
NODE_A = node("node-a", "192.168.0.2", zone="a")


def report(*objects: ClusterObject, on: str = "node-a") -> ServiceReport:
    cluster = cluster_of(NODE_A, *objects)
    return report_endpoints(cluster, cluster.services[WEB], on)


def fates(made: ServiceReport, port: int = 0) -> dict[str, list[object]]:
    """By address: sets it is in, and (set, cause) of those it is not in."""
    found: dict[str, list[object]] = {}
    for row in made.ports[port].rows:
        fate = found.setdefault(format_address(row.facts.address), [])
        fate += [*row.sets, *((absence.set_kind, absence.why.cause) for absence in row.absences)]
    return found


def web(**more: object) -> ClusterObject:
    return service("shop/web", "10.96.0.1", ports=["p:80"], **more)  # type: ignore[arg-type] # the builder's keywords


def test_conditions_policy_and_place_decide_set_by_set() -> None:
    made = report(
        web(node_ports={"p": 30080}, external_local=True),
        endpoint_slice(
            "shop/web-x",
            "web",
            [
                endpoint("10.1.0.1", node="node-a"),
                endpoint("10.1.0.2", node="node-b"),
                endpoint("10.1.0.3", node="node-a", ready=False),
                endpoint("10.1.0.4", node="node-a", ready=False, serving=True, terminating=True),
                endpoint("10.1.0.5", node="node-a", ready=False, serving=False, terminating=True),
                endpoint("10.1.0.6"),
            ],
            ["p:8080"],
        ),
    )
    assert made.ports[0].used_sets == (CLUSTER, LOCAL)
    assert fates(made) == {
        "10.1.0.1": [CLUSTER, LOCAL],
        "10.1.0.2": [CLUSTER, (LOCAL, Cause.POLICY_LOCAL)],
        "10.1.0.3": [(CLUSTER, Cause.NOT_READY), (LOCAL, Cause.NOT_READY)],
        "10.1.0.4": [(CLUSTER, Cause.TERMINATING_FALLBACK), (LOCAL, Cause.TERMINATING_FALLBACK)],
        "10.1.0.5": [(CLUSTER, Cause.TERMINATING), (LOCAL, Cause.TERMINATING)],
        "10.1.0.6": [CLUSTER, (LOCAL, Cause.POLICY_LOCAL)],
    }
    assert [row.weight for row in made.ports[0].rows] == [1, 1, 0, 0, 0, 1]


def test_hints_are_the_reason_with_the_zone_that_they_miss() -> None:
    made = report(
        web(),
        endpoint_slice(
            "shop/web-x",
            "web",
            [endpoint("10.1.0.1", zone_hints=["a"]), endpoint("10.1.0.2", zone_hints=["b"])],
            ["p:80"],
        ),
    )
    assert fates(made) == {"10.1.0.1": [CLUSTER], "10.1.0.2": [(CLUSTER, Cause.ZONE_HINTS)]}
    assert made.ports[0].topology.value == "zone"
    assert made.ports[0].rows[1].absences[0].why.reason == "its zone hints (b) do not name zone a"


def test_an_endpoint_that_another_slice_outdoes_is_shown_with_that_slice() -> None:
    made = report(
        web(),
        endpoint_slice("shop/web-a", "web", [endpoint("10.1.0.1", ready=False, terminating=True)], ["p:80"]),
        endpoint_slice("shop/web-b", "web", [endpoint("10.1.0.1")], ["p:80"]),
    )
    first, second = made.ports[0].rows
    assert (str(first.slice_key), first.sets) == ("shop/web-b", (CLUSTER,))
    assert (str(second.slice_key), second.absences[0].why.cause) == ("shop/web-a", Cause.DUPLICATE)
    assert "shop/web-b" in second.absences[0].why.reason


def test_endpoints_of_no_port_and_of_no_family_are_shown_as_unused() -> None:
    made = report(
        web(),
        endpoint_slice("shop/web-x", "web", ["10.1.0.1"], ["p:80", "metrics:9090"]),
        endpoint_slice("shop/web-6", "web", ["fd00::1"], ["p:80"]),
    )
    unused = {format_address(row.facts.address): row.absences[0] for row in made.unused}
    assert unused["10.1.0.1"].why == (Cause.NO_SERVICE_PORT, "the Service has no TCP port named 'metrics'")
    assert unused["fd00::1"].why == (Cause.FAMILY, "the Service has no IPV6 address")
    assert fates(made) == {"10.1.0.1": [CLUSTER]}


def test_overrides_are_a_cause_and_registered_endpoints_have_no_slice() -> None:
    cluster = cluster_of(NODE_A, web(), endpoint_slice("shop/web-x", "web", ["10.1.0.1", "10.1.0.2"], ["p:8080"]))
    drain = Drain(endpoints=Selector(address=parse_address("10.1.0.2")))
    machines = Register(
        ports=(RegisteredPort("p", Protocol.TCP, 9000),), endpoints=(RegisteredEndpoint(parse_address("172.16.0.9")),)
    )
    for name, kind in (("drain", drain), ("vm", machines)):
        override = Override(key=OverrideKey("shop", name), owner="ops", kind=kind, service_name="web")
        cluster.override([OverrideChange(override.key, override)])
    made = report_endpoints(cluster, cluster.services[WEB], "node-a")
    assert fates(made) == {
        "10.1.0.1": [CLUSTER],
        "10.1.0.2": [(CLUSTER, Cause.OVERRIDE)],
        "172.16.0.9": [CLUSTER],
    }
    drained, registered = made.ports[0].rows[1:]
    assert drained.facts.ready, "facts are what the API server says"
    assert "shop/drain" in drained.absences[0].why.reason
    assert (registered.slice_key, registered.port) == (None, 9000)


@given(st.lists(changes(), max_size=12), st.sampled_from([*NODES, ""]))
def test_the_sets_are_those_of_the_plan_and_nothing_is_left_out(batch: list[Change], node_name: str) -> None:
    cluster = ClusterState()
    cluster.apply(batch)
    for key, planned in cluster.services.items():
        made = report_endpoints(cluster, planned, node_name)
        plan = plan_service(planned.state, view_of(planned.state, cluster.node_view(node_name)))
        shown = 0
        for port, planned_port in zip(made.ports, plan.ports, strict=True):
            sets = {
                frozenset((row.facts.address, row.port) for row in port.rows if kind in row.sets)
                for kind in port.used_sets
            }
            in_plan = {frozenset((e.address, e.port) for e in each) for each in planned_port.endpoint_sets}
            assert in_plan <= sets, "each set of the plan is one that is explained"
            for row in port.rows:
                assert {*row.sets, *(absence.set_kind for absence in row.absences)} == set(port.used_sets)
                assert all(absence.why.cause is not Cause.NOT_FORWARDED for absence in row.absences)
                assert (row.weight > 0) == bool(row.sets)
            shown += len(port.rows)
        named = sum(len(item.endpoints) * len(set(item.ports)) for item in cluster.slices_of(key))
        assert shown + len(made.unused) == named
