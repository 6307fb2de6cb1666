# SPDX-License-Identifier: Apache-2.0
"""The modes side by side: `PYTHONPATH=tests .venv/bin/python tests/perf/bench_modes.py [services]` (root).

Services have ten endpoints. Each mode has a process and a network namespace of its own. Measured are the dataplane and
the programs that it runs; no figure is asserted: machines differ.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conformance.executors.modes import IPTABLES_LEGACY, IPTABLES_NFT, NFTABLES, USERSPACE

from pointsman_enforcer.dataplane.base import Dataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_model.names import parse_prefix
from support.enforcer_plans import FACTS, numbered
from support.netns import NetNs

MODES = {mode.name: mode for mode in (NFTABLES, IPTABLES_LEGACY, IPTABLES_NFT, USERSPACE)}
SETTINGS = NodeSettings(cluster_cidrs=(parse_prefix("10.0.0.0/8"),))
PER_CHANGE, CHANGES = 2500, 30


async def measure(dataplane: Dataplane[Any], services: int) -> dict[str, float]:
    """Milliseconds and MiB, by what they are of."""
    dataplane.configure(FACTS)
    await dataplane.observe()
    await dataplane.prepare()
    renderings: list[Any] = []
    started = time.perf_counter()
    for first in range(0, services, PER_CHANGE):
        change = dataplane.diff(b"", b"")
        for index in range(first, min(first + PER_CHANGE, services)):
            renderings.append(dataplane.render(numbered(index), b""))
            change.include(dataplane.diff(b"", renderings[-1]))
        await dataplane.apply(change)
    cold, before, taken = time.perf_counter() - started, cpu(), []
    for index in range(CHANGES):
        started = time.perf_counter()
        rendering = dataplane.render(numbered(index, first=2), renderings[index])
        await dataplane.apply(dataplane.diff(renderings[index], rendering))
        taken.append(time.perf_counter() - started)
    taken.sort()
    return {
        "cold start, ms": cold * 1e3,
        "endpoint replaced p50, ms": taken[CHANGES // 2] * 1e3,
        f"endpoint replaced, slowest of {CHANGES}, ms": taken[-1] * 1e3,
        "processor per change, ms": (cpu() - before) / CHANGES * 1e3,
        "largest resident, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def cpu() -> float:
    """Seconds of this process and of the programs that it ran."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def measure_here(name: str, services: int) -> None:
    """Print the figures of one mode as JSON."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with NetNs("bench") as node:
        # The proxy of userspace mode listens at the node's addresses.
        node.address("lo", "192.168.0.2/32", "2001:db8::1/128")
        dataplane = node.call(lambda: MODES[name].open_dataplane(SETTINGS))
        sys.stdout.write(json.dumps(node.call(lambda: asyncio.run(measure(dataplane, services)))))


def main() -> None:
    """Measure each mode in a process of its own, and print one table."""
    services = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    if len(sys.argv) > 2:
        measure_here(sys.argv[2], services)
        return
    command = [sys.executable, __file__, str(services)]
    seen = {mode: json.loads(subprocess.check_output([*command, mode])) for mode in MODES}
    base = seen[NFTABLES.name]
    lines = [f"| {services:,} services x 10 | {' | '.join(MODES)} |", "|---|" + "---:|" * len(MODES)]
    for figure, ours in base.items():
        cells = (f"{seen[mode][figure] / ours:.2f}x ({seen[mode][figure]:,.1f})" for mode in MODES)
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
