# SPDX-License-Identifier: Apache-2.0
"""Are updates lossless? Ten thousand connections and more through each thing that happens to a proxy.

One lab of two nodes with its controllers. A client pod (or a client outside) opens connections to a Service without
pause while the scenario plays, each Service having its own address, so that no scenario reuses another's connections.
Beside that, held TCP connections and UDP flows go to a Service whose endpoints never change, through all scenarios.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from pointsman_lab.bench.availability import Record, broken_flows, judge
from pointsman_lab.bench.lossless_report import Measured
from pointsman_lab.bench.scenarios import NAMESPACE, REPLICAS, SCENARIOS, Scenario, World
from pointsman_lab.bench.traffic import Traffic, slice_events, traffic
from pointsman_lab.bench.workload import HELD_NODE_PORT, manifests
from pointsman_lab.cluster import Cluster
from pointsman_lab.errors import LabError
from pointsman_lab.settings import LabSettings

CLIENT: Final = f"{NAMESPACE}/client"
OUTSIDE: Final = "outside"
CONNECTIONS_MIN: Final = 10_000
ALLOWANCE_SECONDS: Final = 0.050
"""What a change may take on its way into the kernel after a window has ended, with both cores full of this traffic.
How long it really took is told beside it (`late`), and measured without load by the other part of the benchmark."""
_WARM_CONNECTIONS: Final = 500
_WORKERS: Final = 8
_PAUSE_SECONDS: Final = 0.002
_TIMEOUT_SECONDS: Final = 3.0
_HELD: Final = 8
_HELD_PAUSE_SECONDS: Final = 0.1
_HELD_TIMEOUT_SECONDS: Final = {"TCP": 20.0, "UDP": 1.0}
_DATAGRAM_SPECS: Final = frozenset({1})


async def measure(say: Callable[[str], None], scenarios: Sequence[Scenario] = SCENARIOS) -> list[Measured]:
    """Play all scenarios in one lab of their own; LabError when the lab does not start."""
    settings = LabSettings(
        name="lossless",
        nodes=2,
        zones=1,
        watchers=1,
        planners=1,
        services=("redis", "watcher", "planner", "enforcer"),
        start_timeout_seconds=60,
    )
    results: list[Measured] = []
    async with Cluster(settings, on_step=say) as cluster:
        world = World(cluster)
        await cluster.apply_text(manifests(NAMESPACE, [scenario.service for scenario in scenarios], replicas=REPLICAS))
        await cluster.wait_all_deployed(timeout_seconds=60)
        await world.settle()
        held_inside, held_outside = await _held(world)
        async with held_inside as inside, held_outside as outside:
            for scenario in scenarios:
                try:
                    measured = await _play(world, scenario, (inside, outside))
                except LabError as error:
                    measured = Measured(name=scenario.name, outcome=None, note=str(error))
                results.append(measured)
                say(_line(measured))
    return results


def _line(measured: Measured) -> str:
    outcome = measured.outcome
    if outcome is None:
        return f"{measured.name}: BROKE OFF: {measured.note}"
    return (
        f"{measured.name}: {outcome.opened} connections in {measured.seconds:.1f} s, {outcome.failed} failed, "
        f"{outcome.outside} outside the window, {measured.broken.total} held flows broken. {measured.note}"
    )


async def _play(world: World, scenario: Scenario, held: tuple[Traffic, Traffic]) -> Measured:
    address, port = await world.address(scenario.service, is_from_outside=scenario.is_from_outside)
    spec = {
        "kind": "connect",
        "address": address,
        "port": port,
        "protocol": "TCP",
        "workers": _WORKERS,
        "pause_seconds": _PAUSE_SECONDS,
        "timeout_seconds": _TIMEOUT_SECONDS,
    }
    place = OUTSIDE if scenario.is_from_outside else CLIENT
    started, world.note = time.monotonic(), ""
    async with slice_events(world.cluster, NAMESPACE, scenario.service) as events:
        async with traffic(world.cluster, place, [spec], "connect") as seen:
            await seen.wait_count(_WARM_CONNECTIONS)
            windows = await scenario.play(world)
            await seen.wait_count(max(CONNECTIONS_MIN, len(seen.records) + _WARM_CONNECTIONS))
        ended = time.monotonic()
        windows = (*windows, *(await events.timeline()).until(ended))
    meanwhile = [record for flow in held for record in _between(flow.records, started, ended)]
    return Measured(
        name=scenario.name,
        outcome=judge(seen.records, windows, allowance_seconds=ALLOWANCE_SECONDS),
        windows=windows,
        broken=broken_flows(meanwhile, windows, datagram_specs=_DATAGRAM_SPECS, allowance_seconds=ALLOWANCE_SECONDS),
        held_questions=len(meanwhile),
        seconds=ended - started,
        note=world.note,
    )


def _between(records: Sequence[Record], start: float, end: float) -> list[Record]:
    return [record for record in records if start <= record.ended < end]


async def _held(world: World) -> tuple[AbstractAsyncContextManager[Traffic], AbstractAsyncContextManager[Traffic]]:
    """Held connections and flows from a pod by cluster IP, and from outside by node port."""
    address, port = await world.address("steady", is_from_outside=False)
    inside = _held_specs(address, port, port)
    outside = _held_specs(world.cluster.nodes[0].address.ipv4, HELD_NODE_PORT["TCP"], HELD_NODE_PORT["UDP"])
    return (
        traffic(world.cluster, CLIENT, inside, "held-inside"),
        traffic(world.cluster, OUTSIDE, outside, "held-outside"),
    )


def _held_specs(address: str, tcp_port: int, udp_port: int) -> list[dict[str, Any]]:
    """TCP first, then UDP, as `_DATAGRAM_SPECS` says."""
    return [
        {
            "kind": "hold",
            "address": address,
            "port": port,
            "protocol": protocol,
            "workers": _HELD,
            "pause_seconds": _HELD_PAUSE_SECONDS,
            "timeout_seconds": _HELD_TIMEOUT_SECONDS[protocol],
        }
        for protocol, port in (("TCP", tcp_port), ("UDP", udp_port))
    ]
