# SPDX-License-Identifier: Apache-2.0
"""What planners tell of other planners is checked before anything is dialled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_enforcer.core.candidates import (
    CANDIDATES_MAX,
    Candidate,
    Redirect,
    RedirectReason,
    candidates_from_pb,
    is_address,
    redirect_from_pb,
)


@pytest.mark.parametrize("text", ["10.0.0.1:7402", "[fd00::1]:7402", "planner-1.example:1", "[::ffff:10.0.0.1]:65535"])
def test_addresses_that_can_be_dialled(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1",
        ":7402",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "a b:1",
        "unix:/run/x:1",
        "dns:///a:1",
        "[]:1",
        "a:+1",
        "a\n:1",
    ],
)
def test_addresses_that_cannot(text: str) -> None:
    assert not is_address(text)


def test_what_cannot_be_dialled_is_left_out_and_the_rest_counts() -> None:
    told = [("10.0.0.1:1", "a"), ("unix:/run/x", "b"), ("10.0.0.2:1", "x" * 300), ("10.0.0.1:1", "again"), ("h:2", "")]
    messages = [pb.Candidate(address=address, planner_id=name) for address, name in told]
    assert candidates_from_pb(messages) == (Candidate("10.0.0.1:1", "a"), Candidate("h:2", ""))


def test_a_list_has_an_end() -> None:
    messages = [pb.Candidate(address=f"10.0.0.1:{port}") for port in range(1, 1000)]
    assert len(candidates_from_pb(messages)) == CANDIDATES_MAX


def test_a_redirect_that_is_not_understood_is_one_to_the_owner() -> None:
    message = pb.Redirect(reason=pb.Redirect.Reason.ValueType(77))
    message.delay.FromSeconds(-5)
    message.grace.FromSeconds(10**9)
    assert redirect_from_pb(message) == Redirect((), RedirectReason.NOT_OWNER, 3600.0, 0.0)


@given(st.text(max_size=40))
def test_no_text_makes_it_fail(text: str) -> None:
    assert is_address(text) in {True, False}
