# SPDX-License-Identifier: Apache-2.0
"""An enforcer's core on a real kernel: reconciler, runner and drift monitor in one namespace, without a planner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.errors import PointsmanError
from pointsman_chassis.runner import BoundedRunner
from pointsman_enforcer.core.plan_session import Commit, Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.dataplane.drift import DriftLook
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.change import NftChange
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.reconciler import Reconciler
from pointsman_model.names import ServiceKey, parse_prefix
from pointsman_model.plan import ServicePlan
from support.enforcer_plans import whole
from support.netns import NetNs

DEADLINE_SECONDS = 20.0
SETTINGS = NodeSettings(cluster_cidrs=(parse_prefix("10.0.0.0/16"), parse_prefix("fd00:10::/48")))


class DriftNode:
    """See the module. `looks` are those the drift keeper reported, `reports` what a planner would hear."""

    def __init__(self, namespace: NetNs) -> None:
        self.namespace = namespace
        self.store = PlanStore()
        self.clock = SystemClock()
        self.dataplane = namespace.call(lambda: NftablesDataplane(node_settings=SETTINGS))
        self.looks: list[DriftLook] = []
        self.reports: list[Programmed] = []
        self.failures: list[PointsmanError] = []
        self.nonce = 0
        self.reconciler: Reconciler[NftChange] = Reconciler(
            dataplane=self.dataplane,
            store=self.store,
            clock=self.clock,
            on_synced=lambda _pending, programmed, _tally: self.reports.append(programmed),
        )
        self.runner = BoundedRunner(
            self.reconciler.run, on_failure=self.failures.append, retry_interval_seconds=0.2, clock=self.clock
        )

    def plan(self, plans: Mapping[ServiceKey, ServicePlan]) -> None:
        """These are the whole plan now, says a planner in sync."""
        self.nonce += 1
        transaction = whole(plans, nonce=self.nonce)
        changes = tuple(self.store.apply(transaction))
        self.reconciler.commit(Commit(transaction, changes, True), stream=self, received_at=0.0, received_ns=0)
        self.runner.request()

    async def programmed(self) -> None:
        """Wait until the plan held is in the kernel."""
        nonce = self.nonce
        await self.until(lambda: any(report.nonce == nonce for report in self.reports), "the plan was not programmed")

    async def looked(self, count: int) -> DriftLook:
        """Wait for so many looks at drift; the newest."""
        await self.until(lambda: len(self.looks) >= count, f"{count} looks were due, there were {len(self.looks)}")
        return self.looks[-1]

    async def nft(self, commands: str) -> None:
        """Somebody else's nft."""
        await asyncio.to_thread(self.namespace.run, "nft", "-f", "-", stdin=commands)

    async def until(self, is_true: Callable[[], bool], otherwise: str) -> None:
        """Wait, bounded."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not is_true():
            assert time.monotonic() < deadline, f"{otherwise}; failures: {self.failures}"
            await asyncio.sleep(0.005)

    def listing(self, family: str = "ip") -> str:
        """Our table as nft prints it, without counts and elements in a stable order."""
        lines = self.namespace.run("nft", "-s", "list", "table", family, "pointsman").splitlines()
        return "\n".join(sorted(part.strip().rstrip(",") for line in lines for part in _elements(line)))


def _elements(line: str) -> list[str]:
    """Elements are printed several to a line, in the order of the kernel's hash."""
    return line.replace("elements = {", ",").replace("}", ",").split(", ") if " : " in line or "{" in line else [line]


@asynccontextmanager
async def drift_node(namespace: NetNs) -> AsyncIterator[DriftNode]:
    """A running node; its tables are removed at the end."""
    node = DriftNode(namespace)
    node.reconciler.drift.watch(request=node.runner.request, on_look=node.looks.append)
    running = asyncio.create_task(node.runner.run())
    try:
        yield node
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await node.dataplane.cleanup()
        node.dataplane.close()
