# SPDX-License-Identifier: Apache-2.0
"""The OpenTelemetry side of `tracing`: imported only when a collector is configured."""

import os
import re
import socket
from collections.abc import Mapping
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from random import getrandbits
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision

from pointsman_chassis.tracing import Attributes, AttributeValue, Span, UnsampledSpan
from pointsman_chassis.tracing_export import SpanCounts, processor_from_environment

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_EMPTY: Final = Context()
_POD_VARIABLES: Final = {
    "k8s.namespace.name": "POD_NAMESPACE",
    "k8s.pod.name": "POD_NAME",
    "k8s.pod.uid": "POD_UID",
    "k8s.node.name": "NODE_NAME",
}
"""Resource attributes that the platform injects, by the semantic conventions' names."""


class OtlpTracer:
    """Owns the provider, its batch processor (a thread of its own, bounded queue) and the exporter."""

    def __init__(self, service: str, attributes: Mapping[str, str], *, exporter: SpanExporter | None = None) -> None:
        self.counts = SpanCounts()
        self._ids = _TraceIds()
        self._provider = TracerProvider(
            resource=make_resource(service, attributes), shutdown_on_exit=False, id_generator=self._ids
        )
        self._provider.add_span_processor(processor_from_environment(self.counts, exporter))
        self._sampler = self._provider.sampler
        self._tracer = self._provider.get_tracer("pointsman")

    def start_trace(self, name: str, *, start_ns: int | None, attributes: Attributes | None, event: str = "") -> Span:
        """A root span if the sampler takes it, else a constant that carries flag 00; equal events, equal trace ids.

        The sampler is asked before the SDK makes a span: most changes are not sampled, and theirs would be for nothing.
        """
        trace_id = _event_id(event) if event else getrandbits(128) or 1
        if self._sampler.should_sample(_EMPTY, trace_id, name).decision is Decision.DROP:
            return UnsampledSpan(f"00-{trace_id:032x}-{getrandbits(64) or 1:016x}-00")
        self._ids.trace_id = trace_id
        started = self._tracer.start_span(name, _EMPTY, attributes=attributes, start_time=start_ns)
        return _wrap(started, otherwise=_format(started.get_span_context()))

    def start_span(
        self, name: str, *, parent: str, start_ns: int | None, attributes: Attributes | None, is_kept: bool = False
    ) -> Span:
        """A child of `parent`; unsampled when `parent` is malformed or this process samples nothing."""
        parent_context = _parse(parent, is_kept=is_kept)
        if parent_context is None:
            return UnsampledSpan("")
        started = self._tracer.start_span(
            name,
            trace.set_span_in_context(trace.NonRecordingSpan(parent_context), _EMPTY),
            attributes=attributes,
            start_time=start_ns,
        )
        return _wrap(started, otherwise=parent)

    def shutdown(self) -> None:
        """Export what is queued and stop; blocks as long as the exporter does."""
        self._provider.shutdown()


def make_resource(service: str, attributes: Mapping[str, str]) -> Resource:
    """What describes this process on every span; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word."""
    try:
        release = version(service)
    except PackageNotFoundError:
        release = "unknown"
    known: dict[str, AttributeValue] = {
        "service.name": service,
        "service.namespace": "pointsman",
        "service.version": release,
        "service.instance.id": str(uuid4()),
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
        **{key: value for key, name in _POD_VARIABLES.items() if (value := os.environ.get(name))},
        **attributes,
    }
    return Resource.create().merge(Resource(known)).merge(OTELResourceDetector().detect())


def _event_id(event: str) -> int:
    return int.from_bytes(blake2b(event.encode(), digest_size=16).digest(), "big") or 1


class _TraceIds(RandomIdGenerator):
    """Gives the trace that is begun the id that the sampler was asked about. Used on the loop's thread only."""

    def __init__(self) -> None:
        self.trace_id = 0

    def generate_trace_id(self) -> int:
        """The id of the trace that is begun now."""
        return self.trace_id or super().generate_trace_id()


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

    def link(self, traceparent: str) -> None:
        """Point at another sampled change."""
        context = _parse(traceparent)
        if context is not None and context.trace_flags.sampled:
            self._span.add_link(context)

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


def _parse(traceparent: str, *, is_kept: bool = False) -> trace.SpanContext | None:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    trace_id, span_id, flags = (int(group, 16) for group in match.groups())
    if is_kept:
        flags |= trace.TraceFlags.SAMPLED
    return trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=trace.TraceFlags(flags))
