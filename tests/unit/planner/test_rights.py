# SPDX-License-Identifier: Apache-2.0
"""Rules: who gets which right where, and which right each method of the control API needs."""

import pytest

from pointsman.control.v1 import control_service_pb2, override_service_pb2
from pointsman_planner.access.methods import right_of
from pointsman_planner.core.rights import EVERYTHING, NOTHING, Right, Rule, Sight, sight


def rule(**words: set[str]) -> Rule:
    every = {"verbs": {"get"}, "resources": {"services"}, "namespaces": {"shop"}, **words}
    return Rule(**{name: frozenset(values) for name, values in every.items()})


GET = Right(verb="get", resource="services", namespace="shop")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"users": {"alice"}}, Sight(frozenset({"shop"}))),
        ({"groups": {"team"}}, Sight(frozenset({"shop"}))),
        ({"groups": {"alice"}}, NOTHING),
        ({"users": {"team"}}, NOTHING),
        ({"users": {"*"}, "groups": {"*"}}, NOTHING),
        ({"users": {"alice"}, "verbs": {"list"}}, NOTHING),
        ({"users": {"alice"}, "resources": {"nodes"}}, NOTHING),
        ({"users": {"alice"}, "verbs": {"*"}, "resources": {"*"}}, Sight(frozenset({"shop"}))),
        ({"users": {"alice"}, "namespaces": {"*"}}, EVERYTHING),
    ],
)
def test_a_rule_gives_what_it_names_to_whom_it_names(words: dict[str, set[str]], expected: Sight) -> None:
    assert sight([rule(**words)], "alice", ["team"], GET) == expected


def test_rules_add_up() -> None:
    rules = [rule(users={"alice"}), rule(groups={"team"}, namespaces={"bank"})]
    assert sight(rules, "alice", ["team"], GET) == Sight(frozenset({"shop", "bank"}))


def test_a_namespace_is_not_the_whole_cluster() -> None:
    seen = Sight(frozenset({"shop"}))
    assert [seen.sees(each) for each in ("shop", "bank", "")] == [True, False, False]
    assert EVERYTHING.sees("")


def test_every_method_of_the_control_api_needs_a_right() -> None:
    services = [
        control_service_pb2.DESCRIPTOR.services_by_name["ControlService"],
        override_service_pb2.DESCRIPTOR.services_by_name["OverrideService"],
    ]
    modules = {**vars(control_service_pb2), **vars(override_service_pb2)}
    for service in services:
        for method in service.methods:
            empty = modules[method.input_type.name]()
            right = right_of(f"/{service.full_name}/{method.name}", empty)
            assert right is not None, method.name
            is_reading_many = right.verb in {"list", "watch"} and right.resource not in {"nodes", "plans"}
            assert right.is_filtered is is_reading_many, method.name
            changes = method.name.startswith(("Apply", "Renew", "Delete"))
            assert (right.verb == "override") is changes, method.name


def test_a_method_that_nobody_was_told_of_has_no_right() -> None:
    assert right_of("/pointsman.control.v1.ControlService/Other", None) is None
