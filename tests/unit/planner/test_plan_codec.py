# SPDX-License-Identifier: Apache-2.0
"""An enforcer's message with a value that nobody may send is a WireError, which ends its stream and nothing else."""

import pytest

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.wire import WireError
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core.messages import Ack


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
