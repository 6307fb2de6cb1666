# SPDX-License-Identifier: Apache-2.0
"""What a reader of overrides that has not read yet is told, and what it may cost meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from pointsman_chassis.errors import SlowConsumerError
from pointsman_planner.core.override import Drain, Override, OverrideKey, Selector
from pointsman_planner.feed.override_feed import PENDING_MAX, Ending, Subscription

DEADLINE_SECONDS = 15.0


def override(name: str, reason: str = "") -> Override:
    drain = Drain(endpoints=Selector(node_name="node-1"))
    return Override(key=OverrideKey("", name), owner="tests", kind=drain, reason=reason)


async def test_each_override_is_told_once_with_its_newest_state() -> None:
    subscription = Subscription()
    subscription.tell(override("a", "first"), None)
    subscription.tell(override("b"), None)
    subscription.tell(override("a", "second"), None)
    subscription.tell(override("b"), Ending.EXPIRED)
    assert await subscription.take() == ((override("a", "second"), None), (override("b"), Ending.EXPIRED))


async def test_a_reader_that_stands_still_while_names_come_and_go_is_sent_back_to_the_beginning() -> None:
    subscription = Subscription()
    for number in range(PENDING_MAX + 10):
        subscription.tell(override(f"o-{number}"), Ending.EXPIRED)
    assert not subscription._pending
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(SlowConsumerError, match="begin anew"):
            await subscription.take()
        with pytest.raises(SlowConsumerError):
            await subscription.take()
