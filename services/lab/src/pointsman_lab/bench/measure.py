# SPDX-License-Identifier: Apache-2.0
"""The measurements: each takes a running lab with `size` services loaded and gives figures."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from pointsman_lab.apiserver.resources import ENDPOINTSLICES
from pointsman_lab.bench.kernel import KernelCommits, kernel_commits
from pointsman_lab.bench.load import ENDPOINTS, NAMESPACE, addresses, endpoint_slice
from pointsman_lab.bench.report import Figure, percentiles
from pointsman_lab.nodes import wait_synced
from pointsman_lab.supervise.services import METRICS_PORT, enforcer_name

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster

_BURST = 1000
_BURST_WRITERS = 16
_SETTLED_SECONDS = 1.0
_GAP_SECONDS = 0.005
_EVENT_SECONDS = 10.0
_TABLES = (("ip", "pointsman"), ("ip6", "pointsman"))


class Bench:
    """One lab under measurement."""

    def __init__(self, cluster: Cluster, size: int, changes: int) -> None:
        self.cluster = cluster
        self.size = size
        self.changes = changes
        self.node = cluster.nodes[0].name
        self.enforcer = enforcer_name(self.node)

    async def replacements(self) -> list[Figure]:
        """Each change exchanges one endpoint of a service."""
        return await self._changes("replace", count=ENDPOINTS)

    async def removals(self) -> list[Figure]:
        """Each change takes the last endpoint of a service away; to be run after `replacements`."""
        return await self._changes("remove", count=ENDPOINTS - 1)

    async def _changes(self, kind: str, *, count: int) -> list[Figure]:
        """Latency and cost of single endpoint changes."""
        written: list[float] = []
        watched: list[float] = []
        async with kernel_commits(self.cluster, self.node, "events") as commits, self._own_watch() as seen:
            before = await self.costs()
            for number in range(1, self.changes + 1):
                index = (number * 7919) % self.size
                sent = time.monotonic()
                await self._put(index, version=number % 5 + 1, count=count)
                committed = await commits.wait_after(sent)
                written.append((committed - sent) * 1e3)
                watched.append((committed - await asyncio.wait_for(seen.get(), _EVENT_SECONDS)) * 1e3)
                await asyncio.sleep(_GAP_SECONDS)
            after = await self.costs()
        targets = {50: 2.5, 99: 10.0} if kind == "replace" else {}
        return [
            *percentiles(
                f"endpoint {kind}: watch event -> kernel commit", self.size, "ms", watched, targets, may_grow=0
            ),
            *percentiles(f"endpoint {kind}: API write sent -> kernel commit", self.size, "ms", written, may_grow=0),
            *self._cost_figures(kind, before, after),
        ]

    def _cost_figures(self, kind: str, before: dict[str, float], after: dict[str, float]) -> list[Figure]:
        figures = []
        for what, start in before.items():
            each = (after[what] - start) / self.changes
            if what.startswith("cpu "):
                target = 2.0 if what == "cpu enforcer" else None
                title = f"endpoint {kind}: CPU of the {what.removeprefix('cpu ')} per change"
                figures.append(
                    Figure(name=title, size=self.size, value=round(each * 1e3, 4), unit="ms", target=target, may_grow=0)
                )
            else:
                title = f"endpoint {kind}: kernel {what} per change"
                figures.append(Figure(name=title, size=self.size, value=round(each, 2), unit=what, may_grow=0))
        return figures

    async def burst(self) -> list[Figure]:
        """Many slices changed at once: from the last API answer to the last kernel commit."""
        count = min(_BURST, self.size)
        async with kernel_commits(self.cluster, self.node, "generation") as commits:
            pending = iter(range(count))

            async def write() -> None:
                for index in pending:
                    await self._put(index, version=6)

            await asyncio.gather(*(write() for _ in range(min(_BURST_WRITERS, count))))
            answered = time.monotonic()
            await self._settled(commits)
            late = max(0.0, commits.instants[-1] - answered)
        target = 0.5 if count == _BURST else None
        title = f"burst of {count} slices: last API answer -> all in the kernel"
        return [Figure(name=title, size=self.size, value=round(late, 4), unit="s", target=target)]

    async def cold_starts(self) -> list[Figure]:
        """A node that knows nothing, and one that has its plan on disk but reaches nobody."""
        network = await self._cold_start(forget=True)
        await self.cluster.signal("planner", "STOP")
        try:
            disk = await self._cold_start(forget=False)
        finally:
            await self.cluster.signal("planner", "CONT")
        await wait_synced(self.cluster)
        return [
            Figure(
                name="cold start of a node over the network",
                size=self.size,
                value=network,
                unit="s",
                target=3.0,
                may_grow=1,
            ),
            Figure(
                name="cold start of a node from the plan on disk",
                size=self.size,
                value=disk,
                unit="s",
                target=1.0,
                may_grow=1,
            ),
        ]

    async def _cold_start(self, *, forget: bool) -> float:
        await self.cluster.signal(self.enforcer, "KILL", restart=False)
        for family, table in _TABLES:
            await self.cluster.execute(self.node, ["nft", "delete", "table", family, table])
        if forget:
            state = self.cluster.state.nodes / self.node
            for path in state.rglob("*"):
                if path.is_file():
                    path.unlink()
        async with kernel_commits(self.cluster, self.node, "generation") as commits:
            started = time.monotonic()
            starting = asyncio.create_task(self.cluster.start_process(self.enforcer))
            await commits.wait_after(started)
            await self._settled(commits)
            await starting
            return round(commits.instants[-1] - started, 3)

    async def memory(self) -> list[Figure]:
        """Resident memory of each process now."""
        processes = await self.cluster.processes()
        names = {"watcher": "watcher", "planner": "planner", "enforcer": self.enforcer}
        return [
            Figure(
                name=f"resident memory of the {what}",
                size=self.size,
                value=round(processes[process].resident_bytes / 1e6, 1),
                unit="MB",
                target=80.0 if what == "enforcer" else None,
                may_grow=1,
            )
            for what, process in names.items()
        ]

    async def watches(self) -> list[Figure]:
        """Watches at the API server that are Pointsman's; the lab's own controllers are off in a bench."""
        stats = await self.cluster.api.request("GET", "/lab/v1/stats")
        count = float(sum(stats["openWatches"].values()))
        return [
            Figure(
                name="API server watches, for any number of nodes",
                size=self.size,
                value=count,
                unit="watches",
                target=10,
            )
        ]

    async def _settled(self, commits: KernelCommits) -> None:
        """Wait until the kernel committed nothing for a while."""
        while True:
            count = len(commits.instants)
            await asyncio.sleep(_SETTLED_SECONDS)
            if count and len(commits.instants) == count:
                return

    async def _put(self, index: int, *, version: int = 0, count: int = ENDPOINTS) -> None:
        body = endpoint_slice(index, addresses(index, version=version, count=count))
        await self.cluster.api.update(ENDPOINTSLICES, body)

    @contextlib.asynccontextmanager
    async def _own_watch(self) -> AsyncIterator[asyncio.Queue[float]]:
        """Instants at which a watch of our own saw slice events: when any watcher could have."""
        seen: asyncio.Queue[float] = asyncio.Queue()
        listed = await self.cluster.api.list(ENDPOINTSLICES, NAMESPACE, limit="1")
        version = listed["metadata"]["resourceVersion"]

        async def follow() -> None:
            async for _ in self.cluster.api.watch(
                ENDPOINTSLICES, NAMESPACE, resourceVersion=version, timeoutSeconds="900"
            ):
                seen.put_nowait(time.monotonic())

        task = asyncio.create_task(follow())
        try:
            yield seen
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def costs(self) -> dict[str, float]:
        """CPU seconds of each process, and what the enforcer counted, so far."""
        processes = await self.cluster.processes()
        names = {"watcher": "watcher", "planner": "planner", "enforcer": self.enforcer}
        costs = {f"cpu {what}": processes[process].cpu_seconds for what, process in names.items()}
        url = f"http://127.0.0.1:{METRICS_PORT}/metrics"
        script = f"import urllib.request as u; print(u.urlopen('{url}').read().decode())"
        for line in (await self.cluster.node_exec(self.node, "python3", "-c", script)).splitlines():
            for what in ("messages", "bytes"):
                if line.startswith(f"pointsman_enforcer_kernel_{what}_total "):
                    costs[what] = float(line.split()[-1])
        return costs
