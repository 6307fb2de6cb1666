# SPDX-License-Identifier: Apache-2.0
"""Spans on their way to the collector: the exporter that the environment asks for, a bounded queue, and the count.

A collector that is away, slow or refuses costs its spans and nothing else: they wait in a queue of
OTEL_BSP_MAX_QUEUE_SIZE, the oldest make room for new ones, a thread of its own sends, and one log line says that the
collector is away and one that it is back.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.tracing import protocol

_QUEUE_SIZE_DEFAULT: Final = 2048
_FILES: Final = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")


class SpanCounts:
    """What became of the spans that were ended. Written by two threads, each its own fields."""

    def __init__(self) -> None:
        self.ended = 0
        self.dropped = 0
        """Made room for others while the collector was away."""
        self.taken = 0
        self.exported = 0
        self.failed = 0
        """The collector did not take them."""

    @property
    def waiting(self) -> int:
        """Spans in the queue."""
        return self.ended - self.dropped - self.taken

    def collector(self, name: str) -> Collector:
        """The counts as a metric with the label `outcome`."""
        return _SpanCollector(self, name)


class _SpanCollector(Collector):
    """Reads the counts when Prometheus asks."""

    def __init__(self, counts: SpanCounts, name: str) -> None:
        self._counts, self._name = counts, name

    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        family = CounterMetricFamily(
            self._name,
            "Spans by what became of them: exported, dropped (the queue was full), failed (the collector took none).",
            labels=["outcome"],
        )
        for outcome, count in (("exported", counts.exported), ("dropped", counts.dropped), ("failed", counts.failed)):
            family.add_metric([outcome], count)
        yield family


class CountedExporter(SpanExporter):
    """Counts what the real exporter got rid of, and tells once that the collector is away."""

    def __init__(self, exporter: SpanExporter, counts: SpanCounts) -> None:
        self._exporter = exporter
        self._counts = counts
        self._is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; never raises, because the thread that calls it must live."""
        self._counts.taken += len(spans)
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - whatever a library raises: spans are lost, and nothing else
            self._tell(is_away=True, reason=f"{type(error).__name__}: {error}")
            self._counts.failed += len(spans)
            return SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._counts.exported += len(spans)
        else:
            self._counts.failed += len(spans)
        self._tell(is_away=result is not SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing waits here."""
        return self._exporter.force_flush(timeout_millis)

    def _tell(self, *, is_away: bool, reason: str = "") -> None:
        if is_away == self._is_away:
            return
        self._is_away = is_away
        log = structlog.get_logger("tracing")
        if is_away:
            log.warning("the trace collector takes no spans; they are lost until it does", reason=reason)
        else:
            log.info("the trace collector takes spans again", lost=self._counts.failed + self._counts.dropped)


class CountedProcessor(BatchSpanProcessor):
    """The SDK's queue and thread; counts what the queue had no room for."""

    def __init__(self, exporter: SpanExporter, counts: SpanCounts, *, queue_size: int) -> None:
        super().__init__(CountedExporter(exporter, counts), max_queue_size=queue_size)
        self._counts = counts
        self._queue_size = queue_size

    def on_end(self, span: ReadableSpan) -> None:
        """Queue it; the oldest makes room."""
        if self._counts.waiting >= self._queue_size:
            self._counts.dropped += 1
        self._counts.ended += 1
        super().on_end(span)


def processor_from_environment(counts: SpanCounts, exporter: SpanExporter | None = None) -> CountedProcessor:
    """What takes spans that are ended; `exporter` in the place of the one that OTEL_EXPORTER_OTLP_* ask for.

    Raises:
        ConfigError: a variable holds what cannot be used.
    """
    # Their lines say for every batch what CountedExporter says once.
    for name in ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for variable in ("OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_EXPORT_TIMEOUT"):
        if not os.environ.get(variable, "1").strip().isdigit():
            raise ConfigError(f"{variable}={os.environ[variable]} is no number")
    try:
        size = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or _QUEUE_SIZE_DEFAULT)
        return CountedProcessor(exporter or _exporter(os.environ), counts, queue_size=size)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"OTEL_BSP_* or OTEL_EXPORTER_OTLP_*: {error}") from error


def _exporter(environ: Mapping[str, str]) -> SpanExporter:
    _check_files(environ)
    _compression(environ)
    if protocol(environ) == "grpc":
        from grpc import Compression  # noqa: PLC0415 - nothing here needs gRPC otherwise
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc  # noqa: PLC0415 - one is enough

        # The SDK's own reading of the variable does not know `none`, which the specification has.
        kinds = {"none": Compression.NoCompression, "gzip": Compression.Gzip}
        return over_grpc.OTLPSpanExporter(compression=kinds[_compression(environ)])
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http  # noqa: PLC0415 - the same

    return over_http.OTLPSpanExporter()


def _compression(environ: Mapping[str, str]) -> str:
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"):
        asked = environ.get(variable, "").strip().lower()
        if asked not in {"", "none", "gzip"}:
            raise ConfigError(f"{variable}={asked}: use none or gzip")
        if asked:
            return asked
    return "none"


def _check_files(environ: Mapping[str, str]) -> None:
    """The SDK goes on with the machine's authorities when a file is not there: a wrong path would be found late."""
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}{name}" for signal in ("TRACES_", "") for name in _FILES):
        path = environ.get(variable)
        if not path:
            continue
        try:
            with open(path, "rb"):  # noqa: PTH123 - a variable holds a string
                pass
        except OSError as error:
            raise ConfigError(f"{variable}={path}: {error.strerror or error}") from error
