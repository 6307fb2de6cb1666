# SPDX-License-Identifier: Apache-2.0
"""Spans by trace, bounded: the oldest trace goes first. Pure."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import msgspec

_TRACES_MAX = 5_000
_SPANS_PER_TRACE_MAX = 2_000


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One finished span. Ids in lower-case hex, instants in nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    host: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, str | int | float | bool]
    links: tuple[tuple[str, str], ...] = ()
    is_error: bool = False
    message: str = ""


class SpanStore:
    """The latest traces, and counters of what did not fit."""

    def __init__(self, *, traces_max: int = _TRACES_MAX, spans_per_trace_max: int = _SPANS_PER_TRACE_MAX) -> None:
        """Takes the limits."""
        self._traces: OrderedDict[str, dict[str, Span]] = OrderedDict()
        self._traces_max = traces_max
        self._spans_max = spans_per_trace_max
        self.received = 0
        self.dropped = 0

    def add(self, spans: Iterable[Span]) -> None:
        """Takes spans in; one that was sent twice counts once."""
        for span in spans:
            self.received += 1
            trace = self._traces.setdefault(span.trace_id, {})
            self._traces.move_to_end(span.trace_id)
            if len(trace) >= self._spans_max and span.span_id not in trace:
                self.dropped += 1
                continue
            trace[span.span_id] = span
        while len(self._traces) > self._traces_max:
            _, evicted = self._traces.popitem(last=False)
            self.dropped += len(evicted)

    def trace(self, trace_id: str) -> tuple[Span, ...]:
        """The spans of a trace, by start."""
        return tuple(sorted(self._traces.get(trace_id, {}).values(), key=lambda span: (span.start_ns, span.span_id)))

    def find(self, *, attribute: str = "", value: str = "", name: str = "", limit: int = 20) -> tuple[str, ...]:
        """Ids of traces, the latest first, that hold a span with that name and that attribute value."""
        found: list[str] = []
        for trace_id in reversed(self._traces):
            spans = self._traces[trace_id].values()
            if any(_matches(span, attribute, value, name) for span in spans):
                found.append(trace_id)
                if len(found) >= limit:
                    break
        return tuple(found)


def _matches(span: Span, attribute: str, value: str, name: str) -> bool:
    if name and span.name != name:
        return False
    return not attribute or str(span.attributes.get(attribute, "")) == value
