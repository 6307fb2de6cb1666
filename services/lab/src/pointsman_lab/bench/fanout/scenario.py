# SPDX-License-Identifier: Apache-2.0
"""What is measured with many nodes connected: single changes, a rolling update, all streams cut at once."""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pointsman_lab.bench.fanout.cluster import ScriptedCluster, serve
from pointsman_lab.bench.fanout.enforcer import Manner
from pointsman_lab.bench.fanout.generator import GeneratorOrder
from pointsman_lab.bench.fanout.processes import GeneratorProcess, PlannerProcess, start_planner, stop

_POLL_SECONDS = 0.05
_DEADLINE_SECONDS = 300.0
_ROLL_STEP_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of a run."""

    nodes: int = 1000
    planners: int = 1
    generators: int = 1
    services: int = 1000
    endpoints: int = 10
    big_endpoints: int = 5000
    changes: int = 20
    slow: int = 0
    """Further nodes that acknowledge late."""
    dead: int = 0
    """Further nodes that say hello and then neither read nor write."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """Totals of live nodes over all generators since they started, and acknowledgements not yet looked at."""

    acks: list[tuple[int, int]] = field(default_factory=list)
    bytes_received: int = 0
    transactions: int = 0
    mismatches: int = 0
    broken: int = 0
    in_sync: int = 0


class FanOut:
    """A run: its processes, its cluster, and the scenes played on them."""

    def __init__(
        self,
        plan: Plan,
        cluster: ScriptedCluster,
        planners: Sequence[PlannerProcess],
        generators: Sequence[GeneratorProcess],
    ) -> None:
        self._plan = plan
        self._cluster = cluster
        self._planners = planners
        self._generators = generators

    async def _ask(self, word: str = "read") -> Seen:
        seen = Seen()
        for answer in await asyncio.gather(*(each.ask(word) for each in self._generators)):
            seen.acks.extend((revision, at_ns) for revision, at_ns in answer["acks"])
            for name in ("bytes_received", "transactions", "mismatches", "broken", "in_sync"):
                setattr(seen, name, getattr(seen, name) + answer[name])
        return seen

    def _cpu_seconds(self) -> float:
        return sum(each.cpu_seconds() for each in self._planners)

    def _resident_bytes(self) -> int:
        return sum(each.resident_bytes() for each in self._planners)

    async def in_sync(self) -> Seen:
        """Wait until every live node has a whole plan."""
        async with asyncio.timeout(_DEADLINE_SECONDS):
            while True:
                seen = await self._ask()
                if seen.in_sync >= self._plan.nodes:
                    return seen
                await asyncio.sleep(_POLL_SECONDS)

    async def _acknowledged(self, revision: int) -> tuple[list[int], Seen]:
        """Times at which live nodes acknowledged the revision or a later one; all of them."""
        times: list[int] = []
        async with asyncio.timeout(_DEADLINE_SECONDS):
            while True:
                seen = await self._ask()
                times.extend(at_ns for reached, at_ns in seen.acks if reached >= revision)
                if len(times) >= self._plan.nodes:
                    return times, seen
                await asyncio.sleep(_POLL_SECONDS)

    async def changes(self) -> dict[str, float]:
        """One Service changed at a time; a node's latency, and that of the last node of each change."""
        before, cpu = await self._ask(), self._cpu_seconds()
        every: list[float] = []
        last: list[float] = []
        after = before
        for number in range(self._plan.changes):
            revision, started_ns = self._cluster.change_service(number % self._plan.services)
            times, after = await self._acknowledged(revision)
            every.extend((at_ns - started_ns) / 1e6 for at_ns in times)
            last.append((max(times) - started_ns) / 1e6)
        messages = after.transactions - before.transactions
        return {
            "ack_p50_ms": quantile(every, 0.5),
            "ack_p99_ms": quantile(every, 0.99),
            "last_ack_p50_ms": quantile(last, 0.5),
            "last_ack_p99_ms": quantile(last, 0.99),
            "planner_cpu_us_per_message": (self._cpu_seconds() - cpu) * 1e6 / messages,
            "messages_per_change_and_node": messages / self._plan.changes / self._plan.nodes,
            "bytes_per_change_and_node": (after.bytes_received - before.bytes_received)
            / self._plan.changes
            / self._plan.nodes,
        }

    async def roll(self) -> dict[str, float]:
        """Every endpoint of the big Service replaced, a slice at a step."""
        before, cpu = await self._ask(), self._cpu_seconds()
        started_ns = time.monotonic_ns()
        steps = 0
        for _ in self._cluster.roll():
            steps += 1
            await asyncio.sleep(_ROLL_STEP_SECONDS)
        times, after = await self._acknowledged(self._cluster.revision)
        total = after.bytes_received - before.bytes_received
        return {
            "steps": steps,
            "seconds": (max(times) - started_ns) / 1e9,
            "messages_per_node": (after.transactions - before.transactions) / self._plan.nodes,
            "bytes_per_node": total / self._plan.nodes,
            "bytes_total": total,
            "planner_cpu_seconds": self._cpu_seconds() - cpu,
        }

    async def storm(self) -> dict[str, float]:
        """Every live stream cut at once; nodes keep what they hold and dial at once."""
        before, cpu = await self._ask(), self._cpu_seconds()
        started = time.monotonic()
        await self._ask("cut")
        after = await self.in_sync()
        return {
            "seconds": time.monotonic() - started,
            "bytes_per_node": (after.bytes_received - before.bytes_received) / self._plan.nodes,
            "planner_cpu_seconds": self._cpu_seconds() - cpu,
        }

    async def play(self, idle_bytes: int, started: float) -> dict[str, dict[str, float]]:
        """All scenes, in order."""
        cold = await self.in_sync()
        start = {
            "seconds": time.monotonic() - started,
            "bytes_per_node": cold.bytes_received / self._plan.nodes,
            "planner_bytes_per_node": (self._resident_bytes() - idle_bytes) / self._plan.nodes,
        }
        scenes = {
            "cold start": start,
            "change": await self.changes(),
            "rolling update": await self.roll(),
            "reconnect storm": await self.storm(),
        }
        end = await self._ask()
        scenes["faults"] = {"digest_mismatches": end.mismatches, "streams_broken": end.broken}
        return scenes


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed; `values` is not empty."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def orders(plan: Plan, addresses: Sequence[str]) -> list[GeneratorOrder]:
    """Nodes over generators and planners, in turn; slow and dead ones come after the live."""
    manners = [Manner.LIVE] * plan.nodes + [Manner.SLOW] * plan.slow + [Manner.DEAD] * plan.dead
    nodes = [(f"n{index}", addresses[index % len(addresses)], manner) for index, manner in enumerate(manners)]
    return [GeneratorOrder(nodes=nodes[first :: plan.generators]) for first in range(plan.generators)]


async def run(plan: Plan) -> dict[str, dict[str, float]]:
    """Start everything, play all scenes, end everything; figures by scene."""
    cluster = ScriptedCluster(
        nodes=plan.nodes + plan.slow + plan.dead,
        services=plan.services,
        endpoints=plan.endpoints,
        big_endpoints=plan.big_endpoints,
    )
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-fanout-")))
        server, watcher = await serve(cluster)
        stack.push_async_callback(server.stop, 0)
        planners: list[PlannerProcess] = []
        for number in range(plan.planners):
            planners.append(await start_planner(directory, number, watcher))
            stack.push_async_callback(stop, planners[-1].process)
        idle_bytes = sum(each.resident_bytes() for each in planners)
        started = time.monotonic()
        generators: list[GeneratorProcess] = []
        for order in orders(plan, [each.address for each in planners]):
            generators.append(await GeneratorProcess.start(order))
            stack.push_async_callback(stop, generators[-1].process)
        return await FanOut(plan, cluster, planners, generators).play(idle_bytes, started)
