# SPDX-License-Identifier: Apache-2.0
"""What Prometheus scrapes from running processes: every metric is in the reference, valid, and leads to traces."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pointsman_lab.supervise.services import METRICS_PORT, PLANNER_METRICS_PORT, WATCHER_METRICS_PORT
from support.lab_process import wait_synced
from support.metric_catalogue import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from pointsman_lab.cluster import Cluster
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

PLACES = {
    "watcher": ("watcher", WATCHER_METRICS_PORT),
    "planner": ("planner", PLANNER_METRICS_PORT),
    "enforcer": ("node-1", METRICS_PORT),
}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PROMTOOL = Path(__file__).parents[2] / ".venv" / "bin" / "promtool"
KUBE_PROXY_SAYS_SO = (
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total non-counter metrics should not have",
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
)
"""What promtool finds fault with, and kube-proxy has: a gauge whose name ends in `_total`."""


async def page(cluster: Cluster, service: str, accept: str = "text/plain") -> str:
    place, port = PLACES[service]
    url = f"http://{cluster.topology.address_of(place).ipv4}:{port}/metrics"
    return await cluster.node_exec(place, "curl", "-sf", "--max-time", "5", "-H", f"Accept: {accept}", url)


def families(metrics: Iterable[Metric]) -> dict[str, Metric]:
    found = {each.name + "_total" * (each.type == "counter"): each for each in metrics}
    return {name: each for name, each in found.items() if not name.endswith("_created")}


def labels(family: Metric) -> set[str]:
    return {label for sample in family.samples for label in sample.labels} - {"le"}


@pytest.mark.parametrize("service", PLACES)
async def test_the_reference_lists_what_a_running_process_exports(cluster: Cluster, service: str) -> None:
    served = families(parse_text(await page(cluster, service)))
    # On a thread: building the planner for the catalogue needs an event loop of its own.
    listed = {each.name: each for each in (await asyncio.to_thread(catalogue))[service]}
    assert set(served) <= set(listed), set(served) - set(listed)
    for name, family in served.items():
        assert family.type == listed[name].kind, name
        assert labels(family) <= set(listed[name].labels), name
    missing = {name for name in set(listed) - set(served) if not is_optional(name)}
    assert not missing


def is_optional(name: str) -> bool:
    """Of another mode, or switched on by a setting."""
    parts = ("_iptables_", "_enforcer_proxy_", "_kube_proxy_", "_planner_events_")
    return any(part in name for part in parts)


@pytest.mark.parametrize("service", PLACES)
async def test_prometheus_own_tool_finds_no_fault_with_a_page(cluster: Cluster, service: str) -> None:
    text = await page(cluster, service)
    checked = await asyncio.to_thread(
        subprocess.run, [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    said = [line for line in checked.stderr.splitlines() if not line.startswith(KUBE_PROXY_SAYS_SO)]
    assert said == []


async def test_latencies_lead_to_traces_of_changes(world: World) -> None:
    await world.service()
    await world.endpoints(world.backends)
    await wait_synced(world.cluster)
    for service, name in (
        ("planner", "pointsman_planner_compute_duration_seconds"),
        ("planner", "pointsman_planner_node_programming_duration_seconds"),
        ("planner", "pointsman_planner_feed_lag_seconds"),
    ):
        shown = families(parse_openmetrics(await page(world.cluster, service, OPENMETRICS)))
        exemplars = [sample.exemplar for sample in shown[name].samples if sample.exemplar]
        assert exemplars, name
        for exemplar in exemplars:
            assert set(exemplar.labels) == {"trace_id"}
        trace_id = max(exemplars, key=lambda each: each.timestamp or 0).labels["trace_id"]

        async def is_exported(trace_id: str = trace_id) -> bool:
            return bool(await world.cluster.trace(trace_id))

        await world.cluster.wait_until(is_exported, f"the trace of {name}")
