# SPDX-License-Identifier: Apache-2.0
"""Traces of changes, read from what Jaeger's HTTP API answers, its "JSON File", or OTLP in JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_NODE: Final = "k8s.node.name"
_NODES: Final = (_NODE, "host.name")
_OBJECT: Final = "object"
_SERVICE: Final = "pointsman.service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One finished span; instants in microseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    process: str
    node: str
    start_us: float
    duration_us: float
    tags: Mapping[str, Any]
    error: str = ""

    @property
    def end_us(self) -> float:
        """When it ended."""
        return self.start_us + self.duration_us


class TraceFormatError(ValueError):
    """The document holds no traces in a form that is known."""


def read_traces(document: Any) -> list[tuple[Span, ...]]:
    """The traces of a document, each in the order of starts, the newest trace first.

    Raises:
        TraceFormatError: it is neither Jaeger's nor OTLP's JSON.
    """
    try:
        if isinstance(document, Mapping) and isinstance(document.get("data"), list):
            spans = [span for trace in document["data"] for span in _jaeger_spans(trace)]
        elif isinstance(document, Mapping) and "resourceSpans" in document:
            spans = list(_otlp_spans(document["resourceSpans"]))
        else:
            raise TraceFormatError("neither `data` (Jaeger) nor `resourceSpans` (OTLP) at the top")
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise TraceFormatError(f"a span lacks what every span has: {error!r}") from error
    return group(spans)


def group(spans: Iterable[Span]) -> list[tuple[Span, ...]]:
    """Spans by trace; one that is there twice counts once."""
    traces: dict[str, dict[str, Span]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, {})[span.span_id] = span
    ordered = [tuple(sorted(each.values(), key=lambda span: (span.start_us, span.span_id))) for each in traces.values()]
    return sorted(ordered, key=lambda trace: trace[0].start_us, reverse=True)


def is_about(trace: Iterable[Span], service: str) -> bool:
    """Whether a trace is of a change of this Service (`namespace/name`), or of one of its slices."""
    namespace, _, name = service.partition("/")
    for span in trace:
        if span.tags.get(_SERVICE) == service:
            return True
        kind, _, where = str(span.tags.get(_OBJECT, "")).partition(" ")
        if where == service:
            return True
        # A slice is named after its Service, with a suffix; what no node acknowledged yet has nothing better.
        if "slice" in kind.lower() and where.startswith(f"{namespace}/{name}-"):
            return True
    return False


def title(trace: Iterable[Span]) -> str:
    """What changed."""
    for span in trace:
        for tag in (_OBJECT, _SERVICE):
            if span.tags.get(tag):
                return str(span.tags[tag])
    return "unknown change"


def _jaeger_spans(trace: Mapping[str, Any]) -> Iterator[Span]:
    processes = trace.get("processes") or {}
    for span in trace["spans"]:
        process = processes.get(span.get("processID")) or span.get("process") or {}
        tags = {tag["key"]: tag.get("value") for tag in span.get("tags") or []}
        resource = {tag["key"]: tag.get("value") for tag in process.get("tags") or []}
        parents = [each for each in span.get("references") or [] if each.get("refType") == "CHILD_OF"]
        yield Span(
            trace_id=str(span["traceID"]),
            span_id=str(span["spanID"]),
            parent_id=str(parents[0]["spanID"]) if parents else "",
            name=str(span["operationName"]),
            process=str(process.get("serviceName", "unknown")),
            node=_node(tags, resource),
            start_us=float(span["startTime"]),
            duration_us=float(span["duration"]),
            tags=tags,
            error=_jaeger_error(tags),
        )


def _jaeger_error(tags: Mapping[str, Any]) -> str:
    is_error = tags.get("error") in (True, "true") or tags.get("otel.status_code") == "ERROR"
    return str(tags.get("otel.status_description") or "failed") if is_error else ""


def _otlp_spans(groups: Iterable[Mapping[str, Any]]) -> Iterator[Span]:
    for resource_spans in groups:
        resource = _otlp_tags((resource_spans.get("resource") or {}).get("attributes"))
        for scope in resource_spans.get("scopeSpans") or []:
            for span in scope.get("spans") or []:
                tags = _otlp_tags(span.get("attributes"))
                status = span.get("status") or {}
                is_error = status.get("code") in (2, "STATUS_CODE_ERROR")
                start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
                yield Span(
                    trace_id=str(span["traceId"]),
                    span_id=str(span["spanId"]),
                    parent_id=str(span.get("parentSpanId") or ""),
                    name=str(span["name"]),
                    process=str(resource.get("service.name", "unknown")),
                    node=_node(tags, resource),
                    start_us=start / 1000,
                    duration_us=(end - start) / 1000,
                    tags=tags,
                    error=str(status.get("message") or "failed") if is_error else "",
                )


def _otlp_tags(pairs: Iterable[Mapping[str, Any]] | None) -> dict[str, Any]:
    return {pair["key"]: next(iter((pair.get("value") or {}).values()), None) for pair in pairs or []}


def _node(tags: Mapping[str, Any], resource: Mapping[str, Any]) -> str:
    """The node that a span is about: its own word, else where its process runs."""
    return str(tags.get(_NODE) or next((resource[key] for key in _NODES if resource.get(key)), ""))
