# SPDX-License-Identifier: Apache-2.0
"""A trace as text for people, and as JSON for Jaeger. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pointsman_lab.otlp.store import Span

_BAR_WIDTH = 40


def render_waterfall(spans: Sequence[Span]) -> str:
    """One line per span, children under their parents, a bar for when it ran.

        pointsman-watcher            watch.event        0.00 ms    0.31 ms |##          |
        pointsman-planner              plan.compute     0.42 ms    0.09 ms |   #        |

    An empty trace renders as a line that says so.
    """
    if not spans:
        return "(no spans)"
    start = min(span.start_ns for span in spans)
    length = max(max(span.end_ns for span in spans) - start, 1)
    rows = _ordered(spans)
    service_width = max(len(_who(span)) for span, _ in rows)
    name_width = max(len(span.name) + 2 * depth for span, depth in rows)
    lines = [f"trace {spans[0].trace_id}: {len(spans)} spans, {length / 1e6:.2f} ms"]
    for span, depth in rows:
        name = "  " * depth + span.name
        offset, duration = (span.start_ns - start) / 1e6, (span.end_ns - span.start_ns) / 1e6
        lines.append(
            f"{_who(span):{service_width}}  {name:{name_width}}  {offset:9.2f} ms {duration:9.2f} ms "
            f"|{_bar(span, start, length)}|{' ERROR ' + span.message if span.is_error else ''}"
        )
    return "\n".join(lines)


def jaeger_export(traces: Sequence[Sequence[Span]]) -> dict[str, Any]:
    """The traces in the form Jaeger's user interface loads ("JSON File")."""
    return {"data": [_jaeger_trace(spans) for spans in traces if spans]}


def _who(span: Span) -> str:
    return f"{span.service} {span.host}".strip()


def _ordered(spans: Sequence[Span]) -> list[tuple[Span, int]]:
    """Depth first by start; a span whose parent is not there counts as a root."""
    known = {span.span_id for span in spans}
    children: defaultdict[str, list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: (span.start_ns, span.span_id)):
        children[span.parent_id if span.parent_id in known else ""].append(span)
    rows: list[tuple[Span, int]] = []
    stack = [(span, 0) for span in reversed(children[""])]
    while stack:
        span, depth = stack.pop()
        rows.append((span, depth))
        stack.extend((child, depth + 1) for child in reversed(children.pop(span.span_id, [])))
    return rows


def _bar(span: Span, start: int, length: int) -> str:
    first = min((span.start_ns - start) * _BAR_WIDTH // length, _BAR_WIDTH - 1)
    last = max(first + 1, -(-(span.end_ns - start) * _BAR_WIDTH // length))
    return (" " * first + "#" * (last - first)).ljust(_BAR_WIDTH)


def _jaeger_trace(spans: Sequence[Span]) -> dict[str, Any]:
    processes = {who: f"p{number}" for number, who in enumerate(sorted({_who(span) for span in spans}), 1)}
    return {
        "traceID": spans[0].trace_id,
        "spans": [_jaeger_span(span, processes[_who(span)]) for span in spans],
        "processes": {
            processes[_who(span)]: {
                "serviceName": span.service,
                "tags": [{"key": "host.name", "type": "string", "value": span.host}],
            }
            for span in spans
        },
    }


def _jaeger_span(span: Span, process: str) -> dict[str, Any]:
    references = [("CHILD_OF", span.trace_id, span.parent_id)] if span.parent_id else []
    references += [("FOLLOWS_FROM", trace_id, span_id) for trace_id, span_id in span.links]
    tags = [{"key": key, "type": _tag_type(value), "value": value} for key, value in span.attributes.items()]
    if span.is_error:
        tags.append({"key": "error", "type": "bool", "value": True})
    return {
        "traceID": span.trace_id,
        "spanID": span.span_id,
        "operationName": span.name,
        "references": [{"refType": kind, "traceID": trace, "spanID": other} for kind, trace, other in references],
        "startTime": span.start_ns // 1000,
        "duration": (span.end_ns - span.start_ns) // 1000,
        "tags": tags,
        "logs": [],
        "processID": process,
    }


def _tag_type(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return {int: "int64", float: "float64"}.get(type(value), "string")
