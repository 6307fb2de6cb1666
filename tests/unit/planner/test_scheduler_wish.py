# SPDX-License-Identifier: Apache-2.0
"""What a Service's annotation wishes of IPVS reaches every node's plan as it stands there."""

from __future__ import annotations

import pytest

from pointsman_model.names import ServiceKey
from pointsman_planner.core.assignment import SCHEDULER_ANNOTATION
from support.cluster_objects import service
from support.planner_world import World


@pytest.mark.parametrize(
    ("written", "planned"),
    [
        ({}, ""),
        ({SCHEDULER_ANNOTATION: "mh,mh-fallback"}, "mh,mh-fallback"),
        ({SCHEDULER_ANNOTATION: "no such thing"}, "no such thing"),
        ({SCHEDULER_ANNOTATION: "x" * 1000}, "x" * 64),
        ({"pointsman.io/other": "mh"}, ""),
    ],
    ids=["none", "flags", "unknown", "long", "another-annotation"],
)
def test_a_wish_is_carried_unjudged_and_bounded(written: dict[str, str], planned: str) -> None:
    plan = World(service("shop/web", annotations=written)).plan
    assert plan.services[ServiceKey("shop", "web")].ipvs_scheduler == planned
