# SPDX-License-Identifier: Apache-2.0
"""A look at what somebody else touched ends, whatever it finds: a node with nothing to do stays healthy."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Callable
from pathlib import Path

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.lifecycle import Stop
from pointsman_enforcer.app import Enforcer
from pointsman_enforcer.core.plan_log import encode_snapshot
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.notifications import Touched
from pointsman_enforcer.settings import EnforcerConfiguration
from support.enforcer_plans import key, numbered, whole
from support.fake_monitor import FakeMonitor
from support.fake_nftables import FakeNftables

DEADLINE_SECONDS = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


async def test_a_touch_that_changed_nothing_leaves_nothing_waiting(tmp_path: Path) -> None:
    healthz, metrics = free_port(), free_port()
    store = PlanStore()
    store.apply(whole({key(1): numbered(1)}))
    (tmp_path / "plan.log").write_bytes(b"".join(encode_snapshot(store.snapshot())))
    config = EnforcerConfiguration(
        state_directory=str(tmp_path),
        cluster_cidr="10.0.0.0/8",
        healthz_bind_address=f"127.0.0.1:{healthz}",
        metrics_bind_address=f"127.0.0.1:{metrics}",
        bind_address_hard_fail=True,
    )
    clock, monitor = VirtualClock(), FakeMonitor()
    dataplane = NftablesDataplane(
        node_settings=config.node_settings(), kernel=FakeNftables(), monitor=monitor, clock=clock
    )
    stop = Stop()
    task = asyncio.create_task(Enforcer(config, "node-1", clock=clock, dataplane=dataplane).run(stop))

    async def until(holds: Callable[[], bool], seconds: float = 0.1) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await asyncio.to_thread(holds):
                await clock.advance(seconds)
                await asyncio.sleep(0.005)

    def has_synced() -> bool:
        return 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1.0' in get(metrics, "/metrics")[1]

    def has_looked() -> bool:
        return 'drift_repairs_total{outcome="unchanged"} 1.0' in get(metrics, "/metrics")[1]

    while not task.done():
        try:
            await until(has_synced)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
    monitor.tell(Touched(kinds={"element"}, sets={(Family.IPV4, "cluster_ips")}))
    await until(has_looked)
    await clock.advance(config.nftables.sync_period * 2 + 1)
    assert (await asyncio.to_thread(get, healthz, "/healthz"))[0] == 200
    stop.set("the test is over")
    assert await task == 0
