# SPDX-License-Identifier: Apache-2.0
"""Which flows are stale: section 14 of the packet-flow catalogue, and what must hold of any history of plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_enforcer.core.stale_flows import (
    NARROW_QUERIES_MAX,
    Flow,
    FlowIndex,
    Place,
    Query,
    Suspects,
    packed_endpoint,
)
from pointsman_model.names import Family, Protocol, ServiceKey, parse_address
from pointsman_model.plan import REJECT, Frontend, FrontendKind, PlanEndpoint, ServicePlan, ServicePortPlan
from support.enforcer_plans import cluster_ip, endpoints, forward, key

LOCAL = {parse_address(text) for text in ("192.168.0.2", "192.168.1.2", "127.0.0.1")}
SERVING, NOT_SERVING, DELETED = "10.240.0.4", "10.240.1.5", "10.240.2.6"
VIP, EXTERNAL, BALANCER = "172.30.1.1", "192.168.99.100", "1.2.3.4"


def accepts(address: bytes) -> bool:
    return address in LOCAL


def port_plan(
    protocol: Protocol,
    *serving: str,
    places: Iterable[str] = (VIP, EXTERNAL, BALANCER),
    port: int = 8000,
    target: int = 9090,
    node_port: int = 0,
    also: Iterable[str] = (),
) -> ServicePortPlan:
    chosen = endpoints(*serving, port=target)
    verdict = forward() if chosen else REJECT
    found = [Frontend(FrontendKind.CLUSTER_IP, parse_address(each), port, verdict, verdict, verdict) for each in places]
    if node_port:
        found.append(Frontend(FrontendKind.NODE_PORT, b"", node_port, verdict, verdict, verdict))
    return ServicePortPlan(
        name=protocol.name.lower(),
        protocol=protocol,
        family=Family.IPV4,
        frontends=tuple(found),
        endpoint_sets=(chosen,) if chosen else (),
        also_serving=endpoints(*also, port=target),
    )


def udp(*serving: str, **rest: object) -> ServicePlan:
    return ServicePlan(ports=(port_plan(Protocol.UDP, *serving, **rest),))  # type: ignore[arg-type]  # handed through


class World:
    """An index, and the flows that it would end."""

    def __init__(self, **plans: ServicePlan) -> None:
        self.index = FlowIndex()
        self.program(**plans)

    def program(self, **plans: ServicePlan) -> Suspects:
        """Program plans by service name; what that leaves suspect."""
        for name, plan in plans.items():
            self.index.expect(key(name), plan)
            self.index.programmed(key(name))
        self.suspects = self.index.take()
        return self.suspects

    def ends(self, destination: str, answering: str, protocol: Protocol = Protocol.UDP) -> bool:
        """Whether the flow to `destination`, answered by `answering` (both address:port), is found and ended."""
        made = flow(destination, answering, protocol)
        return self._is_seen(made) and self.index.is_stale(made, self.suspects.removed, accepts)

    def _is_seen(self, made: Flow) -> bool:
        return any(matches(query, made) for query in self.suspects.queries())


def flow(destination: str, answering: str, protocol: Protocol = Protocol.UDP) -> Flow:
    address, port = split(destination)
    return Flow(4 if len(address) == 4 else 6, int(protocol), address, port, packed_endpoint(*split(answering)))


def split(text: str) -> tuple[bytes, int]:
    address, _, port = text.rpartition(":")
    return parse_address(address.strip("[]")), int(port)


def matches(query: Query, made: Flow) -> bool:
    """What the kernel's filter does."""
    if query[:2] != made[:2]:
        return False
    if query.answering:
        return made.answering == query.answering
    place = query.place
    return place is None or (place.address in (b"", made.address) and place.port == made.port)


CATALOGUE_SERVICE = ServicePlan(
    ports=(
        port_plan(Protocol.SCTP, SERVING),
        port_plan(Protocol.TCP, SERVING),
        port_plan(Protocol.UDP, SERVING, node_port=32000),
    )
)


@pytest.mark.parametrize("place", [f"{VIP}:8000", f"{EXTERNAL}:8000", f"{BALANCER}:8000", "192.168.0.2:32000"])
@pytest.mark.parametrize("dead", [NOT_SERVING, DELETED])
def test_flows_to_endpoints_that_do_not_serve_are_ended(place: str, dead: str) -> None:  # 148
    world = World(s=CATALOGUE_SERVICE)
    assert world.ends(place, f"{dead}:9090")
    assert not world.ends(place, f"{SERVING}:9090")
    assert world.ends(place, f"{SERVING}:9091"), "the same address, another port"
    assert world.ends(place, place), "never translated"


def test_a_node_port_is_any_address_of_this_node_and_no_other() -> None:  # 148
    world = World(s=CATALOGUE_SERVICE)
    assert world.ends("192.168.1.2:32000", f"{DELETED}:9090")
    assert not world.ends("8.8.8.8:32000", "8.8.8.8:32000"), "a pod's own business with another host"


@pytest.mark.parametrize(
    ("destination", "answering", "protocol"),
    [
        (f"{VIP}:8000", f"{DELETED}:9090", Protocol.TCP),
        (f"{BALANCER}:8000", f"{NOT_SERVING}:9090", Protocol.TCP),
        (f"{VIP}:3000", f"{DELETED}:9090", Protocol.UDP),
        (f"{EXTERNAL}:3000", f"{EXTERNAL}:3000", Protocol.UDP),
        (f"{VIP}:8000", f"{SERVING}:9090", Protocol.UDP),
        (f"{VIP}:8000", f"{SERVING}:9090", Protocol.SCTP),
        ("192.168.0.2:32000", f"{DELETED}:9090", Protocol.SCTP),
        ("8.8.8.8:53", "8.8.8.8:53", Protocol.UDP),
    ],
)
def test_everything_else_is_kept(destination: str, answering: str, protocol: Protocol) -> None:  # 149
    assert not World(s=CATALOGUE_SERVICE).ends(destination, answering, protocol)


def test_sctp_flows_to_dead_endpoints_are_ended_too() -> None:
    assert World(s=CATALOGUE_SERVICE).ends(f"{VIP}:8000", f"{DELETED}:9090", Protocol.SCTP)


def test_without_endpoints_every_flow_is_ended() -> None:  # 150
    world = World(s=udp(SERVING))
    world.program(s=udp())
    assert world.ends(f"{VIP}:8000", f"{SERVING}:9090")
    assert world.ends(f"{EXTERNAL}:8000", f"{SERVING}:9090")


def test_a_new_place_ends_what_passed_it_untranslated() -> None:  # 153
    world = World(s=udp(SERVING, places=[VIP]))
    world.program(s=udp(SERVING, places=[VIP, EXTERNAL], node_port=32000))
    assert world.ends(f"{EXTERNAL}:8000", f"{EXTERNAL}:8000")
    assert world.ends("192.168.0.2:32000", "192.168.0.2:32000")
    assert not world.ends(f"{EXTERNAL}:8000", f"{SERVING}:9090")


def test_a_restart_with_nothing_changed_ends_nothing_alive() -> None:  # 154
    plan = udp(SERVING, node_port=32000, also=[NOT_SERVING])
    after = World(s=plan)
    for place in (f"{VIP}:8000", f"{EXTERNAL}:8000", "192.168.1.2:32000"):
        assert not after.ends(place, f"{SERVING}:9090")
        assert not after.ends(place, f"{NOT_SERVING}:9090"), "terminating, and serving what it has"
        assert after.ends(place, f"{DELETED}:9090")


def test_a_terminating_endpoint_keeps_its_flows_until_it_stops_serving() -> None:  # 100
    world = World(s=udp(SERVING, NOT_SERVING))
    assert not world.program(s=udp(SERVING, also=[NOT_SERVING]))
    assert world.program(s=udp(SERVING))
    assert world.ends(f"{VIP}:8000", f"{NOT_SERVING}:9090")


def test_a_removed_service_ends_what_it_translated_and_nothing_else() -> None:
    world = World(s=udp(SERVING, node_port=32000))
    world.program(s=ServicePlan())
    for place in (f"{VIP}:8000", f"{EXTERNAL}:8000", "192.168.0.2:32000"):
        assert world.ends(place, f"{SERVING}:9090")
        assert not world.ends(place, place)
    assert not world.program(), "looked into once"


def test_a_place_that_moves_to_another_service_is_judged_by_its_new_owner() -> None:
    world = World(a=udp(SERVING))
    world.program(b=udp(NOT_SERVING), a=ServicePlan())
    assert world.ends(f"{VIP}:8000", f"{SERVING}:9090")
    assert not world.ends(f"{VIP}:8000", f"{NOT_SERVING}:9090")


def test_more_endpoints_or_equal_plans_are_not_looked_into() -> None:
    world = World(s=udp(SERVING))
    assert not world.program(s=udp(SERVING, NOT_SERVING))
    assert not world.program(s=udp(SERVING, NOT_SERVING))
    assert not world.program(t=ServicePlan(ports=(cluster_ip("172.30.0.9", 80, endpoints("10.0.0.1")),)))


def test_while_the_kernel_learns_a_plan_flows_to_old_and_new_endpoints_are_good() -> None:
    world = World(s=udp(SERVING))
    world.index.expect(key("s"), udp(NOT_SERVING))
    world.index.suspect_all()
    world.suspects = world.index.take()
    assert not world.ends(f"{VIP}:8000", f"{SERVING}:9090")
    assert not world.ends(f"{VIP}:8000", f"{NOT_SERVING}:9090")
    assert world.ends(f"{VIP}:8000", f"{DELETED}:9090")


def test_an_address_in_the_middle_of_two_others_is_not_a_member() -> None:
    world = World(s=udp("10.0.10.0", "10.0.10.1", target=2560))
    assert world.ends(f"{VIP}:8000", "0.10.10.0:2560"), "its bytes stand across two endpoints"


def test_ipv6_places_and_endpoints() -> None:
    plan = ServicePlan(ports=(cluster_ip("fd00:96::1", 53, endpoints("fd00:10::1", port=53), Protocol.UDP),))
    world = World(s=plan)
    assert world.ends("[fd00:96::1]:53", "[fd00:10::2]:53")
    assert not world.ends("[fd00:96::1]:53", "[fd00:10::1]:53")


def test_a_lost_endpoint_is_asked_for_by_its_own_address() -> None:
    world = World(s=udp(SERVING, DELETED, node_port=32000))
    world.program(s=udp(SERVING, node_port=32000))
    answering = packed_endpoint(*split(f"{DELETED}:9090"))
    assert world.suspects.queries() == [Query(4, 17, answering=answering)]


def test_many_suspects_are_one_dump_of_their_protocol() -> None:
    many = {f"s{each}": udp(SERVING, places=[f"172.30.2.{each}"]) for each in range(NARROW_QUERIES_MAX + 1)}
    assert World(**many).suspects.queries() == [Query(4, 17)]
    del many["s0"]
    assert len(World(**many).suspects.queries()) == NARROW_QUERIES_MAX


def test_what_could_not_be_looked_into_is_suspected_again() -> None:
    world = World(s=udp(SERVING))
    world.index.put_back(world.suspects)
    assert world.index.take().queries() == world.suspects.queries()
    assert not world.index.has_suspects


# A small world in which everything collides: two addresses, two ports, three endpoints, both owners.
_places = st.sets(st.sampled_from([VIP, EXTERNAL]), max_size=2)
_endpoints = st.sets(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]), max_size=3)
_plans = st.builds(
    lambda protocol, places, serving, also, node_port: ServicePlan(
        ports=(port_plan(protocol, *serving, places=sorted(places), also=sorted(also - serving), node_port=node_port),)
    ),
    st.sampled_from([Protocol.UDP, Protocol.SCTP, Protocol.TCP]),
    _places,
    _endpoints,
    _endpoints,
    st.sampled_from([0, 32000]),
)
_steps = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.one_of(st.just(ServicePlan()), _plans)), max_size=6)
_flows = st.builds(
    flow,
    st.sampled_from([f"{VIP}:8000", f"{EXTERNAL}:8000", "192.168.0.2:32000", "8.8.8.8:32000", "8.8.8.8:53"]),
    st.sampled_from(["10.0.0.1:9090", "10.0.0.3:9090", "10.0.0.1:9091", f"{VIP}:8000", "192.168.0.2:32000"]),
    st.sampled_from(Protocol),
)


def owned(plans: dict[str, ServicePlan], made: Flow) -> list[frozenset[PlanEndpoint]]:
    """The serving endpoints of each port that has the flow's destination; written independently of the index."""
    found, by_node_port = [], []
    for plan in plans.values():
        for port in plan.ports:
            if port.protocol is Protocol.TCP or (int(port.protocol), int(port.family)) != (made.protocol, made.family):
                continue
            serving = frozenset(each for members in (*port.endpoint_sets, port.also_serving) for each in members)
            if any(f.address == made.address and f.port == made.port for f in port.frontends):
                found.append(serving)
            if accepts(made.address) and any(not f.address and f.port == made.port for f in port.frontends):
                by_node_port.append(serving)
    return found or by_node_port


def answers(serving: frozenset[PlanEndpoint], made: Flow) -> bool:
    return any(packed_endpoint(each.address, each.port) == made.answering for each in serving)


@given(_steps, _flows)
def test_a_flow_to_a_serving_endpoint_is_never_ended(steps: list[tuple[str, ServicePlan]], made: Flow) -> None:
    index, plans = FlowIndex(), dict[str, ServicePlan]()
    removed: set[Place] = set()
    for name, plan in steps:
        index.expect(key(name), plan)
        index.programmed(key(name))
        removed |= index.take().removed
        plans[name] = plan
    owners = owned(plans, made)
    is_stale = index.is_stale(made, removed, accepts)
    if any(answers(serving, made) for serving in owners):
        assert not is_stale
    elif owners:
        assert is_stale
    elif made.answering == packed_endpoint(made.address, made.port):
        assert not is_stale, "never translated, at a place that is not ours"


@given(_steps, _flows)
def test_no_stale_flow_is_missed_when_each_change_is_looked_into(
    steps: list[tuple[str, ServicePlan]], made: Flow
) -> None:
    """A flow that was good before a step and is stale after it is among what the step's queries name."""
    world, plans = World(), dict[str, ServicePlan]()
    for name, plan in steps:
        was_good = any(answers(serving, made) for serving in owned(plans, made))
        world.program(**{name: plan})
        plans[name] = plan
        owners = owned(plans, made)
        if was_good and owners and not any(answers(serving, made) for serving in owners):
            assert world._is_seen(made)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), _plans, st.booleans()), max_size=8))
def test_what_is_gone_is_forgotten_and_so_is_what_was_refused(steps: list[tuple[str, ServicePlan, bool]]) -> None:
    world = World()
    for name, plan, is_refused in steps:
        world.index.expect(key(name), plan)
        if not is_refused:
            world.index.programmed(key(name))
    world.program(a=ServicePlan(), b=ServicePlan())
    assert (world.index._programmed, world.index._expected, world.index._claimants) == ({}, {}, {})


def test_keys_of_services_never_seen_cost_nothing() -> None:
    index = FlowIndex()
    index.programmed(ServiceKey("default", "never-expected"))
    assert not index.has_suspects


def test_the_predicate_is_asked_only_about_node_ports() -> None:
    def fails(_: bytes) -> bool:
        raise AssertionError

    ask: Callable[[bytes], bool] = fails
    world = World(s=udp(SERVING))
    assert not world.index.is_stale(flow("8.8.8.8:53", "8.8.8.8:53"), frozenset(), ask)
