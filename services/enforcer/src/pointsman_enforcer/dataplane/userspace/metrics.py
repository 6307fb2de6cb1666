# SPDX-License-Identifier: Apache-2.0
"""The proxy's figures. No label names a Service, an endpoint or a client, so their number never grows."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman_chassis.metrics import Registry
from pointsman_enforcer.dataplane.userspace.proxy import Proxy

_PREFIX = "pointsman_enforcer_proxy"


def measure(registry: Registry, proxy: Proxy) -> None:
    """Have the proxy's figures read whenever somebody asks."""
    registry.register(_Figures(proxy))


class _Figures(Collector):
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def collect(self) -> Iterator[Metric]:
        """Each as it is now."""
        counters, limits = self._proxy.counters, self._proxy.limits
        yield _gauge(
            "flows",
            "TCP connections and UDP flows at present",
            "protocol",
            TCP=counters.connections,
            UDP=counters.flows,
        )
        yield _gauge(
            "flows_max", "How many of each there may be", "protocol", TCP=limits.connections_max, UDP=limits.flows_max
        )
        yield _counter(
            "flows_begun", "TCP connections accepted, UDP flows begun", "protocol",
            TCP=counters.accepted, UDP=counters.flows_begun,
        )  # fmt: skip
        yield _counter(
            "bytes", "Payload passed on", "direction",
            to_endpoints=counters.bytes_to_endpoints, to_clients=counters.bytes_to_clients,
        )  # fmt: skip
        yield _counter(
            "spliced_bytes", "Payload of TCP connections that was passed on inside the kernel", "", counters.spliced
        )
        yield _counter(
            "ended", "Clients refused or given up, by reason", "reason",
            limit=counters.over_limit, unreachable=counters.unreachable, idle=counters.idle,
        )  # fmt: skip
        yield _counter("dials_failed", "Attempts at an endpoint that failed", "", counters.dials_failed)
        yield _counter("datagrams_dropped", "UDP datagrams that could not be passed on", "", counters.datagrams_dropped)
        yield _gauge(
            "refusing",
            "1 while clients are refused for a limit, and for a minute after",
            "",
            self._proxy.core.is_refusing,
        )


def _gauge(name: str, words: str, label: str, value: float | None = None, **values: float) -> Metric:
    family = GaugeMetricFamily(f"{_PREFIX}_{name}", words, value=value, labels=[label] if label else None)
    for each, number in values.items():
        family.add_metric([each], number)
    return family


def _counter(name: str, words: str, label: str, value: float | None = None, **values: float) -> Metric:
    family = CounterMetricFamily(f"{_PREFIX}_{name}", words, value=value, labels=[label] if label else None)
    for each, number in values.items():
        family.add_metric([each], number)
    return family
