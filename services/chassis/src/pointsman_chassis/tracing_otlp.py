# SPDX-License-Identifier: Apache-2.0
"""The OpenTelemetry side of `tracing`: imported only when a collector is configured."""

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from types import TracebackType
from typing import Final, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from pointsman_chassis.tracing import LINKS_MAX, Attributes, AttributeValue, Span, UnsampledSpan

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_EMPTY: Final = Context()


class OtlpTracer:
    """Owns the provider, its batch processor (a thread of its own, bounded queue) and the exporter."""

    def __init__(self, service: str, attributes: Mapping[str, str], *, exporter: SpanExporter | None = None) -> None:
        resource = Resource.create({SERVICE_NAME: service, **attributes})
        self._ids = _TraceIds()
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False, id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("pointsman")

    def start_trace(self, name: str, *, start_ns: int | None, attributes: Attributes | None, event: str = "") -> Span:
        """A root span if the sampler takes it, else a constant that carries flag 00; equal events, equal trace ids."""
        self._ids.event = event
        started = self._tracer.start_span(name, _EMPTY, attributes=attributes, start_time=start_ns)
        return _wrap(started, otherwise=_format(started.get_span_context()))

    def start_span(
        self, name: str, *, parent: str, start_ns: int | None, attributes: Attributes | None, links: Sequence[str]
    ) -> Span:
        """A child of `parent`; unsampled when `parent` is malformed or this process samples nothing."""
        parent_context = _parse(parent)
        if parent_context is None:
            return UnsampledSpan("")
        linked = [context for link in links[:LINKS_MAX] if (context := _parse(link)) is not None]
        started = self._tracer.start_span(
            name,
            trace.set_span_in_context(trace.NonRecordingSpan(parent_context), _EMPTY),
            attributes=attributes,
            start_time=start_ns,
            links=[trace.Link(context) for context in linked],
        )
        if len(links) > len(linked):
            started.set_attribute("pointsman.links_dropped", len(links) - len(linked))
        return _wrap(started, otherwise=parent)

    def shutdown(self) -> None:
        """Export what is queued and stop; blocks as long as the exporter does."""
        self._provider.shutdown()


class _TraceIds(RandomIdGenerator):
    """Trace ids made of the event at hand, random ones when there is none. Asked on the loop's thread only."""

    def __init__(self) -> None:
        self.event = ""

    def generate_trace_id(self) -> int:
        """The id of the trace that is begun now."""
        if not self.event:
            return super().generate_trace_id()
        return int.from_bytes(blake2b(self.event.encode(), digest_size=16).digest(), "big") or 1


class _SampledSpan:
    """A span of the SDK behind the interface of `tracing.Span`."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.traceparent = _format(span.get_span_context())

    @property
    def is_sampled(self) -> bool:
        """Always."""
        return True

    def set(self, key: str, value: AttributeValue) -> None:
        """Add an attribute."""
        self._span.set_attribute(key, value)

    def fail(self, message: str) -> None:
        """Mark the work as failed."""
        self._span.set_status(trace.StatusCode.ERROR, message)

    def end(self, end_ns: int | None = None) -> None:
        """Hand the span to the exporter's queue."""
        self._span.end(end_ns)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(f"{type(error).__name__}: {error}")
        self.end()


def _wrap(span: trace.Span, *, otherwise: str) -> Span:
    return _SampledSpan(span) if span.get_span_context().trace_flags.sampled else UnsampledSpan(otherwise)


def _format(context: trace.SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"


def _parse(traceparent: str) -> trace.SpanContext | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    trace_id, span_id, flags = (int(group, 16) for group in match.groups())
    return trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))
