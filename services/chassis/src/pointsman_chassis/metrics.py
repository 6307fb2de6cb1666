# SPDX-License-Identifier: Apache-2.0
"""Metrics: one registry per process, made at the composition root and handed to whoever counts something.

prometheus-client's default registry is never used: a process, or a test, that makes two of something must be able to
give each its own figures. Names: kube-proxy's where they exist, else `pointsman_`; units in the name; labels bounded
(a node, a kind, an outcome; never an endpoint).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

LATENCY_BUCKETS_SECONDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip


class Described(NamedTuple):
    """One metric, for the reference."""

    name: str
    kind: str
    """counter, gauge or histogram."""
    labels: tuple[str, ...]
    documentation: str


class _ComputedCounter(Collector):
    """One sample, computed when it is asked for: prometheus-client has this for gauges only."""

    def __init__(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        self._name, self._documentation, self._read = name, documentation, read

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name.removesuffix("_total"), self._documentation, value=self._read())


class Registry:
    """Where metrics are registered and rendered from. Registering one name twice raises ValueError."""

    def __init__(self, *, process: bool = True) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        if process:
            ProcessCollector(registry=self._registry)

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        """A figure that only grows; its name ends in `_total`."""
        return Counter(name, documentation, labels, registry=self._registry)

    def computed_counter(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """A figure that only grows and is computed by `read` whenever somebody asks."""
        self._registry.register(_ComputedCounter(name, documentation, read))

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
        """A figure that goes up and down."""
        return Gauge(name, documentation, labels, registry=self._registry)

    def histogram(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float] = LATENCY_BUCKETS_SECONDS,
    ) -> Histogram:
        """A distribution; the default buckets suit latencies in seconds."""
        return Histogram(name, documentation, labels, buckets=buckets, registry=self._registry)

    def register(self, collector: Collector) -> None:
        """Add a collector that computes its figures when asked."""
        self._registry.register(collector)

    def families(self) -> tuple[Described, ...]:
        """Every metric by name; labels are known also of those that have no series yet."""
        collectors = {id(each): each for each in self._registry._collector_to_names}  # noqa: SLF001 - it has no other list
        found: list[Described] = []
        for collector in collectors.values():
            labels = getattr(collector, "_labelnames", None)
            for family in collector.collect():
                samples = {label for sample in family.samples for label in sample.labels} - {"le"}
                samples.update(getattr(family, "_labelnames", ()))
                found.append(
                    Described(
                        name=family.name + "_total" * (family.type == "counter"),
                        kind=family.type,
                        labels=tuple(sorted(samples if labels is None else labels)),
                        documentation=family.documentation,
                    )
                )
        return tuple(sorted(found))

    def value(self, name: str, labels: dict[str, str] | None = None) -> float | None:
        """The present value of one sample, None when there is none; for tests and status pages."""
        return self._registry.get_sample_value(name, labels)

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and body of `/metrics` for a request's Accept header."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)
