# SPDX-License-Identifier: Apache-2.0
"""Deltas that arrive as they were not sent: a plan with other bytes in it, a service left out; or not at all.

The digest that goes with the transaction stays, so whoever receives it can tell. Parts that replace buckets keep their
services: there, what is left out is a removal, and no digest can undo one in time.
"""

from __future__ import annotations

from random import Random

from pointsman.plan.v1 import plan_service_pb2 as pb


def is_transaction(data: bytes) -> bool:
    """Whether a message is a transaction as a whole."""
    message = pb.StreamNodePlanResponse.FromString(data)
    return message.HasField("transaction") and message.transaction.part == 0 and message.transaction.commit


def damaged(data: bytes, random: Random) -> bytes:
    """The message with one of its updates spoilt; the same bytes when there is none to spoil."""
    message = pb.StreamNodePlanResponse.FromString(data)
    part = message.transaction
    if not part.updates:
        return data
    index = random.randrange(len(part.updates))
    if random.random() < 0.5 and not part.replaces_all and not part.replaced_buckets:
        del part.updates[index]
    else:
        plan = bytearray(part.updates[index].plan)
        if not plan:
            return data
        plan[random.randrange(len(plan))] ^= 1 << random.randrange(8)
        part.updates[index].plan = bytes(plan)
    return message.SerializeToString()
