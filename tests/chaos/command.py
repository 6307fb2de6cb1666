# SPDX-License-Identifier: Apache-2.0
"""`make chaos SEED=1 DURATION=120`: a whole cluster, changing all the time, whose parts are killed, paused, cut off,
starved and lied to; whenever it is left alone for a moment, API server, plans and kernels must agree.

The schedule is made of the seed alone. The last line counts; 1 when a request failed or something did not agree.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from chaos import harm
from chaos.churn import STEADY, Churn
from chaos.judge import disagreements, shown
from chaos.schedule import Fault, Places, Round, make_round

from pointsman_lab.cluster import Cluster
from pointsman_lab.errors import LabError, NotConvergedError
from pointsman_lab.settings import LabSettings
from support.lab_world import OUTSIDE, Backend, start_backends

if TYPE_CHECKING:
    from pointsman_lab.probe.calls import RunningTraffic

ROUND_SECONDS = 14.0
_CHURN_SECONDS = 0.15
_AGREE_SECONDS = 60.0
_PACE: dict[str, Any] = {"workers": 2, "interval_seconds": 0.03}


@dataclass(slots=True, kw_only=True)
class Report:
    """What is counted."""

    faults: int = 0
    requests: int = 0
    failed: int = 0
    divergences: int = 0
    changes: int = 0

    def verdict(self) -> str:
        """The last line."""
        return (
            f"faults injected {self.faults}, requests sent {self.requests}, requests failed {self.failed}, "
            f"divergences {self.divergences}"
        )

    @property
    def is_good(self) -> bool:
        """Whether nothing failed, and something was tried."""
        return not self.failed and not self.divergences and self.faults > 0 and self.requests > 0


async def run(seed: int, seconds: float, say: Callable[[str], None]) -> Report:
    """Rounds until so many seconds have been played; the quiet between them does not count."""
    random = Random(seed)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="chaos-") as root:
        settings = LabSettings(
            name="chaos", root=root, services=("redis", "watcher", "planner", "enforcer"), stepped_clocks=True
        )
        async with Cluster(settings) as cluster:
            backends = await start_backends(cluster)
            churn = Churn(cluster, backends, Random(random.random()))
            steady = await churn.begin()
            await _agree(cluster, report, say, "before any fault")
            async with _traffic(cluster, backends, steady) as flows:
                played, number = 0.0, 0
                while played < seconds:
                    number += 1
                    wanted = make_round(random, _places(cluster), seconds=min(ROUND_SECONDS, seconds - played))
                    await _play(cluster, wanted, churn, report, say)
                    await harm.make_whole(cluster)
                    await _agree(cluster, report, say, f"after round {number}")
                    played += wanted.seconds
                for name, flow in flows.items():
                    last = await flow.stop()
                    report.requests += last.attempts
                    report.failed += last.failed
                    for failure in last.failures[:3]:
                        say(f"FAILED {name}: {failure}")
            report.changes = churn.changes
    return report


def _places(cluster: Cluster) -> Places:
    topology = cluster.topology
    return Places(
        watchers=tuple(place.name for place in topology.watchers),
        planners=tuple(place.name for place in topology.planners),
        nodes=tuple(place.name for place in topology.nodes),
    )


async def _play(cluster: Cluster, wanted: Round, churn: Churn, report: Report, say: Callable[[str], None]) -> None:
    """One round: faults at their times, changes all the time."""
    began = time.monotonic()

    async def suffer(fault: Fault) -> None:
        await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
        say(f"{fault.at:5.1f} s  {fault}")
        await harm.begin(cluster, fault)
        report.faults += 1
        await asyncio.sleep(max(0.0, began + fault.at + fault.seconds - time.monotonic()))
        await harm.end(cluster, fault)

    async def change() -> None:
        while time.monotonic() - began < wanted.seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await churn.step()
            await asyncio.sleep(_CHURN_SECONDS)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(change())
        for fault in wanted.faults:
            tasks.create_task(suffer(fault))


async def _agree(cluster: Cluster, report: Report, say: Callable[[str], None], when: str) -> None:
    """Wait until everything agrees; what does not in time is a divergence."""
    found: list[str] = []

    async def do_agree() -> bool:
        found[:] = await disagreements(cluster)
        return not found

    try:
        await cluster.wait_all_deployed()
        took = await cluster.wait_until(do_agree, "agreement", timeout_seconds=_AGREE_SECONDS)
        say(f"{when}: API server, plans and kernels agree after {took:.1f} s")
    except NotConvergedError as error:
        report.divergences += max(1, len(found))
        say(f"DIVERGENCE {when}: {error}\n{shown(found)}")


@contextlib.asynccontextmanager
async def _traffic(
    cluster: Cluster, backends: tuple[Backend, ...], steady: dict[str, dict[str, Any]]
) -> AsyncIterator[dict[str, RunningTraffic]]:
    """New connections to what is steady: from pods, from nodes, from outside by node port, by TCP and UDP."""
    plain, affine = (steady[name] for name in STEADY)
    vip, affine_vip = plain["spec"]["clusterIP"], affine["spec"]["clusterIP"]
    node_port = next(port["nodePort"] for port in plain["spec"]["ports"] if port["name"] == "http")
    asks: dict[str, tuple[str, str, int, str]] = {}
    for backend in backends:
        asks[f"pod on {backend.node}"] = (backend.place, vip, 80, "TCP")
    for node in cluster.nodes:
        asks[f"outside by {node.name}"] = (OUTSIDE, node.address.ipv4, node_port, "TCP")
    asks["pod by UDP"] = (backends[0].place, vip, 53, "UDP")
    asks["node itself"] = (backends[1].node, vip, 80, "TCP")
    asks["pod with affinity"] = (backends[2].place, affine_vip, 80, "TCP")
    async with contextlib.AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(cluster.traffic(*ask, **_PACE)) for name, ask in asks.items()}


def main() -> int:
    """Run; 1 when something failed or did not agree, or the lab itself broke."""
    parser = argparse.ArgumentParser(prog="tests/chaos/run.py", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--duration", type=float, default=120.0, help="seconds of faults and changes")
    parsed = parser.parse_args()
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - began:6.1f}] {text}\n")
        sys.stdout.flush()

    say(
        f"seed {parsed.seed}, {parsed.duration:g} s; the same again: make chaos SEED={parsed.seed} \
DURATION={parsed.duration:g}"
    )
    try:
        report = asyncio.run(run(parsed.seed, parsed.duration, say))
    except LabError as error:
        say(f"the lab broke: {type(error).__name__}: {error}")
        return 1
    say(f"{report.changes} changes of objects")
    sys.stdout.write(f"{report.verdict()}\n")
    return 0 if report.is_good else 1
