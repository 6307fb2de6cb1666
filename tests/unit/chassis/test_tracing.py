# SPDX-License-Identifier: Apache-2.0
"""Spans name their parents explicitly, the decision to sample travels with the change, and not sampling is free."""

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.tracing import LINKS_MAX, Tracing, exemplar, is_enabled, is_sampled, trace_fields
from pointsman_chassis.tracing_otlp import OtlpTracer

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = SAMPLED[:-1] + "0"


class Recorder:
    """Tracing whose exporter keeps the spans here."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._tracer = OtlpTracer("planner", {"k8s.node.name": "n1"}, exporter=self._exporter)
        self.tracing = Tracing(self._tracer)

    def spans(self) -> dict[str, ReadableSpan]:
        self._tracer.shutdown()
        return {span.name: span for span in self.finished()}

    def finished(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    return Recorder()


def test_a_change_is_one_trace_over_several_processes(recorder: Recorder) -> None:
    with recorder.tracing.start_trace("watch.event", start_ns=1_000) as watch:
        watch.set("k8s.namespace.name", "default")
    with recorder.tracing.span("plan.compute", parent=watch.traceparent) as plan:
        pass
    recorder.tracing.span("dataplane.apply", parent=plan.traceparent, start_ns=5_000).end(9_000)
    spans = recorder.spans()
    root, compute, apply = (spans[name] for name in ("watch.event", "plan.compute", "dataplane.apply"))
    assert {span.context.trace_id for span in (root, compute, apply) if span.context} == {root.context.trace_id}
    assert root.parent is None
    assert compute.parent is not None
    assert compute.parent.span_id == root.context.span_id
    assert apply.parent is not None
    assert apply.parent.span_id == compute.context.span_id
    assert (root.start_time, apply.start_time, apply.end_time) == (1_000, 5_000, 9_000)
    assert dict(root.attributes or {}) == {"k8s.namespace.name": "default"}
    assert root.resource.attributes["service.name"] == "planner"
    assert root.resource.attributes["k8s.node.name"] == "n1"


def test_processes_that_see_the_same_event_begin_the_same_trace() -> None:
    def begun(event: str) -> tuple[str, str]:
        tracing = Tracing(OtlpTracer("watcher", {}, exporter=InMemorySpanExporter()))
        traceparent = tracing.start_trace("watch.event", event=event).traceparent
        return traceparent[3:35], traceparent[36:52]

    first, second, other = begun("Service a/b 17"), begun("Service a/b 17"), begun("Service a/b 18")
    assert first[0] == second[0]
    assert first[1] != second[1], "each sees it for itself"
    assert len({first[0], other[0], begun("")[0], begun("")[0]}) == 4


def test_a_traceparent_has_the_form_of_the_standard(recorder: Recorder) -> None:
    traceparent = recorder.tracing.new_traceparent("watch.event", start_ns=1, end_ns=2)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", traceparent)
    assert is_sampled(traceparent)


def test_work_for_several_changes_is_a_span_in_each_trace_linked_through_the_newest(recorder: Recorder) -> None:
    parents = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 4)]
    group = recorder.tracing.spans("plan.send", parents=[*parents, UNSAMPLED], start_ns=1)
    group.end(2)
    recorder.spans()
    spans = {span.context.trace_id: span for span in recorder.finished() if span.context}
    assert sorted(spans) == [1, 2, 3]
    assert [link.context.trace_id for link in spans[3].links] == [1, 2]
    newest = spans[3].context
    assert newest is not None
    for number in (1, 2):
        assert [link.context.span_id for link in spans[number].links] == [newest.span_id]
    assert {dict(span.attributes or {})["pointsman.coalesced"] for span in spans.values()} == {3}
    assert set(group.spans) == set(parents)


def test_links_of_coalesced_changes_are_bounded(recorder: Recorder) -> None:
    parents = [f"00-{number:032x}-{number:016x}-01" for number in range(1, LINKS_MAX + 7)]
    recorder.tracing.spans("plan.compute", parents=parents).end()
    recorder.spans()
    [newest] = [span for span in recorder.finished() if span.context and span.context.trace_id == LINKS_MAX + 6]
    assert len(newest.links) == LINKS_MAX
    assert (newest.attributes or {})["pointsman.links_dropped"] == 5


def test_what_is_kept_has_a_span_though_nobody_sampled_the_change(recorder: Recorder) -> None:
    recorder.tracing.span("ack", parent=UNSAMPLED, start_ns=1, is_kept=True).end(2)
    recorder.tracing.span("ack", parent="", is_kept=True).end()
    [span] = recorder.spans().values()
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == UNSAMPLED[3:35]
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == UNSAMPLED[36:52]


def test_a_change_names_its_trace_in_log_lines_and_in_exemplars() -> None:
    assert trace_fields(UNSAMPLED) == {"trace_id": UNSAMPLED[3:35], "span_id": UNSAMPLED[36:52]}
    assert trace_fields("") == {}
    assert exemplar(SAMPLED) == {"trace_id": SAMPLED[3:35]}
    assert exemplar(UNSAMPLED) is None


def test_an_exception_marks_the_span_as_failed(recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="refused"), recorder.tracing.span("dataplane.apply", parent=SAMPLED):
        raise ValueError("refused")
    status = recorder.spans()["dataplane.apply"].status
    assert not status.is_ok
    assert status.description == "ValueError: refused"


def test_an_unsampled_change_stays_unsampled_and_keeps_its_traceparent(recorder: Recorder) -> None:
    with recorder.tracing.span("plan.compute", parent=UNSAMPLED) as span:
        assert span.traceparent == UNSAMPLED
        assert not span.is_sampled
    assert recorder.spans() == {}


@pytest.mark.parametrize("parent", ["", "x", SAMPLED[:-2] + "zz", "00-" + "0" * 32 + SAMPLED[35:], "ff" + SAMPLED[2:]])
def test_a_malformed_parent_means_unsampled(recorder: Recorder, parent: str) -> None:
    recorder.tracing.span("plan.compute", parent=parent).end()
    assert recorder.spans() == {}


@pytest.mark.parametrize(("ratio", "expected"), [("0", False), ("1", True)])
def test_the_sampler_of_the_environment_decides_where_a_trace_starts(
    monkeypatch: pytest.MonkeyPatch, ratio: str, expected: bool
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    recorder = Recorder()
    assert is_sampled(recorder.tracing.new_traceparent("watch.event", start_ns=1)) is expected
    # A decision that was taken upstream is followed whatever the ratio here.
    assert recorder.tracing.span("plan.compute", parent=SAMPLED).is_sampled


@pytest.mark.parametrize(
    ("environ", "enabled"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4317", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4317", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_tracing_is_on_only_when_a_collector_is_named(environ: dict[str, str], enabled: bool) -> None:
    assert is_enabled(environ) is enabled


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_EXPORTER"])
def test_an_exporter_that_is_not_there_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        is_enabled({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318", name: "zipkin"})


def test_the_sdk_is_not_imported_without_a_collector() -> None:
    program = (
        "import sys; from pointsman_chassis.tracing import Tracing; t = Tracing.from_environment('x');"
        "t.start_trace('a').end(); print(t.is_enabled, [m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    result = subprocess.run([sys.executable, "-c", program], env={}, capture_output=True, text=True, check=True)
    assert result.stdout == "False []\n"


def test_an_unsampled_change_costs_microseconds(recorder: Recorder) -> None:
    """Compared with a sampled one in the same run: a figure on its own would only measure the machine."""

    def cost(parent: str) -> float:
        best = float("inf")
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(200):
                with recorder.tracing.span("plan.compute", parent=parent):
                    pass
            best = min(best, time.perf_counter() - started)
        return best

    assert cost(UNSAMPLED) * 4 < cost(SAMPLED)


class StuckExporter(SpanExporter):
    """An exporter whose collector does not answer until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.exported = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.released.wait(60)
        self.exported.set()
        return SpanExportResult.SUCCESS


async def test_shutdown_does_not_wait_for_a_collector_that_is_away() -> None:
    exporter = StuckExporter()
    tracing = Tracing(OtlpTracer("watcher", {}, exporter=exporter))
    tracing.new_traceparent("watch.event", start_ns=1)
    async with asyncio.timeout(30):
        await tracing.shutdown(timeout_seconds=0.05)
    assert not exporter.exported.is_set()
    exporter.released.set()
    assert await asyncio.to_thread(exporter.exported.wait, 30)


async def test_the_queue_is_bounded_and_what_it_has_no_room_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    exporter = StuckExporter()
    tracer = OtlpTracer("watcher", {}, exporter=exporter)
    for number in range(500):
        Tracing(tracer).new_traceparent("watch.event", start_ns=number)
    counts = tracer.counts
    assert counts.waiting <= 64
    assert counts.dropped >= 500 - 64 - 16, "one batch is with the exporter, which does not come back"
    exporter.released.set()
    await Tracing(tracer).shutdown(timeout_seconds=30)
    assert counts.exported + counts.dropped == 500
    assert counts.failed == counts.waiting == 0


async def test_shutdown_exports_what_is_queued(recorder: Recorder) -> None:
    recorder.tracing.new_traceparent("watch.event", start_ns=1)
    await recorder.tracing.shutdown(timeout_seconds=30)
    assert [span.name for span in recorder.finished()] == ["watch.event"]
