# SPDX-License-Identifier: Apache-2.0
"""What a change costs a node does not depend on how many nodes there are; slow and dead nodes disturb no other."""

import pytest

from pointsman_lab.bench.fanout.scenario import Plan, run

BYTES_OF_A_VARINT = 8
"""Revisions and nonces grow, so their encoding may."""


async def test_messages_and_bytes_of_a_change_do_not_grow_with_nodes() -> None:
    sizes = {"services": 20, "big_endpoints": 300, "changes": 3}
    few = await run(Plan(nodes=20, **sizes))
    many = await run(Plan(nodes=100, slow=2, dead=2, **sizes))
    for scenes in (few, many):
        assert scenes["change"]["messages_per_change_and_node"] == 1
        assert scenes["faults"] == {"digest_mismatches": 0, "streams_broken": 0}
        assert scenes["rolling update"]["messages_per_node"] <= scenes["rolling update"]["steps"]
    change = "bytes_per_change_and_node"
    assert many["change"][change] == pytest.approx(few["change"][change], abs=BYTES_OF_A_VARINT)
    assert many["reconnect storm"]["bytes_per_node"] < many["cold start"]["bytes_per_node"] / 10
