# SPDX-License-Identifier: Apache-2.0
"""How a Service's wish is read, and what weights make of a scheduler."""

from __future__ import annotations

import pytest

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.ipvs.genetlink.model import ServiceFlags
from pointsman_enforcer.dataplane.ipvs.schedulers import ROUND_ROBIN, Scheduler, parse_wish, suited_to


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wlc", Scheduler("wlc")),
        ("mh, mh-port", Scheduler("mh", ServiceFlags.MH_PORT)),
        ("sh,sh-fallback,sh-port", Scheduler("sh", ServiceFlags.SH_FALLBACK | ServiceFlags.SH_PORT)),
    ],
)
def test_a_wish_is_a_scheduler_and_its_flags(text: str, expected: Scheduler) -> None:
    assert parse_wish(text) == expected


@pytest.mark.parametrize("text", ["RR", "rr,", "mh,sh-port", "mh mh-port", ",mh", "wlc,mh-port", "x" * 64])
def test_what_is_no_wish_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(UnsupportedPlanError, match="it has "):
        parse_wish(text)


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("", [1, 1], "rr"),
        ("", [1, 2], "wrr"),
        ("rr", [3, 3], "rr"),
        ("lc", [1, 2], "wlc"),
        ("mh", [1, 2], "mh"),
        ("dh", [2, 2], "dh"),
    ],
)
def test_weights_are_honoured(name: str, weights: list[int], expected: str) -> None:
    assert suited_to(Scheduler(name), weights).name == expected


def test_a_scheduler_that_knows_no_weights_is_refused_where_they_differ() -> None:
    with pytest.raises(UnsupportedPlanError, match="dh knows no weights"):
        suited_to(Scheduler("dh"), [1, 2])
    assert suited_to(ROUND_ROBIN, []).name == "rr"
