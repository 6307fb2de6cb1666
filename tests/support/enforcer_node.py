# SPDX-License-Identifier: Apache-2.0
"""A node on which whole enforcers run in this process, on a kernel in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pointsman_chassis.lifecycle import Stop
from pointsman_chassis.tls import TransportSecurity
from pointsman_enforcer.app import Enforcer
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.settings import EnforcerConfiguration
from support.fake_monitor import FakeMonitor
from support.fake_nftables import FakeNftables


class Node:
    """A kernel and a disk that outlive the enforcers started on them."""

    def __init__(self, directory: Path) -> None:
        self.kernel = FakeNftables()
        self.monitor = FakeMonitor()
        self.directory = directory

    @asynccontextmanager
    async def enforcer(self, *addresses: str, **settings: Any) -> AsyncIterator[None]:
        """An enforcer that runs; `settings` are further fields of its configuration."""
        config = EnforcerConfiguration(
            planner_addresses=addresses,
            state_directory=str(self.directory),
            cluster_cidr="10.0.0.0/8",
            healthz_bind_address="",
            metrics_bind_address="",
            **{"security": TransportSecurity(insecure=True), **settings},
        )
        dataplane = NftablesDataplane(node_settings=config.node_settings(), kernel=self.kernel, monitor=self.monitor)
        stop = Stop()
        task = asyncio.create_task(Enforcer(config, "node-1", dataplane=dataplane).run(stop))
        try:
            yield
        finally:
            stop.set("the test is over")
            assert await task == 0

    def vips(self) -> set[str]:
        """The IPv4 service addresses in the kernel."""
        found = self.kernel.elements().get((Family.IPV4, "pointsman", "service_ips"), frozenset())
        return {".".join(map(str, element.key[:4])) for element in found}
