# SPDX-License-Identifier: Apache-2.0
"""One trace per change, across processes and over long-lived streams.

A stream lives for days, so a span per RPC says nothing. Instead each change carries a W3C `traceparent` in its own
message, and every span names its parent explicitly: nothing is taken from or left in a context variable.

    span = tracing.start_trace("watch.event", start_ns=received)      # the watcher: here sampling is decided
    ... send span.traceparent with the change ...
    with tracing.span("plan.compute", parent=change.traceparent) as span:   # any process after it
        ... send span.traceparent on ...
    tracing.span("dataplane.apply", parent=tp, start_ns=t0).end(t1)                 # after the fact
    tracing.span("ack", parent=tp, start_ns=t0, is_kept=True).end(t1)               # though nobody sampled the change
    tracing.spans("plan.send", parents=tps)                                         # one work for several changes

A change that is not sampled carries either no traceparent or one with flag 00; everything here is then a constant
that costs about a microsecond. The SDK and its exporter are imported only when the environment asks for them.

Environment, as OpenTelemetry specifies it: OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT switch
tracing on; OTEL_SDK_DISABLED and OTEL_TRACES_EXPORTER=none switch it off; OTEL_EXPORTER_OTLP_PROTOCOL is grpc or
http/protobuf; OTEL_TRACES_SAMPLER(_ARG), OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME, OTEL_BSP_* and the other
OTEL_EXPORTER_OTLP_* are read by the SDK.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeAlias

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.metrics import Registry

if TYPE_CHECKING:
    from pointsman_chassis.tracing_otlp import OtlpTracer

AttributeValue: TypeAlias = str | bool | int | float
Attributes: TypeAlias = Mapping[str, AttributeValue]

LINKS_MAX: Final = 32
"""Coalesced changes that one span links to; further ones are counted in the attribute `pointsman.links_dropped`."""

PROTOCOLS: Final = ("grpc", "http/protobuf")
"""Values of OTEL_EXPORTER_OTLP_PROTOCOL; http/json is not among them."""

_TRACEPARENT_LENGTH: Final = 55
_ODD_DIGITS: Final = frozenset("13579bdfBDF")


class Span(Protocol):
    """One piece of work. Ends once: by `end`, or by leaving the `with` block (an exception marks it as failed)."""

    @property
    def traceparent(self) -> str:
        """What to send along with the change: this span as parent; empty when there is no trace."""

    @property
    def is_sampled(self) -> bool:
        """Whether the span will be exported; guard for attributes that are costly to compute."""

    def set(self, key: str, value: AttributeValue) -> None:
        """Add an attribute."""

    def fail(self, message: str) -> None:
        """Mark the work as failed."""

    def link(self, traceparent: str) -> None:
        """Point at another change that this work also served; nothing for one that is not sampled."""

    def end(self, end_ns: int | None = None) -> None:
        """End at the given wall time, by default now."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class UnsampledSpan:
    """Does nothing, and passes the parent on so that every process further down knows the decision."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    @property
    def is_sampled(self) -> bool:
        """Never."""
        return False

    def set(self, key: str, value: AttributeValue) -> None:
        """Nothing to do."""

    def fail(self, message: str) -> None:
        """Nothing to do."""

    def link(self, traceparent: str) -> None:
        """Nothing to do."""

    def end(self, end_ns: int | None = None) -> None:
        """Nothing to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


_NO_SPAN: Final = UnsampledSpan("")


class SpanGroup:
    """One piece of work that served several changes: a span in the trace of each.

    The newest change's span stands for the work and links to all others; each other span links to that one. So every
    trace is whole by itself, and says which others it was coalesced with.
    """

    __slots__ = ("spans",)

    def __init__(self, spans: Mapping[str, Span]) -> None:
        self.spans = spans
        """By the parent's traceparent, newest last. Holds sampled ones only."""
        if len(spans) < 2:
            return
        *others, newest = spans.values()
        for other in others[-LINKS_MAX:]:
            newest.link(other.traceparent)
            other.link(newest.traceparent)
        if len(others) > LINKS_MAX:
            newest.set("pointsman.links_dropped", len(others) - LINKS_MAX)
        for span in spans.values():
            span.set("pointsman.coalesced", len(spans))

    @property
    def exemplar(self) -> dict[str, str] | None:
        """What a histogram's bucket shows: the trace of the newest change; None when there is none."""
        return exemplar(self.spans[next(reversed(list(self.spans)))].traceparent) if self.spans else None

    def set(self, key: str, value: AttributeValue) -> None:
        """Add an attribute to each."""
        for span in self.spans.values():
            span.set(key, value)

    def end(self, end_ns: int | None = None) -> None:
        """End each."""
        for span in self.spans.values():
            span.end(end_ns)


NO_SPANS: Final = SpanGroup({})


class Tracing:
    """Makes spans. Build it with `from_environment`, or with None for a process that never traces."""

    def __init__(self, tracer: "OtlpTracer | None" = None) -> None:
        self._tracer = tracer

    @classmethod
    def from_environment(cls, service: str, *, attributes: Mapping[str, str] | None = None) -> Self:
        """Tracing as the OTEL_* variables say; `attributes` describe this process, such as `k8s.node.name`.

        Raises:
            ConfigError: the variables ask for an exporter that is not here, or hold what cannot be used.
        """
        if not is_enabled(os.environ):
            return cls(None)
        from pointsman_chassis.tracing_otlp import OtlpTracer  # noqa: PLC0415 - 10 MB and 0.2 s that a process without a collector saves

        return cls(OtlpTracer(service, attributes or {}))

    def count_in(self, registry: Registry, prefix: str) -> None:
        """Show what becomes of spans as `<prefix>_trace_spans_total`; nothing for a process that does not trace."""
        if self._tracer is not None:
            registry.register(self._tracer.counts.collector(f"{prefix}_trace_spans"))

    @property
    def is_enabled(self) -> bool:
        """Whether sampled spans go anywhere."""
        return self._tracer is not None

    def start_trace(
        self, name: str, *, start_ns: int | None = None, attributes: Attributes | None = None, event: str = ""
    ) -> Span:
        """The first span of a new trace. The sampler decides here; its traceparent carries the decision.

        `event` says what happened: processes that see the same event begin the same trace.
        """
        if self._tracer is None:
            return _NO_SPAN
        return self._tracer.start_trace(name, start_ns=start_ns, attributes=attributes, event=event)

    def span(
        self,
        name: str,
        *,
        parent: str,
        start_ns: int | None = None,
        attributes: Attributes | None = None,
        is_kept: bool = False,
    ) -> Span:
        """A span under the traceparent `parent`, if that is sampled or `is_kept` says that it is wanted all the same.

        Times are wall-clock nanoseconds; start is now when not given. A malformed or empty parent means unsampled:
        the value came over the network and tracing must never stop a change.
        """
        if self._tracer is None or not (is_kept or is_sampled(parent)):
            return UnsampledSpan(parent) if parent else _NO_SPAN
        return self._tracer.start_span(name, parent=parent, start_ns=start_ns, attributes=attributes, is_kept=is_kept)

    def spans(
        self,
        name: str,
        *,
        parents: Sequence[str],
        start_ns: int | None = None,
        attributes: Attributes | None = None,
        is_kept: bool = False,
    ) -> SpanGroup:
        """One piece of work for several changes, the newest last: a span for each of them, linked."""
        if self._tracer is None:
            return NO_SPANS
        begun = {
            parent: self.span(name, parent=parent, start_ns=start_ns, attributes=attributes, is_kept=is_kept)
            for parent in parents
            if is_kept or is_sampled(parent)
        }
        return SpanGroup({parent: span for parent, span in begun.items() if span.is_sampled}) if begun else NO_SPANS

    def new_traceparent(
        self, name: str, *, start_ns: int, end_ns: int | None = None, attributes: Attributes | None = None
    ) -> str:
        """Start a trace whose first span is over already, and return what its change carries."""
        span = self.start_trace(name, start_ns=start_ns, attributes=attributes)
        span.end(end_ns)
        return span.traceparent

    async def shutdown(self, *, timeout_seconds: float = 2.0) -> None:
        """Export what is left, for at most `timeout_seconds`: a collector that is away does not hold up the exit."""
        if self._tracer is None:
            return
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        tracer = self._tracer

        def work() -> None:
            tracer.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop is closed when the flush came too late
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=work, name="trace-flush", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await done.wait()


def is_sampled(traceparent: str) -> bool:
    """Whether a traceparent asks for spans; False for an empty or malformed one."""
    return len(traceparent) == _TRACEPARENT_LENGTH and traceparent[54] in _ODD_DIGITS


def unsampled(traceparent: str) -> str:
    """The same change, for a process that is to make no spans for it."""
    return f"{traceparent[:53]}00" if is_sampled(traceparent) else traceparent


def trace_fields(traceparent: str) -> dict[str, str]:
    """`trace_id` and `span_id` of a change, for its log lines; empty when it carries no trace."""
    if len(traceparent) != _TRACEPARENT_LENGTH:
        return {}
    return {"trace_id": traceparent[3:35], "span_id": traceparent[36:52]}


def exemplar(traceparent: str) -> dict[str, str] | None:
    """What a histogram's bucket shows of a change that has a trace; None for one that has none."""
    return {"trace_id": traceparent[3:35]} if is_sampled(traceparent) else None


def is_enabled(environ: Mapping[str, str]) -> bool:
    """Whether the OTEL_* variables ask for traces; ConfigError when they ask for what is not there."""
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() or "otlp"
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not endpoint or disabled or exporter == "none":
        return False
    if exporter != "otlp":
        raise ConfigError(f"OTEL_TRACES_EXPORTER={exporter} is not supported; use otlp or none")
    if protocol(environ) not in PROTOCOLS:
        wanted = " or ".join(PROTOCOLS)
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol(environ)} is not supported; use {wanted}")
    _check_sampler(environ)
    return True


def _check_sampler(environ: Mapping[str, str]) -> None:
    """The SDK takes every change when it cannot read these: on a large cluster the last thing that was meant."""
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    kind = sampler.removeprefix("parentbased_")
    if kind not in {"always_on", "always_off", "traceidratio"}:
        raise ConfigError(
            f"OTEL_TRACES_SAMPLER={sampler} is not supported; use always_on, always_off or traceidratio, "
            "best with parentbased_ before it"
        )
    ratio = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    try:
        is_ratio = 0 <= float(ratio or 1) <= 1
    except ValueError:
        is_ratio = False
    if kind == "traceidratio" and not is_ratio:
        raise ConfigError(f"OTEL_TRACES_SAMPLER_ARG={ratio} is no ratio from 0 to 1")


def protocol(environ: Mapping[str, str]) -> str:
    """How spans are sent: grpc unless the environment says otherwise."""
    asked = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    return (asked or "grpc").strip().lower()
