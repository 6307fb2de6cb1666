# SPDX-License-Identifier: Apache-2.0
"""What overrides do to the plan of a node, kind by kind and together, and that nothing else moves."""

import pytest

from pointsman_enforcer.dataplane.nftables.render import RenderContext, render_service
from pointsman_model.affinity import pick_table
from pointsman_model.cluster import Change, ClusterObject, key_of
from pointsman_model.names import Protocol, ServiceKey, format_address, parse_address
from pointsman_model.packet import Packet
from pointsman_model.plan import ServicePortPlan
from pointsman_planner.core.explain import explain_packet
from pointsman_planner.core.override import Override, Selector
from pointsman_planner.core.overrides import REGISTERED_MAX, shares_of
from support.cluster_objects import TargetRef, endpoint, endpoint_slice, service, service_cidr
from support.overrides import at, drain, gone, pin, put, register, weight
from support.planner_world import NODE, OUTSIDE, POD, REJECTED, World, node_under_test, to, to_masked

VIP = "10.96.0.10"
WEB = ServiceKey("shop", "web")


PACKET = Packet(
    source=parse_address(POD),
    destination=parse_address(VIP),
    destination_port=80,
    protocol=Protocol.TCP,
    sender=None,
)


def change(value: ClusterObject) -> Change:
    return Change(key=key_of(value), value=value)


def pod(name: str) -> TargetRef:
    return TargetRef("Pod", "shop", name, "")


SLICE = endpoint_slice(
    "shop/web-x",
    "web",
    [
        endpoint("10.1.0.1", node=NODE, target=pod("web-stable-1")),
        endpoint("10.1.0.2", node="other", target=pod("web-stable-2")),
        endpoint("10.1.0.3", node="other", target=pod("web-canary-1")),
        endpoint("10.1.0.4", node="other", ready=False, target=pod("web-stable-3")),
    ],
    ["80"],
)
ALL = ("10.1.0.1", "10.1.0.2", "10.1.0.3")


def world(*overrides: Override, **words: object) -> World:
    made = World(service("shop/web", VIP, **words), SLICE)  # type: ignore[arg-type]  # by name
    made.cluster.override(put(*overrides))
    return made


def port(made: World) -> ServicePortPlan:
    return made.plan.services[WEB].ports[0]


def weights(made: World) -> dict[str, int]:
    return {format_address(e.address): e.weight for e in port(made).endpoint_sets[0]}


@pytest.mark.parametrize(
    ("selector", "left"),
    [
        (at("10.1.0.1"), ("10.1.0.2", "10.1.0.3")),
        (at("10.1.0.1", port=80), ("10.1.0.2", "10.1.0.3")),
        (at("10.1.0.1", port=81), ALL),
        (at(node="other"), ("10.1.0.1",)),
        (at(node="nowhere"), ALL),
        (at(target="web-canary-1"), ("10.1.0.1", "10.1.0.2")),
        (at(prefix="web-stable-"), ("10.1.0.3",)),
        (at(prefix="web-stable-", node="other"), ("10.1.0.1", "10.1.0.3")),
    ],
)
def test_drained_endpoints_get_no_new_connections(selector: Selector, left: tuple[str, ...]) -> None:
    assert world(drain("shop/d", "web", selector)).probe(POD, VIP) == to(*left)


def test_traffic_falls_back_to_drained_endpoints_when_nothing_else_is_ready() -> None:
    assert world(drain("shop/d", "web", at(prefix="web-"))).probe(POD, VIP) == to(*ALL)


def test_an_endpoint_that_is_not_ready_is_no_fallback_because_it_is_drained() -> None:
    made = world(drain("shop/d", "web", at(node="other")), drain("shop/e", "web", at("10.1.0.1")))
    assert made.probe(POD, VIP) == to(*ALL)


def test_a_node_is_drained_for_all_services_or_for_those_of_a_namespace() -> None:
    made = world(drain("maintenance", "", at(node="other")))
    assert made.probe(POD, VIP) == to("10.1.0.1")
    made.cluster.override(gone("maintenance"))
    made.cluster.override(put(drain("bank/d", "", at(node="other"))))
    assert made.probe(POD, VIP) == to(*ALL)
    made.cluster.override(put(drain("shop/d", "", at(node="other"))))
    assert made.probe(POD, VIP) == to("10.1.0.1")


def test_flows_to_drained_and_pinned_out_endpoints_go_on() -> None:
    for each in (drain("shop/o", "web", at("10.1.0.1")), pin("shop/o", "web", at("10.1.0.2"), at("10.1.0.3"))):
        made = World(
            service("shop/web", VIP, ports=["dns:53/UDP"]),
            endpoint_slice("shop/web-x", "web", SLICE.endpoints, ["dns:53/UDP"]),
        )
        made.cluster.override(put(each))
        assert [format_address(e.address) for e in port(made).also_serving] == ["10.1.0.1"]


def test_a_pin_restricts_to_what_it_names_and_is_no_preference() -> None:
    made = world(pin("shop/p", "web", at("10.1.0.2"), at(target="web-canary-1")))
    assert made.probe(POD, VIP) == to("10.1.0.2", "10.1.0.3")
    made.cluster.override(put(pin("shop/p", "web", at("10.1.0.4"))))
    assert made.probe(POD, VIP) == REJECTED


def test_an_endpoint_must_match_every_pin() -> None:
    made = world(pin("shop/p", "web", at(node="other")), pin("shop/q", "web", at(prefix="web-stable-")))
    assert made.probe(POD, VIP) == to("10.1.0.2")


def test_drains_work_within_pins() -> None:
    made = world(pin("shop/p", "web", at(node="other")), drain("shop/d", "web", at(node="other")))
    assert made.probe(POD, VIP) == to("10.1.0.2", "10.1.0.3")


def test_weights_reach_the_endpoint_sets_in_lowest_terms() -> None:
    made = world(weight("shop/w", "web", (at(prefix="web-canary-"), 20), (at(prefix="web-"), 40)))
    assert weights(made) == {"10.1.0.1": 2, "10.1.0.2": 2, "10.1.0.3": 1}
    assert made.probe(POD, VIP) == to(*ALL)


def test_the_first_rule_that_matches_counts_and_others_have_one_share() -> None:
    made = world(weight("shop/w", "web", (at("10.1.0.1"), 3), (at(node=NODE), 9)))
    assert weights(made) == {"10.1.0.1": 3, "10.1.0.2": 1, "10.1.0.3": 1}


def test_weight_zero_is_a_drain() -> None:
    made = world(weight("shop/w", "web", (at(prefix="web-canary-"), 0)))
    assert made.probe(POD, VIP) == to("10.1.0.1", "10.1.0.2")
    made.cluster.override(put(weight("shop/w", "web", (at(prefix="web-"), 0))))
    assert made.probe(POD, VIP) == to(*ALL)
    assert set(weights(made).values()) == {1}


def test_of_two_weights_of_one_endpoint_the_lower_name_counts_whichever_came_first() -> None:
    low = weight("shop/a", "web", (at("10.1.0.1"), 2))
    high = weight("shop/b", "web", (at("10.1.0.1"), 5), (at("10.1.0.2"), 7))
    expected = {"10.1.0.1": 2, "10.1.0.2": 7, "10.1.0.3": 1}
    assert weights(world(low, high)) == weights(world(high, low)) == expected


@pytest.mark.parametrize("affinity", [0, 10800])
@pytest.mark.parametrize("frontends", [1, 60])
def test_nodes_take_the_largest_weights_on_many_endpoints(affinity: int, frontends: int) -> None:
    addresses = [f"10.1.{n >> 8}.{n & 255}" for n in range(3000)]
    made = World(
        service(
            "shop/web",
            VIP,
            ports=["a:80", "b:81"],
            external_ips=[f"9.9.9.{n}" for n in range(frontends)],
            external_local=True,
            affinity_timeout_seconds=affinity,
        ),
        endpoint_slice("shop/web-x", "web", [endpoint(a, node=NODE) for a in addresses[:30]], ["a:80", "b:81"]),
    )
    rules = [(at(address), 1000 - n) for n, address in enumerate(addresses[:16])]
    made.cluster.override(put(weight("shop/w", "web", *rules)))
    shares = [e.weight for e in port(made).endpoint_sets[0]]
    assert shares[0] >= shares[15] > shares[16] == 1
    context = RenderContext(capabilities=frozenset({"affinity", "weights", "source-ranges"}))
    assert render_service(made.plan.services[WEB], b"", context)


def test_shares_are_scaled_down_only_when_they_must_be() -> None:
    assert shares_of([10, 20], 4096) == [1, 2]
    assert shares_of([1, 4095], 4096) == [1, 4095]
    scaled = shares_of([1, 1000, 999, 1000, 1000, 1000], 1000)
    assert sum(scaled) <= 1000
    assert scaled[0] == 1
    assert max(scaled) - min(scaled[1:]) <= 1
    assert shares_of([1, 5, 1], 2) == [1, 1, 1]


def test_first_picks_of_clients_with_affinity_follow_the_weights() -> None:
    made = world(weight("shop/w", "web", (at("10.1.0.1"), 8)), affinity_timeout_seconds=60)
    table = pick_table(port(made).endpoint_sets[0])
    assert abs(table.count(0) / len(table) - 0.8) < 0.01


def test_registered_endpoints_join_those_of_the_slices() -> None:
    made = world(register("shop/vm", "web", "172.16.0.5"))
    assert made.probe(POD, VIP) == to(*ALL, "172.16.0.5")
    hairpin = {format_address(e.address): e.hairpin for e in port(made).endpoint_sets[0]}
    assert hairpin == {"10.1.0.1": True, "10.1.0.2": False, "10.1.0.3": False, "172.16.0.5": True}
    made.cluster.override(gone("shop/vm"))
    assert made.probe(POD, VIP) == to(*ALL)


def test_a_registration_waits_for_its_service() -> None:
    made = World(SLICE)
    made.cluster.override(put(register("shop/vm", "web", "172.16.0.5")))
    assert WEB not in made.plan.services
    made.cluster.apply([change(service("shop/web", VIP))])
    assert made.probe(POD, VIP) == to(*ALL, "172.16.0.5")


def test_what_a_slice_lists_is_the_slices() -> None:
    assert world(register("shop/vm", "web", "10.1.0.4")).probe(POD, VIP) == to(*ALL)


def test_a_port_or_family_that_the_service_lacks_is_not_registered() -> None:
    assert world(register("shop/vm", "web", "172.16.0.5", ports=["https:443"])).probe(POD, VIP) == to(*ALL)
    assert world(register("shop/vm", "web", "fd00::5")).probe(POD, VIP) == to(*ALL)


@pytest.mark.parametrize("address", [VIP, "9.9.9.9", "1.2.3.4", "10.96.7.7"])
def test_an_address_of_services_is_never_an_endpoint(address: str) -> None:
    made = world(
        register("shop/vm", "web", address, "172.16.0.5"), external_ips=["9.9.9.9"], load_balancer_ips=["1.2.3.4"]
    )
    made.cluster.apply([change(service_cidr("kubernetes", "10.96.0.0/16"))])
    assert made.probe(POD, VIP) == to(*ALL, "172.16.0.5")


def test_registered_endpoints_of_one_service_are_bounded_alike_everywhere() -> None:
    many = [register(f"shop/vm-{n:02}", "web", *(f"172.16.{n}.{last}" for last in range(1, 101))) for n in range(12)]
    made, again = world(*many), world(*reversed(many))
    assert len(port(made).endpoint_sets[0]) == REGISTERED_MAX + len(ALL)
    assert made.plan == again.plan


def test_health_checks_count_what_gets_connections_and_local_traffic_falls_back() -> None:
    words = {
        "type": "LoadBalancer",
        "load_balancer_ips": ["1.2.3.4"],
        "external_local": True,
        "health_check_node_port": 32000,
    }
    counts = []
    for overrides in (
        (),
        (drain("shop/d", "web", at("10.1.0.1")),),
        (register("shop/vm", "web", "10.1.0.9", node=NODE),),
        (pin("shop/p", "web", at("10.1.0.2")),),
    ):
        made = world(*overrides, **words)
        health = made.plan.services[WEB].health_check
        assert health is not None
        counts.append(health.local_endpoints)
    assert counts == [1, 0, 2, 0]
    assert world(drain("shop/d", "web", at("10.1.0.1")), **words).probe(OUTSIDE, "1.2.3.4") == to("10.1.0.1")
    assert world(weight("shop/w", "web", (at("10.1.0.2"), 0)), external_ips=["9.9.9.9"]).probe(
        OUTSIDE, "9.9.9.9"
    ) == to_masked("10.1.0.1", "10.1.0.3")


def test_zone_hints_still_rule_among_what_is_left() -> None:
    made = World(
        service("shop/web", VIP),
        endpoint_slice(
            "shop/web-x",
            "web",
            [endpoint("10.1.0.1", zone_hints=["a"]), endpoint("10.1.0.2", zone_hints=["b"])],
            ["80"],
        ),
        node=node_under_test(zone="a"),
    )
    assert made.probe(POD, VIP) == to("10.1.0.1")
    made.cluster.override(put(register("shop/vm", "web", "172.16.0.5", zone_hints=("a",))))
    assert made.probe(POD, VIP) == to("10.1.0.1", "172.16.0.5")
    made.cluster.override(put(drain("shop/d", "web", at("10.1.0.1"))))
    assert made.probe(POD, VIP) == to("172.16.0.5")


def test_the_reason_of_an_exclusion_names_the_override_and_its_owner() -> None:
    made = world(drain("shop/d", "web", at("10.1.0.1")), pin("shop/p", "web", at(node="other"), at("10.1.0.1")))
    found = explain_packet(made.cluster, NODE, made.settings, PACKET)
    assert {format_address(e.address): e.reason for e in found.exclusions} == {
        "10.1.0.1": "drained by override shop/d of tests",
        "10.1.0.4": "not ready",
    }
    made.cluster.override([*gone("shop/d"), *put(pin("shop/p", "web", at(node="other")))])
    found = explain_packet(made.cluster, NODE, made.settings, PACKET)
    assert found.exclusions[0].reason == "pinned out by override shop/p of tests"
