# SPDX-License-Identifier: Apache-2.0
"""One trace per change, across processes and over long-lived streams.

A stream lives for days, so a span per RPC says nothing. Instead each change carries a W3C `traceparent` in its own
message, and every span names its parent explicitly: nothing is taken from or left in a context variable.

    span = tracing.start_trace("watch.event", start_ns=received)      # the watcher: here sampling is decided
    ... send span.traceparent with the change ...
    with tracing.span("plan.compute", parent=change.traceparent) as span:   # any process after it
        ... send span.traceparent on ...
    tracing.span("dataplane.apply", parent=tp, start_ns=t0, links=others).end(t1)   # after the fact

A change that is not sampled carries either no traceparent or one with flag 00; everything here is then a constant
that costs about a microsecond. The SDK and its exporter are imported only when the environment asks for them.

Environment, as OpenTelemetry specifies it: OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT switch
tracing on; OTEL_SDK_DISABLED and OTEL_TRACES_EXPORTER=none switch it off; OTEL_TRACES_SAMPLER(_ARG),
OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME, OTEL_BSP_* and the other OTEL_EXPORTER_OTLP_* are read by the SDK.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeAlias

from pointsman_chassis.errors import ConfigError

if TYPE_CHECKING:
    from pointsman_chassis.tracing_otlp import OtlpTracer

AttributeValue: TypeAlias = str | bool | int | float
Attributes: TypeAlias = Mapping[str, AttributeValue]

LINKS_MAX: Final = 32
"""Coalesced changes that one span links to; further ones are counted in the attribute `pointsman.links_dropped`."""

_TRACEPARENT_LENGTH: Final = 55


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

    def end(self, end_ns: int | None = None) -> None:
        """Nothing to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


_NO_SPAN: Final = UnsampledSpan("")


class Tracing:
    """Makes spans. Build it with `from_environment`, or with None for a process that never traces."""

    def __init__(self, tracer: "OtlpTracer | None" = None) -> None:
        self._tracer = tracer

    @classmethod
    def from_environment(cls, service: str, *, attributes: Mapping[str, str] | None = None) -> Self:
        """Tracing as the OTEL_* variables say; `attributes` describe this process, such as `k8s.node.name`.

        Raises:
            ConfigError: the variables ask for an exporter other than OTLP over gRPC.
        """
        if not is_enabled(os.environ):
            return cls(None)
        from pointsman_chassis.tracing_otlp import OtlpTracer  # noqa: PLC0415 - 10 MB and 0.2 s that a process without a collector saves

        return cls(OtlpTracer(os.environ.get("OTEL_SERVICE_NAME") or service, attributes or {}))

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
        links: Sequence[str] = (),
    ) -> Span:
        """A span under the traceparent `parent`; `links` are traceparents of changes that this work also serves.

        Times are wall-clock nanoseconds; start is now when not given. A malformed or empty parent means unsampled:
        the value came over the network and tracing must never stop a change.
        """
        if self._tracer is None or not is_sampled(parent):
            return UnsampledSpan(parent) if parent else _NO_SPAN
        return self._tracer.start_span(name, parent=parent, start_ns=start_ns, attributes=attributes, links=links)

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
    if len(traceparent) != _TRACEPARENT_LENGTH:
        return False
    try:
        return int(traceparent[53:], 16) & 1 == 1
    except ValueError:
        return False


def is_enabled(environ: Mapping[str, str]) -> bool:
    """Whether the OTEL_* variables ask for traces; ConfigError when they ask for what is not there."""
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() or "otlp"
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not endpoint or disabled or exporter == "none":
        return False
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
    if exporter != "otlp":
        raise ConfigError(f"OTEL_TRACES_EXPORTER={exporter} is not supported; use otlp or none")
    if protocol != "grpc":
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} is not supported; use grpc (port 4317)")
    return True
