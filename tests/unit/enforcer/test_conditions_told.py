# SPDX-License-Identifier: Apache-2.0
"""Trouble that is no failure to program: what is remembered of it, and which planner is told."""

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_enforcer.core.conditions import LISTED_MAX, ConditionKind, ServiceConditions
from pointsman_enforcer.core.plan_session import PlanSession, Send
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.service_health import Listener, not_served
from pointsman_model.names import ServiceKey, parse_address
from support.enforcer_plans import key

PORT = ConditionKind.HEALTH_CHECK_NODE_PORT


def test_what_goes_on_keeps_its_beginning_and_equal_news_is_none() -> None:
    conditions = ServiceConditions()
    assert conditions.replace(PORT, {key(1): "taken"}, 5)
    assert not conditions.replace(PORT, {key(1): "taken"}, 6)
    assert conditions.replace(PORT, {key(1): "refused", key(2): "taken"}, 7)
    assert [(each.service, each.message, each.since_ns) for each in conditions.listed()] == [
        (key(1), "refused", 5),
        (key(2), "taken", 7),
    ]
    assert conditions.replace(PORT, {}, 8)
    assert len(conditions) == 0
    assert conditions.replace(PORT, {key(1): "taken"}, 9)
    assert conditions.listed()[0].since_ns == 9


def test_a_list_is_bounded_and_says_how_many_there_are() -> None:
    conditions = ServiceConditions()
    conditions.replace(PORT, {ServiceKey("n" * 63, f"{'s' * 240}{index:05}"): "m" * 5000 for index in range(9999)}, 1)
    assert len(conditions) == 9999
    (action,) = told(conditions, "conditions")
    message = action.message.conditions
    assert (message.total, len(message.conditions)) == (9999, LISTED_MAX)
    assert action.message.ByteSize() < 1 << 20


def told(conditions: ServiceConditions, *capabilities: str) -> list[Send]:
    """What a planner with these capabilities is told after its welcome."""
    session = PlanSession(hello=pb.Hello(), store=PlanStore(), now=0.0, conditions=conditions)
    session.open(0.0)
    message = pb.StreamNodePlanResponse(welcome=pb.Welcome(capabilities=capabilities))
    actions = [*session.receive(message, 0.0), *session.tell_conditions(0.0)]
    assert all(isinstance(action, Send) for action in actions)
    return [action for action in actions if isinstance(action, Send)][:1]


def test_a_planner_that_does_not_know_the_message_does_not_get_it() -> None:
    conditions = ServiceConditions()
    conditions.replace(PORT, {key(1): "taken"}, 1)
    assert told(conditions) == []
    assert told(conditions, "other", "conditions") != []


def test_nothing_is_told_before_the_welcome() -> None:
    session = PlanSession(hello=pb.Hello(), store=PlanStore(), now=0.0, conditions=ServiceConditions())
    session.open(0.0)
    assert session.tell_conditions(0.0) == []


def test_a_service_that_fails_at_many_addresses_is_told_of_once() -> None:
    listeners = {Listener(key(1), parse_address(f"10.0.0.{index}"), 32100): "no" for index in range(1, 8)}
    other = {Listener(key(2), parse_address("::1"), 32101): "Address already in use"}
    messages = not_served({**listeners, **other})
    assert "port 32100 cannot be served at 10.0.0.1 (no), " in messages[key(1)]
    assert "10.0.0.4 (no), 3 more addresses" in messages[key(1)]
    assert "port 32101 cannot be served at ::1 (Address already in use): " in messages[key(2)]
