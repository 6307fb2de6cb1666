# SPDX-License-Identifier: Apache-2.0
"""From another mode, or from kube-proxy, to this one: which leftovers there are, and when each list may go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pointsman_chassis.clock import Clock
from pointsman_chassis.lifecycle import task_boundary
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Stage
from pointsman_enforcer.dataplane.failures import NEVER
from pointsman_enforcer.dataplane.kube_proxy.takeover import KubeProxyTakeover, TakeoverMetrics, kube_proxy_leftovers
from pointsman_enforcer.dataplane.modes.own_leftovers import own_leftovers, rules_of
from pointsman_enforcer.dataplane.modes.sweeper import LeftoverMetrics, Readiness, Sweeper
from pointsman_enforcer.dataplane.reconciler import Reconciler
from pointsman_enforcer.dataplane.verification import Verification
from pointsman_enforcer.settings import EnforcerConfiguration

_NET_ADMIN: Final = 1 << 12


class Handover:
    """One node's. Works in the network namespace of the thread that runs the event loop."""

    def __init__(
        self,
        config: EnforcerConfiguration,
        *,
        store: PlanStore,
        reconciler: Reconciler[Any],
        verification: Verification,
        is_confirmed: Callable[[], bool],
        registry: Registry,
        clock: Clock,
    ) -> None:
        """`is_confirmed`: whether a planner said that the plan is whole.

        Without the right to change rules, as rootless userspace mode may be, nothing is looked for.
        """
        self._store, self._reconciler, self._verification = store, reconciler, verification
        may_remove = _may_administer()
        self._takeover: KubeProxyTakeover | None = None
        if config.remove_kube_proxy_rules and may_remove:
            self._takeover = KubeProxyTakeover(kube_proxy_leftovers(), clock=clock, metrics=TakeoverMetrics(registry))
        self._sweeper = Sweeper(
            own_leftovers(rules_of(config)) if may_remove else [],
            ready=Readiness(is_settled=self._is_settled, is_confirmed=is_confirmed),
            on_found=verification.hurry,
            on_confirmed=self._confirmed,
            metrics=LeftoverMetrics(registry),
            clock=clock,
        )

    def look(self) -> None:
        """A sync is over, or everything was verified."""
        self._sweeper.look()

    async def run(self) -> None:
        """Sweep, and watch for a kube-proxy as long as it is to be watched for."""
        async with asyncio.TaskGroup() as group:
            group.create_task(task_boundary("leftovers", self._sweeper.run()))
            if self._takeover is not None:
                group.create_task(task_boundary("takeover", self._takeover.run()))

    def describe(self) -> dict[str, Any]:
        """For /statusz."""
        takeover = {} if self._takeover is None else self._takeover.describe()
        return {"leftovers": self._sweeper.describe(), "kubeProxy": takeover}

    def _is_settled(self) -> bool:
        failures = self._reconciler.failures
        is_programmed = self._reconciler.is_programmed and self._store.is_complete
        is_final = failures.next_retry() == NEVER and all(
            each.stage is not Stage.VERIFY for _, each in failures.items()
        )
        return is_programmed and is_final and self._verification.waiting == 0

    def _confirmed(self) -> None:
        if self._takeover is not None:
            self._takeover.verified()


def _may_administer() -> bool:
    """Whether this process has CAP_NET_ADMIN."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _NET_ADMIN)
    return False
