# SPDX-License-Identifier: Apache-2.0
"""Which overrides are refused, each rule by name, and what deserves a warning."""

from dataclasses import replace

import pytest

from pointsman_model.names import parse_prefix
from pointsman_planner.core.override import Drain, Override, Pin, Register, RegisteredEndpoint, Selector, Weight
from pointsman_planner.core.override_advice import warnings
from pointsman_planner.core.override_rules import (
    OVERRIDES_OF_MANY_MAX,
    OVERRIDES_OF_ONE_MAX,
    address_problems,
    crowd_problems,
    problems,
)
from pointsman_planner.core.service_state import ServiceState, join
from support.cluster_objects import endpoint, endpoint_slice, service
from support.overrides import SECOND_NS, at, drain, key_of, override, pin, register, weight

DAY = 86_400
GOOD = (
    drain("shop/d", "web", at("10.1.0.1")),
    drain("shop/d", "", at(node="n1")),
    drain("d", "", at(node="n1")),
    weight("shop/w.1-a", "web", (at(prefix="x"), 0), (at(target="y"), 1000)),
    pin("shop/p", "web", at("fd00::1", port=65535)),
    register("shop/r", "web", "172.16.0.1", "fd00::1", node="n1", zone_hints=("a",)),
    replace(drain("shop/d", "web", at("10.1.0.1")), ttl_ns=30 * DAY * SECOND_NS, reason="why", owner="é" * 128),
    replace(register("shop/r", "web", "172.16.0.1"), ttl_ns=SECOND_NS),
)
D = drain("shop/d", "web", at("10.1.0.1"))
R = register("shop/r", "web", "172.16.0.1")


def rules(count: int) -> Weight:
    return weight("shop/w", "web", *((at("10.1.0.1"), 1) for _ in range(count))).kind  # type: ignore[return-value]  # a Weight


@pytest.mark.parametrize("good", GOOD, ids=lambda each: str(each.key))
def test_legal(good: Override) -> None:
    assert problems(good) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (replace(D, key=key_of("shop/Upper")), "name.name"),
        (replace(D, key=key_of("shop/-x")), "name.name"),
        (replace(D, key=key_of("shop/x" + "y" * 63)), "name.name"),
        (replace(D, key=key_of("shop/")), "name.name"),
        (replace(D, key=key_of("a\nb/x")), "name.namespace"),
        (replace(D, key=key_of("alone")), "name.namespace"),
        (replace(D, service_name="we\x00b"), "spec.service_name"),
        (replace(D, owner=""), "owner"),
        (replace(D, owner="x" * 129), "owner"),
        (replace(D, owner="a\nb"), "owner"),
        (replace(D, reason="x" * 257), "spec.reason"),
        (replace(D, ttl_ns=SECOND_NS - 1), "spec.ttl"),
        (replace(D, ttl_ns=30 * DAY * SECOND_NS + 1), "spec.ttl"),
        (replace(D, ttl_ns=-1), "spec.ttl"),
        (replace(R, ttl_ns=0), "spec.ttl"),
        (replace(R, ttl_ns=DAY * SECOND_NS + 1), "spec.ttl"),
        (override("shop/x", "", Pin(endpoints=(at("10.1.0.1"),))), "only a drain"),
        (override("x", "", R.kind), "only a drain"),
        (drain("shop/d", "web", at()), "drain.endpoints: at least one"),
        (drain("shop/d", "web", Selector(port=80)), "port: needs an address"),
        (drain("shop/d", "web", Selector(address=b"123")), "3 bytes"),
        (drain("shop/d", "web", Selector(address=bytes(4), port=65536)), "65536"),
        (drain("shop/d", "web", at(node="a b\t")), "node_name"),
        (drain("shop/d", "web", at(prefix="x" * 254)), "target_name_prefix"),
        (override("shop/w", "web", rules(0)), "weight.rules: 0"),
        (override("shop/w", "web", rules(17)), "weight.rules: 17"),
        (weight("shop/w", "web", (at("10.1.0.1"), 1001)), "weight.rules[0].weight"),
        (weight("shop/w", "web", (at("10.1.0.1"), -1)), "weight.rules[0].weight"),
        (weight("shop/w", "web", (at(), 1)), "weight.rules[0].endpoints"),
        (pin("shop/p", "web"), "pin.endpoints: 0"),
        (pin("shop/p", "web", *(at("10.1.0.1"),) * 65), "pin.endpoints: 65"),
        (register("shop/r", "web"), "register.endpoints: 0"),
        (register("shop/r", "web", *(f"172.16.0.{n}" for n in range(101))), "register.endpoints: 101"),
        (register("shop/r", "web", "172.16.0.1", ports=[]), "register.ports: 0"),
        (register("shop/r", "web", "172.16.0.1", ports=range(1, 18)), "register.ports: 17"),
        (register("shop/r", "web", "172.16.0.1", ports=["p:0"]), "register.ports[0].port"),
        (register("shop/r", "web", "172.16.0.1", zone_hints=tuple("abcdefghi")), "zone_hints"),
        (register("shop/r", "web", "172.16.0.1", node="a\tb"), "node_name"),
    ],
)
def test_refused(bad: Override, words: str) -> None:
    assert any(words in problem for problem in problems(bad)), problems(bad)


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("0.0.0.0", "reserved"),  # noqa: S104 - an address that is refused, not bound
        ("0.1.2.3", "reserved"),
        ("::", "reserved"),
        ("127.0.0.1", "loopback"),
        ("127.255.0.1", "loopback"),
        ("::1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("239.1.1.1", "multicast"),
        ("ff02::1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
    ],
)
def test_addresses_that_no_endpoint_can_have(address: str, word: str) -> None:
    assert [word in problem for problem in problems(register("shop/r", "web", address))] == [True]


def test_an_address_in_another_form_or_length_is_refused() -> None:
    for address in (b"", b"12345", b"\x00" * 10 + b"\xff\xff\x0a\x00\x00\x01"):
        kind = Register(ports=R.kind.ports, endpoints=(RegisteredEndpoint(address),))  # type: ignore[union-attr]  # R registers
        assert any("endpoints[0].address" in problem for problem in problems(override("shop/r", "web", kind)))


def test_every_problem_is_told_at_once() -> None:
    bad = replace(drain("shop/D", "web", at()), owner="", ttl_ns=5)
    assert len(problems(bad)) == 4


def test_addresses_of_services_are_no_endpoints() -> None:
    taken = [service("shop/web", "10.96.0.1", external_ips=["9.9.9.9"], load_balancer_ips=["1.2.3.4"])]
    kind = register("shop/r", "web", "9.9.9.9", "172.16.0.1", "10.96.3.3", "1.2.3.4").kind
    found = address_problems(kind, [parse_prefix("10.96.0.0/16")], taken)
    assert [problem.partition(" ")[0] for problem in found] == [
        "register.endpoints[0].address:",
        "register.endpoints[2].address:",
        "register.endpoints[3].address:",
    ]
    assert address_problems(Drain(endpoints=at("9.9.9.9")), [], taken) == []


def test_the_number_of_overrides_is_bounded_and_one_can_always_be_changed() -> None:
    own = [drain(f"shop/d{n}", "web", at("10.1.0.1")) for n in range(OVERRIDES_OF_ONE_MAX)]
    assert crowd_problems(own[3], own) == []
    assert crowd_problems(drain("shop/one-more", "web", at("10.1.0.1")), own)
    assert crowd_problems(drain("shop/other", "api", at("10.1.0.1")), own) == []
    many = [drain(f"d{n}", "", at(node="n1")) for n in range(OVERRIDES_OF_MANY_MAX)]
    assert crowd_problems(many[0], many) == []
    assert crowd_problems(drain("one-more", "", at(node="n1")), many)
    vms = [register(f"shop/r{n}", "web", *(f"172.16.{n}.{i}" for i in range(1, 101))) for n in range(11)]
    assert crowd_problems(vms[9], vms[:9]) == []
    assert "1100 would be registered" in crowd_problems(vms[10], vms[:10])[0]


def state() -> ServiceState:
    addresses = [endpoint("10.1.0.1", zone_hints=["a"]), endpoint("10.1.0.2", ready=False, zone_hints=["a"])]
    return join(service("shop/web", "10.96.0.1"), [endpoint_slice("shop/web-x", "web", addresses)])


@pytest.mark.parametrize(
    ("each", "words"),
    [
        (drain("shop/d", "web", at("10.1.0.9")), "matches address 10.1.0.9"),
        (pin("shop/p", "web", at("10.1.0.2", port=80)), "connections are refused"),
        (pin("shop/p", "web", at("10.1.0.1"), at(prefix="x")), "matches target x*"),
        (register("shop/r", "web", "172.16.0.1", ports=["https:443"]), "has no port 'https' of TCP"),
        (register("shop/r", "web", "fd00::1", zone_hints=("a",)), "no address of the family of fd00::1"),
        (register("shop/r", "web", "172.16.0.1"), "loses its topology hints"),
        (register("shop/r", "web", "10.1.0.1", zone_hints=("a",)), "nothing is added"),
    ],
)
def test_what_does_less_than_it_says_is_told(each: Override, words: str) -> None:
    assert any(words in text for text in warnings(each, state())), warnings(each, state())


def test_a_missing_service_is_a_warning_and_a_useful_override_has_none() -> None:
    assert "waits for it" in warnings(drain("shop/d", "web", at("10.1.0.1")), None)[0]
    assert warnings(drain("shop/d", "web", at("10.1.0.1")), state()) == []
    assert warnings(drain("d", "", at(node="n1")), None) == []
    assert warnings(register("shop/r", "web", "172.16.0.1", zone_hints=("a",)), state()) == []


def test_weights_that_are_scaled_down_are_told() -> None:
    endpoints = [endpoint(f"10.1.0.{n}") for n in range(1, 20)]
    many = join(service("shop/web", "10.96.0.1"), [endpoint_slice("shop/web-x", "web", endpoints)])
    steps = [(at(f"10.1.0.{n}"), 1000 - n) for n in range(1, 12)]
    assert "scaled down to 4096 shares" in warnings(weight("shop/w", "web", *steps), many)[0]
    assert warnings(weight("shop/w", "web", *steps[:3]), many) == []
