# SPDX-License-Identifier: Apache-2.0
"""`pointsmanctl trace` asks Jaeger's HTTP API or reads a file, and says what is wrong when there is nothing to show."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from support.pointsmanctl import pointsmanctl


def trace(trace_id: str, what: str, start: int) -> dict[str, Any]:
    span = {
        "traceID": trace_id,
        "spanID": "1",
        "operationName": "watch.event",
        "references": [],
        "startTime": start,
        "duration": 10,
        "processID": "p1",
        "tags": [{"key": "object", "type": "string", "value": what}],
    }
    return {"traceID": trace_id, "spans": [span], "processes": {"p1": {"serviceName": "pointsman-watcher", "tags": []}}}


class Jaeger:
    """Answers as Jaeger does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.traces = {
            "a" * 32: trace("a" * 32, "service shop/web", 1000),
            "b" * 32: trace("b" * 32, "service shop/cart", 2000),
        }
        jaeger = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                jaeger.answer(self)

            def log_message(self, *_: object) -> None:
                """Be silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        url = urlsplit(handler.path)
        if url.path == "/api/traces":
            found = list(self.traces.values())
        else:
            found = [self.traces[name] for name in [url.path.rpartition("/")[2]] if name in self.traces]
        body = json.dumps({"data": found, "errors": None}).encode()
        handler.send_response(200 if found else 404)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@pytest.fixture
def jaeger() -> Iterator[Jaeger]:
    made = Jaeger()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


async def test_the_newest_trace_of_jaeger_is_shown(jaeger: Jaeger) -> None:
    ran = await pointsmanctl("trace", "--jaeger", jaeger.url, "--lookback", "10m")
    assert ran.status == 0, ran.stderr
    assert ran.lines[0].startswith("service shop/cart   trace bbbb")
    query = parse_qs(urlsplit(jaeger.asked[0]).query)
    assert (query["service"], query["lookback"]) == (["pointsman-watcher"], ["600s"])


async def test_a_trace_is_found_by_its_id_or_by_the_service_that_changed(jaeger: Jaeger) -> None:
    by_id = await pointsmanctl("trace", "a" * 32, environment={"POINTSMAN_JAEGER": jaeger.url + "/"})
    assert by_id.lines[0].startswith("service shop/web ")
    assert jaeger.asked == ["/api/traces/" + "a" * 32]
    by_service = await pointsmanctl("trace", "--service", "shop/web", "--jaeger", jaeger.url, "-o", "json")
    assert [item["change"] for item in by_service.data["items"]] == ["service shop/web"]


async def test_traces_of_a_file_are_shown_without_any_server(jaeger: Jaeger, tmp_path: Path) -> None:
    file = tmp_path / "traces.json"
    file.write_text(json.dumps({"data": list(jaeger.traces.values())}))
    ran = await pointsmanctl("trace", "--file", str(file), "--limit", "5")
    assert [line.split("   ")[0] for line in ran.lines if "trace " in line] == ["service shop/cart", "service shop/web"]
    assert jaeger.asked == []


async def test_a_change_that_was_not_traced_is_a_failure_with_a_hint(jaeger: Jaeger) -> None:
    ran = await pointsmanctl("trace", "--service", "shop/nothing", "--jaeger", jaeger.url)
    assert ran.status == 1
    assert "OTEL_TRACES_SAMPLER" in ran.stderr
