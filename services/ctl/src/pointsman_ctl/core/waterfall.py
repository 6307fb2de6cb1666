# SPDX-License-Identifier: Apache-2.0
"""A trace as text: each span a line with a bar for when it ran, the nodes one after another, then how long each took.

service shop/web   trace 4bf92f3577b34da6   9 spans, 4.21 ms
watcher               watch.event             0.00 ms    0.31 ms |##                                      |
planner-1               plan.compute          0.42 ms    0.09 ms |   #                                    |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_ctl.core.table import Column, render_table
from pointsman_ctl.core.trace import Span, title

_BAR_WIDTH = 40
_NODES_MAX = 50
_STEPS = (("plan.send", "sent"), ("dataplane.apply", "applied"), ("ack", "acked"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTimes:
    """When a node had got how far, in milliseconds after the beginning of the trace; None for what is not in it."""

    node: str
    sent_ms: float | None
    applied_ms: float | None
    acked_ms: float | None
    error: str

    def data(self) -> dict[str, Any]:
        """For JSON and YAML."""
        return {
            "node": self.node,
            "sentMs": self.sent_ms,
            "appliedMs": self.applied_ms,
            "ackedMs": self.acked_ms,
            "error": self.error,
        }


_COLUMNS: tuple[Column[NodeTimes], ...] = (
    Column(head="NODE", cell=lambda times: times.node),
    Column(head="SENT", cell=lambda times: _milliseconds(times.sent_ms)),
    Column(head="IN KERNEL", cell=lambda times: _milliseconds(times.applied_ms)),
    Column(head="ACKED", cell=lambda times: _milliseconds(times.acked_ms)),
    Column(head="ERROR", cell=lambda times: times.error, colour=lambda _: "red"),
)


def waterfall(trace: Sequence[Span], *, colours: bool = False) -> Iterator[str]:
    """The lines; of a change that went to more than 50 nodes, the slowest ones and a word about the others."""
    start = trace[0].start_us
    length = max(max(span.end_us for span in trace) - start, 1.0)
    yield f"{title(trace)}   trace {trace[0].trace_id}   {len(trace)} spans, {length / 1000:.2f} ms"
    times = node_times(trace)
    shown = _shown_nodes(times)
    rows = [row for row in _ordered(trace) if not row[0].node or row[0].node in shown or not _is_of_node(row[0])]
    who_width = max(len(_who(span)) for span, _ in rows)
    name_width = max(len(span.name) + 2 * depth for span, depth in rows)
    for span, depth in rows:
        name = "  " * depth + span.name
        offset, duration = (span.start_us - start) / 1000, span.duration_us / 1000
        error = f" ERROR {span.error}" if span.error else ""
        bar = _bar(span, start, length)
        yield f"{_who(span):{who_width}}  {name:{name_width}}  {offset:9.2f} ms {duration:9.2f} ms |{bar}|{error}"
    if times:
        yield ""
        yield from render_table([each for each in times if each.node in shown], _COLUMNS, colours=colours)
        if len(times) > len(shown):
            yield f"and {len(times) - len(shown)} faster nodes"


def node_times(trace: Sequence[Span]) -> list[NodeTimes]:
    """How far each node got when, by name."""
    start = trace[0].start_us
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    errors: dict[str, str] = {}
    for span in trace:
        for name, step in _STEPS:
            if span.name == name and span.node:
                found[span.node][step] = max(found[span.node].get(step, 0.0), (span.end_us - start) / 1000)
                errors.setdefault(span.node, span.error)
                errors[span.node] = errors[span.node] or span.error
    return [
        NodeTimes(
            node=node,
            sent_ms=steps.get("sent"),
            applied_ms=steps.get("applied"),
            acked_ms=steps.get("acked"),
            error=errors.get(node, ""),
        )
        for node, steps in sorted(found.items())
    ]


def trace_data(trace: Sequence[Span]) -> dict[str, Any]:
    """A trace for JSON and YAML."""
    start = trace[0].start_us
    return {
        "traceId": trace[0].trace_id,
        "change": title(trace),
        "durationMs": round((max(span.end_us for span in trace) - start) / 1000, 3),
        "nodes": [times.data() for times in node_times(trace)],
        "spans": [
            {
                "name": span.name,
                "process": span.process,
                "node": span.node,
                "startMs": round((span.start_us - start) / 1000, 3),
                "durationMs": round(span.duration_us / 1000, 3),
                "error": span.error,
            }
            for span in trace
        ],
    }


def _shown_nodes(times: Iterable[NodeTimes]) -> frozenset[str]:
    slowest = sorted(times, key=lambda each: -(each.acked_ms or each.applied_ms or each.sent_ms or 0.0))
    return frozenset(each.node for each in slowest[:_NODES_MAX])


def _is_of_node(span: Span) -> bool:
    return any(span.name == name for name, _ in _STEPS) or span.name.startswith("dataplane.")


def _who(span: Span) -> str:
    where = f" {span.node}" if span.node else ""
    return span.process.removeprefix("pointsman-") + where


def _ordered(spans: Sequence[Span]) -> list[tuple[Span, int]]:
    """Depth first; siblings by node, then by start, so that what happened for one node stands together."""
    known = {span.span_id for span in spans}
    children: defaultdict[str, list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: (span.node if _is_of_node(span) else "", span.start_us)):
        children[span.parent_id if span.parent_id in known else ""].append(span)
    rows: list[tuple[Span, int]] = []
    stack = [(span, 0) for span in reversed(children.pop("", []))]
    while stack:
        span, depth = stack.pop()
        rows.append((span, depth))
        stack.extend((child, depth + 1) for child in reversed(children.pop(span.span_id, [])))
    return rows


def _bar(span: Span, start: float, length: float) -> str:
    first = min(int((span.start_us - start) * _BAR_WIDTH / length), _BAR_WIDTH - 1)
    last = max(first + 1, min(-int(-(span.end_us - start) * _BAR_WIDTH // length), _BAR_WIDTH))
    return (" " * first + "#" * (last - first)).ljust(_BAR_WIDTH)


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} ms"
