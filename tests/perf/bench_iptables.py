# SPDX-License-Identifier: Apache-2.0
"""What iptables mode costs: `.venv/bin/python tests/perf/bench_iptables.py [services] [services per change] [variant]`.

Services have ten endpoints. Times are of this process and of the programs that it runs, until they have ended.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.xtables.tools import Variant
from pointsman_model.names import parse_prefix
from pointsman_model.plan import ServicePlan
from support.enforcer_plans import FACTS, numbered
from support.netns import NetNs

SETTINGS = NodeSettings(cluster_cidrs=(parse_prefix("10.0.0.0/8"),))
CHANGES = 10


async def bench(dataplane: IptablesDataplane, services: int, per_change: int) -> None:
    dataplane.configure(FACTS)
    await dataplane.observe()
    await dataplane.prepare()
    renderings: list[bytes] = []
    started, before = time.perf_counter(), cpu()
    for first in range(0, services, per_change):
        change = dataplane.diff(b"", b"")
        for index in range(first, min(first + per_change, services)):
            renderings.append(dataplane.render(numbered(index), b""))
            change.include(dataplane.diff(b"", renderings[-1]))
        await dataplane.apply(change)
    say(f"load, {per_change} at a time: wall clock / processor", time.perf_counter() - started, cpu() - before)
    changes = [await changed(dataplane, renderings, index, numbered(index, first=2)) for index in range(CHANGES)]
    say("endpoint replaced, min / median", min(changes), statistics.median(changes))
    gone = [await changed(dataplane, renderings, index, ServicePlan()) for index in range(CHANGES)]
    say("service removed, min / median", min(gone), statistics.median(gone))
    back = [await changed(dataplane, renderings, index, numbered(index)) for index in range(CHANGES)]
    say("service added, min / median", min(back), statistics.median(back))
    await verified(dataplane, renderings)


async def changed(dataplane: IptablesDataplane, renderings: list[bytes], index: int, plan: ServicePlan) -> float:
    started = time.perf_counter()
    rendering = dataplane.render(plan, renderings[index])
    await dataplane.apply(dataplane.diff(renderings[index], rendering))
    renderings[index] = rendering
    return time.perf_counter() - started


async def verified(dataplane: IptablesDataplane, renderings: list[bytes]) -> None:
    """One whole round, from the question to the answer: wall clock, and processor of this process and its programs."""
    started, before = time.perf_counter(), cpu()
    dataplane.watch(lambda: say("something differs"))
    while (read := dataplane.read_back(renderings[-1], 0, 1000)) is None:
        await asyncio.sleep(0.01)
    say("read back whole: wall clock / processor", time.perf_counter() - started, cpu() - before)
    if read.differing:
        raise SystemExit(f"{read.differing} differ: {read.words}")


def cpu() -> float:
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def say(words: str, *seconds: float) -> None:
    figures = " / ".join(f"{each * 1000:,.0f}" for each in seconds)
    sys.stdout.write(f"{words:54}{figures} ms\n" if seconds else f"{words}\n")
    sys.stdout.flush()


def main() -> None:
    services, per_change = (int(each) for each in [*sys.argv[1:3], "1000", "1000"][:2])
    variants = [Variant(sys.argv[3])] if len(sys.argv) > 3 else list(Variant)
    for variant in variants:
        say(f"{variant.value}, {services} services")
        with NetNs("bench") as node:
            dataplane = node.call(partial(IptablesDataplane, node_settings=SETTINGS, variant=variant))
            asyncio.run(bench(dataplane, services, per_change))
            dataplane.close()


if __name__ == "__main__":
    main()
