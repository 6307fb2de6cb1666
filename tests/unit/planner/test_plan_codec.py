# SPDX-License-Identifier: Apache-2.0
"""An enforcer's message with a value that nobody may send is a WireError, which ends its stream and nothing else."""

import pytest

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.names import ServiceKey
from pointsman_model.wire import WireError
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core.messages import Ack, Condition, Conditions, Drift


def ack(seconds: int, nanos: int) -> bytes:
    request = pb.StreamNodePlanRequest(ack=pb.Ack(nonce=1, level=pb.ACK_LEVEL_PROGRAMMED))
    request.ack.applied_at.seconds, request.ack.applied_at.nanos = seconds, nanos
    return request.SerializeToString()


def test_the_time_of_an_ack_is_read_exactly() -> None:
    message = decode_message(ack(1_700_000_000, 5))
    assert isinstance(message, Ack)
    assert message.applied_at_ns == 1_700_000_000_000_000_005


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(2**63 - 1, 0), (-(2**63), 0), (0, -1), (0, 2**31 - 1), (253402300799, 0), (-5, 0)]
)
def test_an_ack_at_a_time_that_is_none_is_refused(seconds: int, nanos: int) -> None:
    with pytest.raises(WireError, match=r"ack\.applied_at"):
        decode_message(ack(seconds, nanos))


def test_a_report_of_drift_and_recovered_services_come_with_an_ack() -> None:
    request = pb.StreamNodePlanRequest(ack=pb.Ack(nonce=0, level=pb.ACK_LEVEL_PROGRAMMED))
    request.ack.recovered.add(namespace="shop", name="web")
    drift = request.ack.drift
    drift.repairs, drift.objects, drift.process, drift.process_id = 3, 40, "firewalld", 77
    drift.kinds.extend(["table", "rule"])
    drift.repaired_at.FromNanoseconds(1_700_000_000_000_000_000)
    drift.duration.FromNanoseconds(25_000_000)
    message = decode_message(request.SerializeToString())
    assert isinstance(message, Ack)
    assert message.recovered == (ServiceKey("shop", "web"),)
    assert message.drift == Drift(
        repairs=3,
        repaired_at_ns=1_700_000_000_000_000_000,
        duration_ns=25_000_000,
        kinds=("table", "rule"),
        objects=40,
        process="firewalld",
        process_id=77,
    )


def test_a_report_of_drift_at_a_time_that_is_none_is_refused() -> None:
    request = pb.StreamNodePlanRequest(ack=pb.Ack(nonce=0, level=pb.ACK_LEVEL_PROGRAMMED))
    request.ack.drift.duration.seconds = 2**62
    with pytest.raises(WireError, match=r"ack\.drift\.duration"):
        decode_message(request.SerializeToString())


def conditions(count: int = 1, total: int = 0, kind: int = 1, name: str = "web") -> bytes:
    request = pb.StreamNodePlanRequest(conditions=pb.Conditions(total=total))
    for _ in range(count):
        added = request.conditions.conditions.add(message="no", kind=pb.ServiceCondition.Kind.ValueType(kind))
        added.service.namespace, added.service.name = "shop", name
        added.since.FromNanoseconds(5)
    return request.SerializeToString()


def test_conditions_are_taken_with_kinds_that_this_planner_does_not_know_yet() -> None:
    listed = Condition(service=ServiceKey("shop", "web"), kind=77, message="no", since_ns=5)
    assert decode_message(conditions(kind=77)) == Conditions(conditions=(listed,), total=1)
    assert decode_message(conditions(0)) == Conditions()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (conditions(501), "501 are listed"),
        (conditions(kind=0), "0 is no kind"),
        (conditions(kind=-1), "-1 is no kind"),
        (conditions(name=""), "namespace and name"),
    ],
    ids=["too-many", "no-kind", "negative-kind", "no-name"],
)
def test_conditions_that_break_a_rule_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        decode_message(data)
