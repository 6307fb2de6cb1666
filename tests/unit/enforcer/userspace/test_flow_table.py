# SPDX-License-Identifier: Apache-2.0
"""UDP flows end when they were silent for too long, or when their endpoint is not kept."""

from __future__ import annotations

from pointsman_enforcer.dataplane.userspace.flow_table import Flow, FlowTable

ONE, TWO = (b"\n\0\0\1", 53), (b"\n\0\0\2", 53)


def table(*flows: Flow[str, None]) -> FlowTable[str, None]:
    made: FlowTable[str, None] = FlowTable(0.25)
    for flow in flows:
        made.add(flow)
    return made


def test_a_silent_flow_ends_and_one_that_speaks_lives_on() -> None:
    silent, speaking = Flow("a", ONE, None, 0.0), Flow("b", ONE, None, 0.0)
    flows = table(silent, speaking)
    flows.touch(speaking, 0.2)
    assert list(flows.take_idle(0.24)) == []
    assert list(flows.take_idle(0.25)) == [silent]
    assert flows.get("a") is None
    assert flows.get("b") is speaking
    assert list(flows.take_idle(0.45)) == [speaking]
    assert len(flows) == 0


def test_flows_to_endpoints_that_are_not_kept_are_taken_out() -> None:
    stays, goes = Flow("a", ONE, None, 0.0), Flow("b", TWO, None, 0.0)
    flows = table(stays, goes)
    assert flows.take_unless(lambda endpoint: endpoint == ONE) == [goes]
    assert flows.get("a") is stays


def test_a_flow_that_was_replaced_does_not_take_its_successor_with_it() -> None:
    old = Flow("a", ONE, None, 0.0)
    flows = table(old)
    flows.remove(old)
    new = Flow("a", TWO, None, 0.0)
    flows.add(new)
    flows.remove(old)
    assert flows.get("a") is new
