# SPDX-License-Identifier: Apache-2.0
"""A change's trace as lines, whichever way it was written down."""

from __future__ import annotations

from typing import Any

import pytest

from pointsman_ctl.core.trace import TraceFormatError, is_about, read_traces
from pointsman_ctl.core.waterfall import node_times, trace_data, waterfall

SPANS = (
    # id, parent, name, service, host, node tag, start, duration (microseconds)
    ("1", "", "watch.event", "pointsman-watcher", "w1", "", 0, 500),
    ("2", "1", "plan.compute", "pointsman-planner", "p1", "", 600, 400),
    ("3", "2", "plan.send", "pointsman-planner", "p1", "node-1", 1000, 200),
    ("5", "2", "plan.send", "pointsman-planner", "p1", "node-2", 1100, 200),
    ("4", "3", "dataplane.apply", "pointsman-enforcer", "node-1", "", 1500, 2000),
    ("6", "5", "dataplane.apply", "pointsman-enforcer", "node-2", "", 1600, 400),
    ("7", "2", "ack", "pointsman-planner", "p1", "node-1", 1000, 3000),
)


def jaeger() -> dict[str, Any]:
    """As Jaeger's HTTP API answers."""
    processes = {
        f"p-{service}-{host}": {"serviceName": service, "tags": [{"key": "host.name", "value": host}]}
        for _, _, _, service, host, *_ in SPANS
    }
    spans = [
        {
            "traceID": "abc",
            "spanID": span,
            "operationName": name,
            "references": [{"refType": "CHILD_OF", "traceID": "abc", "spanID": parent}] if parent else [],
            "startTime": 1_000_000 + start,
            "duration": duration,
            "processID": f"p-{service}-{host}",
            "tags": _tags(span, name, node),
        }
        for span, parent, name, service, host, node, start, duration in SPANS
    ]
    return {"data": [{"traceID": "abc", "spans": spans, "processes": processes}], "errors": None}


def otlp() -> dict[str, Any]:
    """As OTLP over HTTP and collectors' file exporters have it."""
    groups = []
    for span, parent, name, service, host, node, start, duration in SPANS:
        attributes = [{"key": tag["key"], "value": {"stringValue": tag["value"]}} for tag in _tags(span, name, node)]
        found = {
            "traceId": "abc",
            "spanId": span,
            "parentSpanId": parent,
            "name": name,
            "startTimeUnixNano": str((1_000_000 + start) * 1000),
            "endTimeUnixNano": str((1_000_000 + start + duration) * 1000),
            "attributes": [each for each in attributes if each["key"] not in ("error", "otel.status_description")],
            "status": {"code": 2, "message": "full"} if span == "6" else {},
        }
        resource = {"service.name": service, "host.name": host}
        pairs = [{"key": key, "value": {"stringValue": value}} for key, value in resource.items()]
        groups.append({"resource": {"attributes": pairs}, "scopeSpans": [{"spans": [found]}]})
    return {"resourceSpans": groups}


def _tags(span: str, name: str, node: str) -> list[dict[str, Any]]:
    tags = [{"key": "object", "value": "service shop/web"}] if name == "watch.event" else []
    tags += [{"key": "k8s.node.name", "value": node}] if node else []
    if span == "6":
        tags += [{"key": "error", "value": True}, {"key": "otel.status_description", "value": "full"}]
    return tags


GOLDEN = """\
service shop/web   trace abc   7 spans, 4.00 ms
watcher w1       watch.event             0.00 ms      0.50 ms |#####                                   |
planner p1         plan.compute          0.60 ms      0.40 ms |      ####                              |
planner node-1       plan.send           1.00 ms      0.20 ms |          ##                            |
enforcer node-1        dataplane.apply      1.50 ms      2.00 ms |               ####################     |
planner node-1       ack                 1.00 ms      3.00 ms |          ##############################|
planner node-2       plan.send           1.10 ms      0.20 ms |           ##                           |
enforcer node-2        dataplane.apply      1.60 ms      0.40 ms |                ####                    | ERROR full

NODE     SENT      IN KERNEL   ACKED     ERROR
node-1   1.20 ms   3.50 ms     4.00 ms   -
node-2   1.30 ms   2.00 ms     -         full"""


@pytest.mark.parametrize("document", [jaeger(), otlp()], ids=["jaeger", "otlp"])
def test_the_waterfall_is_the_same_whichever_way_the_trace_was_written(document: dict[str, Any]) -> None:
    (trace,) = read_traces(document)
    shown = [" ".join(line.split()) for line in waterfall(trace)]
    assert shown == [" ".join(line.split()) for line in GOLDEN.splitlines()]
    assert [line for line in waterfall(trace) if line.startswith("NODE")] == [GOLDEN.splitlines()[-3]]


def test_bars_and_names_stand_in_columns() -> None:
    (trace,) = read_traces(jaeger())
    lines = [line for line in waterfall(trace) if "|" in line]
    assert len({line.index("|") for line in lines}) == 1
    assert all(len(line.split("|")[1]) == 40 for line in lines)


def test_a_trace_is_about_the_service_that_changed_and_its_slices() -> None:
    (trace,) = read_traces(jaeger())
    assert is_about(trace, "shop/web")
    assert not is_about(trace, "shop/we")
    assert not is_about(trace, "other/web")
    document = jaeger()
    document["data"][0]["spans"][0]["tags"][0]["value"] = "endpoint_slice shop/web-x7k2p"
    (sliced,) = read_traces(document)
    assert is_about(sliced, "shop/web")
    assert not is_about(sliced, "shop/x7k2p")


def test_of_very_many_nodes_the_slowest_are_shown() -> None:
    spans = [jaeger()["data"][0]["spans"][0]]
    for number in range(80):
        tags = [{"key": "k8s.node.name", "value": f"node-{number:02}"}]
        spans.append(
            spans[0] | {"spanID": f"s{number}", "operationName": "ack", "duration": 1000 + number, "tags": tags}
        )
    (trace,) = read_traces({"data": [{"spans": spans, "processes": {}}]})
    lines = list(waterfall(trace))
    assert lines[-1] == "and 30 faster nodes"
    assert "node-79" in "\n".join(lines)
    assert "node-10" not in "\n".join(lines)
    assert len(node_times(trace)) == 80


def test_the_data_of_a_trace_counts_from_its_beginning() -> None:
    (trace,) = read_traces(jaeger())
    data = trace_data(trace)
    assert (data["change"], data["durationMs"], len(data["spans"])) == ("service shop/web", 4.0, 7)
    assert data["nodes"][0] == {"node": "node-1", "sentMs": 1.2, "appliedMs": 3.5, "ackedMs": 4.0, "error": ""}


@pytest.mark.parametrize(
    "document",
    [[], {}, {"data": 7}, {"data": [{}]}, {"data": [{"spans": [{}]}]}, {"resourceSpans": [{"scopeSpans": 3}]}],
)
def test_what_is_no_trace_is_refused(document: Any) -> None:
    with pytest.raises(TraceFormatError):
        read_traces(document)
