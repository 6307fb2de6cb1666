# SPDX-License-Identifier: Apache-2.0
"""A plan is a few kilobytes, and what it asks the kernel for stays in proportion, whatever its weights say."""

from __future__ import annotations

import pytest

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.nftables.packed import bodies, records
from pointsman_enforcer.dataplane.nftables.render import ELEMENTS_MAX, RenderContext, render_service
from pointsman_model.names import Family, Protocol
from pointsman_model.plan import Frontend, FrontendKind, PlanEndpoint, ServicePlan, ServicePortPlan
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_plans import forward

CONTEXT = RenderContext(detects=frozenset(Family))
HUGE = 2**32 - 1


def plan(frontends: int, weights: tuple[int, ...]) -> ServicePlan:
    chosen = tuple(PlanEndpoint(bytes((10, 0, 0, index)), 80, weight) for index, weight in enumerate(weights))
    verdicts = (forward(), forward(masquerade=True), forward(masquerade=True))
    kind = FrontendKind.CLUSTER_IP
    vips = tuple(Frontend(kind, bytes((172, 30, each >> 8, each & 255)), 80, *verdicts) for each in range(frontends))
    port = ServicePortPlan(name="p", protocol=Protocol.TCP, family=Family.IPV4, frontends=vips, endpoint_sets=(chosen,))
    return ServicePlan(ports=(port,))


def elements(rendering: bytes) -> int:
    return sum(len(records(number, body)) for number, body in bodies(rendering).items())


def test_a_small_plan_with_huge_weights_on_many_frontends_is_refused() -> None:
    hostile = plan(1000, (1, HUGE))
    assert len(encode_service_plan(hostile)) < 40_000
    with pytest.raises(UnsupportedPlanError, match="elements"):
        render_service(hostile, b"", CONTEXT)


def test_huge_weights_on_one_frontend_are_scaled_to_the_slots_there_are() -> None:
    assert elements(render_service(plan(1, (1, HUGE)), b"", CONTEXT)) < ELEMENTS_MAX


def test_many_frontends_with_ordinary_weights_are_programmed() -> None:
    assert elements(render_service(plan(500, (1, 2, 3)), b"", CONTEXT)) > 500 * 6
