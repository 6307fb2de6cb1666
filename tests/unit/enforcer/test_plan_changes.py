# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's figures of changes: what of a plan differs, and what still waits for the kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.plan_changes import GATHERED_MAX, PlanChanges, differing_parts
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import PlanChange, Transaction
from pointsman_enforcer.metrics import EnforcerMetrics
from pointsman_model.names import Protocol
from pointsman_model.plan import HealthCheck, ServicePlan
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_plans import cluster_ip, endpoints, key, load_balancer, numbered

ONE, TWO = numbered(1, 1), numbered(1, 2)
NOBODY = ServicePlan(ports=(cluster_ip("172.30.0.1", 80, ()),))
UDP = ServicePlan(ports=(cluster_ip("172.30.0.1", 53, endpoints("10.0.0.1"), Protocol.UDP),))
DRAINING = ServicePlan(ports=(replace(UDP.ports[0], also_serving=endpoints("10.0.0.2")),))
MASQUERADED = ServicePlan(
    ports=(
        replace(
            ONE.ports[0],
            frontends=tuple(
                frontend._replace(from_pod=frontend.from_pod._replace(masquerade=True))
                for frontend in ONE.ports[0].frontends
            ),
        ),
    )
)
CHECKED = replace(ONE, health_check=HealthCheck(node_port=32100, local_endpoints=1))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, NOBODY, (True, False)),
        (None, ONE, (True, True)),
        (ONE, None, (True, True)),
        (NOBODY, None, (True, False)),
        (ONE, TWO, (False, True)),
        (ONE, replace(ONE, affinity_timeout_seconds=10), (True, False)),
        (ONE, replace(ONE, ipvs_scheduler="sh"), (True, False)),
        (UDP, DRAINING, (False, True)),
        (ONE, MASQUERADED, (True, False)),
        (ONE, load_balancer(), (True, True)),
        (CHECKED, replace(CHECKED, health_check=HealthCheck(node_port=32100, local_endpoints=2)), (False, True)),
        (CHECKED, replace(CHECKED, health_check=HealthCheck(node_port=32101, local_endpoints=1)), (True, False)),
    ],
    ids=[
        "service-comes", "both-come", "both-go", "service-goes", "endpoints", "affinity", "scheduler", "draining",
        "verdict", "another-plan", "local-count", "check-port",
    ],
)  # fmt: skip
def test_a_change_is_of_the_service_of_its_endpoints_or_of_both(
    old: ServicePlan | None, new: ServicePlan | None, expected: tuple[bool, bool]
) -> None:
    before, after = (None if plan is None else encode_service_plan(plan) for plan in (old, new))
    assert differing_parts(before, after) == expected


def test_a_plan_that_cannot_be_read_is_a_change_of_the_service() -> None:
    assert differing_parts(None, b"\xff") == (True, False)
    assert differing_parts(b"\xff", encode_service_plan(ONE)) == (True, True)


class World:
    def __init__(self) -> None:
        self.store, self.registry = PlanStore(), Registry(process=False)
        self.changes = PlanChanges(self.store.get)
        EnforcerMetrics(self.registry).changes(self.registry, self.changes)
        self.nonce = 0

    def commit(self, **plans: ServicePlan) -> None:
        self.nonce += 1
        updates = {key(name.removeprefix("s")): encode_service_plan(plan) for name, plan in plans.items()}
        self.changes.committed(self.store.apply(Transaction(nonce=self.nonce, updates=updates)))

    def figure(self, what: str) -> int:
        return int(self.registry.value(f"kubeproxy_sync_proxy_rules_{what}") or 0)

    def figures(self) -> tuple[int, int, int, int]:
        """Of Services and of endpoints: all, and those that wait."""
        total, pending = "changes_total", "changes_pending"
        return (
            self.figure(f"service_{total}"),
            self.figure(f"endpoint_{total}"),
            self.figure(f"service_{pending}"),
            self.figure(f"endpoint_{pending}"),
        )


def test_changes_count_when_they_come_and_wait_until_the_kernel_has_them() -> None:
    world = World()
    assert world.figures() == (0, 0, 0, 0)
    world.commit(s1=NOBODY, s2=ONE)
    assert world.figures() == (2, 1, 2, 1)
    world.commit(s2=TWO)
    world.commit(s2=TWO)
    world.commit(s2=ONE)
    assert world.figures() == (2, 3, 2, 1), "nothing new is no change; a change taken back is two"
    world.changes.synced({key(2)}.__contains__)
    assert world.figures() == (2, 3, 1, 1), "one came while the kernel was at work"
    world.changes.synced(lambda _: False)
    assert world.figures() == (2, 3, 0, 0)


def test_what_gathers_before_anybody_asks_is_bounded() -> None:
    changes = PlanChanges(lambda _: None)
    for _ in range(GATHERED_MAX):
        changes.committed([PlanChange(key(1), 1, 2, b"")])
    assert len(changes._gathered[key(1)]) == GATHERED_MAX
    changes.committed([PlanChange(key(1), 1, 2, b"")])
    assert not changes._gathered
    assert changes.service_total() == GATHERED_MAX + 1
