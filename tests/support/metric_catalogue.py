# SPDX-License-Identifier: Apache-2.0
"""Every metric that a process can export, from the registries that the services make; and the page that lists them.

Dashboards, alerts and docs/reference/metrics.md are checked against this, and this against the pages of running
processes. `PYTHONPATH=tests python -m support.metric_catalogue` writes the page.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pointsman_chassis.guard import GuardMetrics
from pointsman_chassis.metrics import Described, Registry
from pointsman_chassis.tls import TransportSecurity
from pointsman_chassis.tracing import Tracing
from pointsman_chassis.tracing_otlp import OtlpTracer
from pointsman_enforcer.app import Enforcer
from pointsman_enforcer.dataplane.conntrack.metrics import ConntrackMetrics
from pointsman_enforcer.dataplane.iptables.counts import PacketCounts
from pointsman_enforcer.dataplane.kube_proxy.takeover import TakeoverMetrics
from pointsman_enforcer.dataplane.modes.sweeper import LeftoverMetrics
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.userspace.metrics import measure as measure_proxy
from pointsman_enforcer.dataplane.userspace.proxy import Proxy
from pointsman_enforcer.metrics import EnforcerMetrics
from pointsman_enforcer.mode_settings import ModeName
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_planner.access.settings import AccessSettings
from pointsman_planner.app import App
from pointsman_planner.metrics import ControlMetrics
from pointsman_planner.settings import PlannerSettings
from pointsman_watcher.metrics import WatcherMetrics
from support.fake_nftables import FakeNftables

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
_INSECURE: Final = TransportSecurity(insecure=True)
_MODES: Final[tuple[ModeName, ...]] = ("nftables", "iptables", "ipvs", "userspace")
_INTRODUCTION: Final = """\
# Metrics

Every metric of every process, as its source describes it. Written by `make docs`; do not edit.

All three services serve `/metrics` in Prometheus' text format, and in OpenMetrics with exemplars to whoever asks for
it by the Accept header: buckets of latencies then name the trace of a change that fell into them. A histogram's figures
have the suffixes `_bucket`, `_sum` and `_count`. Names that begin with `kubeproxy_` mean what they mean in kube-proxy.

The number of series of a process does not depend on how many Services there are. It depends on the number of nodes in
one place, which is bounded: `pointsman_planner_node_behind_seconds` shows the ten nodes that are behind for longest.

The `*_trace_spans_total` counters are there when a trace collector is configured.
"""


def _watcher() -> Iterable[Described]:
    registry = Registry()
    WatcherMetrics(registry)
    GuardMetrics(registry, "pointsman_watcher")
    return (*registry.families(), *_tracing("pointsman_watcher"))


def _planner() -> Iterable[Described]:
    async def made() -> tuple[Described, ...]:
        registry = App(PlannerSettings(security=_INSECURE, access=AccessSettings(events=True)))._registry
        ControlMetrics(registry)
        return registry.families()

    return (*asyncio.run(made()), *_tracing("pointsman_planner"))


def _enforcer() -> Iterable[Described]:
    with tempfile.TemporaryDirectory() as directory:
        found = {each.name: each for each in asyncio.run(_enforcer_families(directory))}
    for mode in _MODES:
        registry = Registry(process=False)
        EnforcerMetrics(registry, mode)
        found.update({each.name: each for each in registry.families()})
    registry = Registry(process=False)
    ConntrackMetrics(registry)
    TakeoverMetrics(registry)
    LeftoverMetrics(registry)
    PacketCounts().measure(registry)
    proxy = Proxy()
    measure_proxy(registry, proxy)
    families = registry.families()
    proxy.close()
    return (*found.values(), *families, *_tracing("pointsman_enforcer"))


async def _enforcer_families(directory: str) -> tuple[Described, ...]:
    config = EnforcerConfiguration(state_directory=directory, cluster_cidr="10.0.0.0/8", security=_INSECURE)
    dataplane = NftablesDataplane(node_settings=config.node_settings(), kernel=FakeNftables())
    return Enforcer(config, "node-1", dataplane=dataplane)._registry.families()


def _tracing(prefix: str) -> tuple[Described, ...]:
    registry = Registry(process=False)
    Tracing(OtlpTracer(prefix, {}, exporter=InMemorySpanExporter())).count_in(registry, prefix)
    return registry.families()


def catalogue() -> Mapping[str, tuple[Described, ...]]:
    """By service, sorted by name."""
    made = {"watcher": _watcher(), "planner": _planner(), "enforcer": _enforcer()}
    return {service: tuple(sorted(set(families))) for service, families in made.items()}


def page() -> str:
    """The reference, as Markdown."""
    lines = [_INTRODUCTION]
    for service, families in catalogue().items():
        lines += [f"## {service.capitalize()}", "", "| name | type | labels | meaning |", "|---|---|---|---|"]
        for each in families:
            labels = ", ".join(f"`{label}`" for label in each.labels)
            words = each.documentation.rstrip(".").replace("|", "\\|")
            lines.append(f"| `{each.name}` | {each.kind} | {labels} | {words} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
