# SPDX-License-Identifier: Apache-2.0
"""What Prometheus scrapes from an enforcer: every figure of kube-proxy's nftables mode, by name, type and labels."""

from __future__ import annotations

import asyncio
import errno
import http.client
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from pointsman_chassis.lifecycle import Stop
from pointsman_chassis.tls import TransportSecurity
from pointsman_enforcer.app import Enforcer
from pointsman_enforcer.core.stale_flows import Flow, Query
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.message import Message
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_plans import key, numbered
from support.fake_nftables import FakeNftables
from support.scripted_planner import ScriptedPlanner, scripted_planner

DEADLINE_SECONDS = 20.0
FAMILY, NONE = frozenset({"ip_family"}), frozenset[str]()

KUBE_PROXY = {
    "sync_proxy_rules_duration_seconds": ("histogram", FAMILY),
    "sync_full_proxy_rules_duration_seconds": ("histogram", FAMILY),
    "sync_partial_proxy_rules_duration_seconds": ("histogram", FAMILY),
    "network_programming_duration_seconds": ("histogram", FAMILY),
    "sync_proxy_rules_last_timestamp_seconds": ("gauge", FAMILY),
    "sync_proxy_rules_last_queued_timestamp_seconds": ("gauge", FAMILY),
    "sync_proxy_rules_no_local_endpoints_total": ("gauge", FAMILY | {"traffic_policy"}),
    "sync_proxy_rules_endpoint_changes_pending": ("gauge", NONE),
    "sync_proxy_rules_service_changes_pending": ("gauge", NONE),
    "sync_proxy_rules_endpoint_changes_total": ("counter", NONE),
    "sync_proxy_rules_service_changes_total": ("counter", NONE),
    "sync_proxy_rules_nftables_sync_failures_total": ("counter", FAMILY),
    "sync_proxy_rules_nftables_cleanup_failures_total": ("counter", FAMILY),
    "proxy_healthz_total": ("counter", frozenset({"code"})),
    "proxy_livez_total": ("counter", frozenset({"code"})),
    "conntrack_reconciler_sync_duration_seconds": ("histogram", FAMILY),
    "conntrack_reconciler_deleted_entries_total": ("counter", FAMILY),
}
"""kube-proxy 1.36.2 in nftables mode, all below `kubeproxy_`. Its other figures exist in iptables mode only."""


class NoFlows:
    """A connection table without connections."""

    def end_flows(self, _query: Query, _is_stale: Callable[[Flow], bool]) -> int:
        return 0

    def local_addresses(self) -> frozenset[bytes]:
        return frozenset()

    def stop(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Node:
    """An enforcer without any history, its planner and its kernel."""

    kernel: FakeNftables
    planner: ScriptedPlanner
    port: int

    async def scrape(self) -> dict[str, Metric]:
        def get() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
            try:
                connection.request("GET", "/metrics")
                return connection.getresponse().read().decode()
            finally:
                connection.close()

        families = text_string_to_metric_families(await asyncio.to_thread(get))
        return {
            family.name + "_total" * (family.type == "counter"): family
            for family in families
            if not family.name.endswith("_created")  # when prometheus-client made each counter, which Go does not tell
        }

    async def figure(self, name: str, **labels: str) -> float:
        samples = (await self.scrape())[f"kubeproxy_{name}"].samples
        [value] = [sample.value for sample in samples if sample.labels == labels and sample.name.endswith(name)]
        return value

    async def eventually(self, name: str, at_least: float, **labels: str) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await self.figure(name, **labels) < at_least:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(directory: Path, kernel: FakeNftables | None = None) -> AsyncIterator[Node]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with scripted_planner() as planner:
        config = EnforcerConfiguration(
            planner_addresses=(planner.address,),
            state_directory=str(directory),
            cluster_cidr="10.0.0.0/8",
            healthz_bind_address="",
            metrics_bind_address=f"127.0.0.1:{port}",
            bind_address_hard_fail=True,
            security=TransportSecurity(insecure=True),
        )
        node = Node(kernel or FakeNftables(), planner, port)
        dataplane = NftablesDataplane(node_settings=config.node_settings(), kernel=node.kernel)
        stop = Stop()
        enforcer = Enforcer(config, "node-1", dataplane=dataplane, open_conntrack=NoFlows)
        task = asyncio.create_task(enforcer.run(stop))
        try:
            yield node
        finally:
            stop.set("the test is over")
            assert await task == 0


def labels_of(family: Metric) -> frozenset[str]:
    return frozenset(label for sample in family.samples for label in sample.labels if label != "le")


async def test_every_figure_of_kube_proxys_nftables_mode_is_there_from_the_start(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await node.planner.stream()
        served = await node.scrape()
        ours = {name.removeprefix("kubeproxy_"): family for name, family in served.items() if "kubeproxy" in name}
        assert {name: (family.type, labels_of(family)) for name, family in ours.items()} == KUBE_PROXY
        families = {
            sample.labels["ip_family"] for f in ours.values() for sample in f.samples if "ip_family" in sample.labels
        }
        assert families == {"IPv4", "IPv6"}
        policies = {s.labels["traffic_policy"] for s in ours["sync_proxy_rules_no_local_endpoints_total"].samples}
        assert policies == {"internal", "external"}


async def test_what_is_no_name_of_kube_proxys_is_named_after_this_program(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await node.planner.stream()
        others = {name for name in await node.scrape() if not name.startswith(("kubeproxy_", "pointsman_enforcer_"))}
        assert all(name.startswith("process_") for name in others), others


async def test_changes_count_apart_for_services_and_endpoints(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        stream = await node.planner.stream()
        await stream.welcome()
        await stream.send(1, {key(1): encode_service_plan(numbered(1, 1))})
        await stream.receive("ack")
        await stream.send(2, {key(1): encode_service_plan(numbered(1, 2))})
        await stream.receive("ack")
        assert await node.figure("sync_proxy_rules_service_changes_total") == 1
        assert await node.figure("sync_proxy_rules_endpoint_changes_total") == 2
        assert await node.figure("sync_proxy_rules_endpoint_changes_pending") == 0


async def test_refused_changes_and_refused_removals_count_apart(tmp_path: Path) -> None:
    kernel = FakeNftables()
    async with running(tmp_path / "before", kernel) as node:
        stream = await node.planner.stream()
        await stream.welcome()
        await stream.send(1, {key(1): encode_service_plan(numbered(1))})
        await stream.receive("ack")

    def refuse_removals(message: Message) -> int:
        return errno.EBUSY if message.what.startswith("delete elements") else 0

    sync, cleanup = (f"sync_proxy_rules_nftables_{what}_failures_total" for what in ("sync", "cleanup"))
    async with running(tmp_path / "after", kernel) as node:
        stream = await node.planner.stream()
        await stream.welcome()
        kernel.refuse = lambda _: errno.ENOMEM
        await stream.send(1, {key(2): encode_service_plan(numbered(2))})
        await node.eventually(sync, 1, ip_family="IPv6")
        assert await node.figure(cleanup, ip_family="IPv6") == 0
        await stream.receive("nack")
        await stream.receive("ack")
        kernel.refuse = refuse_removals
        await node.eventually(cleanup, 1, ip_family="IPv4")
        kernel.refuse = lambda _: 0
        await stream.receive("ack")
