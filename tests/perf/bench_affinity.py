# SPDX-License-Identifier: Apache-2.0
"""Figures of session affinity beside 10,000 services: `python tests/perf/bench_affinity.py` (root, own namespace).

No figure is asserted: machines differ.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pointsman_enforcer.dataplane.affinity import AffinityClient
from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.apply import TABLES
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_model.names import parse_prefix
from pointsman_model.plan import ServicePlan
from support.enforcer_plans import FACTS, numbered
from support.netns import NetNs

OTHERS = 10_000
ENDPOINTS = 10
CHANGES = 40
CLIENTS = 50_000


def with_affinity(plan: ServicePlan) -> ServicePlan:
    return ServicePlan(ports=plan.ports, affinity_timeout_seconds=10_800)


def say(words: str) -> None:
    """One line of the report, at once."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    with NetNs("bench") as namespace:
        settings = NodeSettings(cluster_cidrs=(parse_prefix("10.0.0.0/8"),))
        dataplane = namespace.call(lambda: NftablesDataplane(node_settings=settings))
        try:
            asyncio.run(measure(dataplane, namespace))
        finally:
            dataplane.close()


async def measure(dataplane: NftablesDataplane, namespace: NetNs) -> None:
    """One service with affinity among many without."""
    dataplane.configure(FACTS)
    await dataplane.observe()
    await dataplane.prepare()
    for start in range(0, OTHERS, 100):
        total = dataplane.diff(b"", b"")
        for index in range(start, start + 100):
            total.include(dataplane.diff(b"", dataplane.render(numbered(index, ENDPOINTS), b"")))
        await dataplane.apply(total)
    added = [
        await timed(dataplane, b"", with_affinity(numbered(index, ENDPOINTS)))
        for index in range(OTHERS, OTHERS + CHANGES)
    ]
    tell("add a service with affinity, 10 endpoints", added)
    held = dataplane.render(with_affinity(numbered(OTHERS, ENDPOINTS)), b"")
    replaced: list[float] = []
    grown: list[float] = []
    for number in range(CHANGES):
        for count, times in ((ENDPOINTS, replaced), (ENDPOINTS + 1, grown), (ENDPOINTS, grown)):
            plan = with_affinity(numbered(OTHERS, count, first=2 + number))
            started = time.perf_counter()
            rendering = dataplane.render(plan, held)
            await dataplane.apply(dataplane.diff(held, rendering))
            times.append(time.perf_counter() - started)
            held = rendering
    tell("replace one endpoint of it", replaced)
    tell("one endpoint more or less", grown)
    plan = with_affinity(numbered(OTHERS, ENDPOINTS, first=1 + CHANGES))
    await remember(dataplane, plan, held, namespace)


async def timed(dataplane: NftablesDataplane, previous: bytes, plan: ServicePlan) -> float:
    started = time.perf_counter()
    await dataplane.apply(dataplane.diff(previous, dataplane.render(plan, previous)))
    return time.perf_counter() - started


async def remember(dataplane: NftablesDataplane, plan: ServicePlan, rendering: bytes, namespace: NetNs) -> None:
    """Seed, dump and list many clients."""
    port = plan.ports[0]
    endpoint = port.endpoint_sets[0][0]
    clients = [
        AffinityClient(
            port.name, port.protocol, (0x0B000000 + number).to_bytes(4), (endpoint.address, endpoint.port), 10_000_000
        )
        for number in range(CLIENTS)
    ]
    started = time.perf_counter()
    taken = await dataplane.affinity.seed(plan, rendering, clients)
    say(f"seed a client: {(time.perf_counter() - started) / CLIENTS * 1e6:.1f} us ({taken} taken)")
    started = time.perf_counter()
    look = await dataplane.affinity.look()
    say(f"read a client: {(time.perf_counter() - started) / CLIENTS * 1e6:.1f} us ({look})")
    span(
        lambda: namespace.run("nft", "list", "map", "ip", TABLES[Family.IPV4].name, layout.AFFINITY.name),
        "nft lists all",
    )
    other = numbered(1, ENDPOINTS)
    held = dataplane.render(other, b"")
    times = []
    for number in range(CHANGES):
        shifted = numbered(1, ENDPOINTS, first=2 + number)
        started = time.perf_counter()
        after = dataplane.render(shifted, held)
        await dataplane.apply(dataplane.diff(held, after))
        times.append(time.perf_counter() - started)
        held = after
    tell("replace one endpoint of a service without affinity", times)


def span(work: Callable[[], object], words: str) -> None:
    started = time.perf_counter()
    work()
    say(f"{words}: {time.perf_counter() - started:.2f} s")


def tell(words: str, seconds: list[float]) -> None:
    micros = sorted(each * 1e6 for each in seconds)
    say(f"{words}: min {micros[0]:.0f} us, p50 {statistics.median(micros):.0f} us")


if __name__ == "__main__":
    main()
