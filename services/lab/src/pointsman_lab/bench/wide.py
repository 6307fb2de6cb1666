# SPDX-License-Identifier: Apache-2.0
"""One endpoint of a service that has 1 to 5,000 of them: what replacing it costs, against their number."""

from __future__ import annotations

import ipaddress
import time
from typing import TYPE_CHECKING, Any, Final

from pointsman_lab.apiserver.resources import ENDPOINTSLICES, SERVICES
from pointsman_lab.bench.kernel import kernel_commits
from pointsman_lab.bench.load import NAMESPACE, endpoint_slice, service
from pointsman_lab.bench.report import Figure, percentiles
from pointsman_lab.nodes import wait_synced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman_lab.bench.measure import Bench

WIDTHS: Final = (1, 10, 100, 1000, 5000)
_PER_SLICE: Final = 100
"""As many as the endpoint slice controller puts into one."""
_NUMBER: Final = 60_000
"""Of the first such service; above those of the load."""
_FIRST: Final = int(ipaddress.ip_address("10.160.0.0"))
_SPARE: Final = 8192


async def widths(bench: Bench, counts: Sequence[int] = WIDTHS) -> list[Figure]:
    """Figures by number of endpoints, in a lab that runs and is synced."""
    figures: list[Figure] = []
    for position, count in enumerate(counts):
        number = _NUMBER + position
        for part in range(0, count, _PER_SLICE):
            await bench.cluster.api.create(ENDPOINTSLICES, _slice(number, count, part, 0), NAMESPACE)
        await bench.cluster.api.create(SERVICES, service(number), NAMESPACE)
        await wait_synced(bench.cluster)
        figures += await _replacements(bench, number, count)
    return figures


async def _replacements(bench: Bench, number: int, count: int) -> list[Figure]:
    took: list[float] = []
    async with kernel_commits(bench.cluster, bench.node, "events") as commits:
        before = await bench.costs()
        for version in range(1, bench.changes + 1):
            sent = time.monotonic()
            await bench.cluster.api.update(ENDPOINTSLICES, _slice(number, count, 0, version))
            took.append((await commits.wait_after(sent) - sent) * 1e3)
        after = await bench.costs()
    title = "one of many endpoints replaced"
    units = {what: "ms" if what.startswith("cpu ") else what for what in before}
    costs = [
        Figure(
            name=f"{title}: {what}",
            size=count,
            value=round((after[what] - start) / bench.changes * (1e3 if units[what] == "ms" else 1), 3),
            unit=units[what],
            axis="endpoints",
            may_grow=0,
        )
        for what, start in before.items()
    ]
    name = f"{title}: API write sent -> kernel commit"
    return [*percentiles(name, count, "ms", took, may_grow=0, axis="endpoints"), *costs]


def _slice(number: int, count: int, part: int, version: int) -> dict[str, Any]:
    """Endpoints `part` and on; in another version the first of them is another."""
    base = _FIRST + (number - _NUMBER) * 2 * _SPARE
    chosen = list(range(base + part, base + min(count, part + _PER_SLICE)))
    if version:
        chosen[0] = base + _SPARE + version
    made = endpoint_slice(number, [str(ipaddress.ip_address(address)) for address in chosen])
    made["metadata"]["name"] += f"-{part // _PER_SLICE}"
    return made
