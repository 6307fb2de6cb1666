# SPDX-License-Identifier: Apache-2.0
"""Health by kube-proxy's rules: waiting too long is unhealthy, being idle or alone never is."""

from __future__ import annotations

import json

import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.http import Request, Response
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.status import Health
from pointsman_enforcer.health.routes import health_routes
from pointsman_enforcer.metrics import EnforcerMetrics
from pointsman_model.plan import NodeFacts

ELIGIBLE = NodeFacts(name="n")
CONDEMNED = NodeFacts(name="n", eligible=False)


def test_idle_is_healthy_for_ever() -> None:
    health = Health(timeout_seconds=60)
    assert health.status(1e9).is_healthy
    health.queued(0)
    health.synced(1)
    assert health.status(1e9).is_healthy


def test_a_start_is_healthy_however_long_it_takes() -> None:
    health = Health(timeout_seconds=60)
    health.queued(0)
    assert health.status(1e9).is_healthy
    health.synced(1e9)
    health.queued(1e9)
    assert not health.status(2e9).is_healthy


def test_an_update_that_waits_too_long_is_unhealthy_until_it_is_done() -> None:
    health = Health(timeout_seconds=60)
    health.synced(99)
    health.queued(100)
    health.queued(150)
    assert health.status(159).is_healthy
    assert not health.status(160).is_healthy
    health.synced(161)
    assert health.status(161).is_healthy


@pytest.mark.parametrize(
    ("facts", "waits", "healthz", "livez"),
    [
        (None, False, 503, 200),
        (ELIGIBLE, False, 200, 200),
        (CONDEMNED, False, 503, 200),
        (ELIGIBLE, True, 503, 503),
    ],
)
async def test_healthz_asks_for_eligibility_and_livez_does_not(
    facts: NodeFacts | None, waits: bool, healthz: int, livez: int
) -> None:
    clock, health = VirtualClock(), Health(timeout_seconds=60)
    if facts is not None:
        health.learn(facts)
    if waits:
        health.synced(0)
        health.queued(0)
        await clock.advance(61)
    registry = Registry(process=False)
    routes = health_routes(health, EnforcerMetrics(registry), clock)
    answers = {}
    for path in ("/healthz", "/livez"):
        answer = routes[path](Request(path=path, query={}, headers={}))
        assert isinstance(answer, Response)
        answers[path] = answer
    assert (answers["/healthz"].status, answers["/livez"].status) == (healthz, livez)
    assert "nodeEligible" in json.loads(answers["/healthz"].body)
    assert "nodeEligible" not in json.loads(answers["/livez"].body)
    assert json.loads(answers["/livez"].body)["healthy"] is not waits
    assert registry.value("kubeproxy_proxy_healthz_total", {"code": str(healthz)}) == 1
