# SPDX-License-Identifier: Apache-2.0
"""An enforcer's message with a value that nobody may send is a WireError, which ends its stream and nothing else."""

import pytest

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.names import ServiceKey
from pointsman_model.wire import WireError
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core.messages import Ack, Drift


def ack(seconds: int, nanos: int) -> bytes:
    request = pb.StreamNodePlanRequest(ack=pb.Ack(nonce=1, level=pb.ACK_LEVEL_PROGRAMMED))
    request.ack.applied_at.seconds, request.ack.applied_at.nanos = seconds, nanos
    return request.SerializeToString()


def test_the_time_of_an_ack_is_read_exactly() -> None:
    message = decode_message(ack(1_700_000_000, 5))
    assert isinstance(message, Ack)
    assert message.applied_at_ns == 1_700_000_000_000_000_005


@pytest.mark.parametrize(("seconds", "nanos"), [(2**63 - 1, 0), (-(2**63), 0), (0, -1), (0, 2**31 - 1)])
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
