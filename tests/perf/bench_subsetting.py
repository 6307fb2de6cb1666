# SPDX-License-Identifier: Apache-2.0
"""What subsets of endpoints cost to choose, and how evenly they spread: `python tests/perf/bench_subsetting.py`.

One table row for each number of nodes and count, of 5,000 endpoints: how many nodes use an endpoint (mean, deviation,
least, most), the cost of the ring and of a node, and how many nodes change when one endpoint goes.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import product
from statistics import pstdev
from time import perf_counter

from pointsman_planner.core.service_state import PortEndpoint
from pointsman_planner.core.subsetting import EndpointRing

ENDPOINTS = 5000


def main() -> None:
    """Print the table."""
    out = sys.stdout.write
    out("| nodes | N | mean | deviation | least | most | most/mean | ring ms | us a node | changed by one removal |\n")
    out("|---|---|---|---|---|---|---|---|---|---|\n")
    for nodes, count in product((1000, 5000), (50, 100)):
        out(_row(nodes, count))


def _row(nodes: int, count: int) -> str:
    endpoints = [PortEndpoint((0x0A000000 + number).to_bytes(4, "big"), 8080) for number in range(ENDPOINTS)]
    names = [f"node-{number}" for number in range(nodes)]
    begin = perf_counter()
    ring = EndpointRing(endpoints)
    built = perf_counter()
    subsets = [ring.subset(name, count) for name in names]
    chosen = perf_counter()
    without = EndpointRing(endpoints[1:])
    changed = sum(without.subset(name, count) != subset for name, subset in zip(names, subsets, strict=True))
    uses = Counter(endpoint for subset in subsets for endpoint in subset)
    loads = [uses[endpoint] for endpoint in endpoints]
    mean = nodes * count / ENDPOINTS
    return (
        f"| {nodes} | {count} | {mean:.0f} | {pstdev(loads):.1f} | {min(loads)} | {max(loads)} "
        f"| {max(loads) / mean:.2f} | {(built - begin) * 1e3:.1f} | {(chosen - built) / nodes * 1e6:.0f} "
        f"| {changed} |\n"
    )


if __name__ == "__main__":
    main()
