# SPDX-License-Identifier: Apache-2.0
"""`make bench`: how fast and how dear a change is, and whether anything is lost; writes build/bench/.

One lab with one node, 100 to 40,000 services of ten endpoints, for report.{json,md}; then one lab with two nodes
and traffic, for lossless.{json,md}, whose figures go into report.json too; then one with three nodes and clients with
session affinity, for affinity.{json,md}. Nothing here is a test: figures depend on the machine, and each is printed
beside its target. But `--only affinity` is about right and wrong, and ends with 1 when a client met a wrong pod.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

from pointsman_lab.bench import affinity, affinity_report, duel, lossless, lossless_report, wide
from pointsman_lab.bench.load import load
from pointsman_lab.bench.measure import Bench
from pointsman_lab.bench.report import Figure, write
from pointsman_lab.bench.scenarios import SCENARIOS
from pointsman_lab.cluster import Cluster
from pointsman_lab.errors import LabError, LabStartError
from pointsman_lab.nodes import wait_synced
from pointsman_lab.settings import LabSettings

PARTS = ("peer", "changes", "lossless", "affinity")


async def run(sizes: list[int], changes: int) -> list[Figure]:
    """All figures for all sizes, ascending; the lab grows from one to the next."""
    settings = LabSettings(
        name="bench",
        nodes=1,
        zones=1,
        watchers=1,
        planners=1,
        controllers=False,
        services=("redis", "watcher", "planner", "enforcer"),
    )
    figures: list[Figure] = []
    async with Cluster(settings, on_step=_say) as cluster:
        loaded = 0
        for size in sorted(sizes):
            started = time.monotonic()
            await load(cluster.api, loaded, size)
            loaded = size
            _say(f"{size} services written in {time.monotonic() - started:.1f} s")
            await wait_synced(cluster)
            bench = Bench(cluster, size, changes)
            for measure in (
                bench.cold_starts,
                bench.replacements,
                bench.removals,
                bench.burst,
                bench.memory,
                bench.watches,
            ):
                found = await measure()
                figures.extend(found)
                for figure in found:
                    percentile = f"p{figure.percentile} " if figure.percentile else ""
                    _say(f"{figure.name}: {percentile}{figure.value:g} {figure.unit} {figure.verdict}")
            if size == min(sizes):
                figures.extend(await wide.widths(bench))
    return figures


def _say(text: str) -> None:
    print(f"bench: {text}", flush=True)


def main() -> int:
    """Measure, print, write; 1 when a lab does not start."""
    parser = argparse.ArgumentParser(prog="python -m pointsman_lab.bench", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000, 40000], help="numbers of services")
    parser.add_argument("--changes", type=int, default=300, help="single changes for each figure")
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="where the reports go")
    parser.add_argument("--only", choices=PARTS, help="one of the parts")
    peer = os.environ.get("PEER_KUBE_PROXY")
    parser.add_argument(
        "--peer", type=Path, default=Path(peer) if peer else None, help="a kube-proxy to compare with, PEER_KUBE_PROXY"
    )
    parser.add_argument("--peer-modes", nargs="+", choices=duel.MODES, default=list(duel.MODES), help="in which modes")
    parsed = parser.parse_args()
    figures: list[Figure] = []
    try:
        if parsed.only in (None, "peer"):
            figures += _peer(parsed)
        if parsed.only in (None, "changes"):
            figures += asyncio.run(run(parsed.sizes, parsed.changes))
        if parsed.only in (None, "lossless"):
            figures += _lossless(parsed.output)
        is_kept = parsed.only not in (None, "affinity") or _affinity(parsed.output)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if figures:
        print(write(parsed.output, figures, changes=parsed.changes))
    return 0 if is_kept else 1


def _peer(parsed: argparse.Namespace) -> list[Figure]:
    """Ours and the peer in turn, in every mode and at every size; nothing when no peer is given.

    Raises:
        LabError: the peer is no program, or does not run.
    """
    if parsed.peer is None:
        return []
    if not os.access(parsed.peer, os.X_OK):
        raise LabStartError(f"PEER_KUBE_PROXY, --peer: {parsed.peer} is not a program that can be run")
    binary = parsed.peer.resolve()
    return [
        figure
        for mode in parsed.peer_modes
        for size in parsed.sizes
        for figure in asyncio.run(duel.compare(binary, mode, size, parsed.changes, _say))
    ]


def _affinity(output: Path) -> bool:
    """Play, print and write the affinity report; whether every client met its pod."""
    steps = asyncio.run(affinity.measure(_say))
    affinity_report.write(output, steps, nodes=affinity.NODES)
    print(affinity_report.markdown(steps, nodes=affinity.NODES))
    return affinity_report.is_good(steps)


def _lossless(output: Path) -> list[Figure]:
    """Measure, print and write the lossless report; its figures."""
    results = asyncio.run(lossless.measure(_say))
    lossless_report.write(output, results, allowance_seconds=lossless.ALLOWANCE_SECONDS)
    print(lossless_report.markdown(results, allowance_seconds=lossless.ALLOWANCE_SECONDS))
    return lossless_report.figures_of(results, services=len(SCENARIOS) + 1)


if __name__ == "__main__":
    sys.exit(main())
