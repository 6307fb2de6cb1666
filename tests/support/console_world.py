# SPDX-License-Identifier: Apache-2.0
"""A planner with its console on loopback, as many nodes as wanted, and a reader of the console's stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pointsman_chassis.clock import SystemClock
from pointsman_planner.console.page import Console
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.plan_server import DEADLINE_SECONDS, PlanServer, plan_server

CLUSTER = (
    service("shop/web", "10.96.0.1", ports=["p:80"]),
    endpoint_slice(
        "shop/web-x",
        "web",
        [endpoint("10.1.0.1", node="node-0001"), endpoint("10.1.0.2", node="node-0002", ready=False)],
        ["p:8080"],
    ),
)


def node_names(count: int) -> list[str]:
    """Names of so many nodes."""
    return [f"node-{number:04}" for number in range(1, count + 1)]


@asynccontextmanager
async def console_of(server: PlanServer) -> AsyncIterator[int]:
    """The console of a planner; yields its port."""
    console = Console(
        planner=server.planner, control=server.control, planner_id=server.plans.planner_id, clock=SystemClock()
    )
    port = await console.listen("127.0.0.1:0")
    try:
        yield port
    finally:
        await console.close()


@asynccontextmanager
async def console_world(nodes: int) -> AsyncIterator[tuple[PlanServer, int]]:
    """A planner with a Service and so many nodes, none of them connected, and the port of its console."""
    async with plan_server() as server:
        server.put(*CLUSTER, *(node(name, "192.168.0.2") for name in node_names(nodes)))
        async with console_of(server) as port:
            yield server, port


async def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One request; status, headers in lower case, body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_request(path, {"Host": f"localhost:{port}", **headers}))
        async with asyncio.timeout(DEADLINE_SECONDS):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    status, fields = _parse(head)
    return status, fields, body


def _request(path: str, headers: dict[str, str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


class StreamReader:
    """A page, as the planner sees it: what it knows of the nodes, and the bytes that it was sent."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.states: dict[str, str] = {}
        self.changes: dict[int, dict[str, Any]] = {}
        self.resets = 0
        self.bytes = 0
        self.token = ""
        self.last: dict[str, Any] = {}

    async def next(self) -> dict[str, Any]:
        """The next message that says something."""
        while True:
            async with asyncio.timeout(DEADLINE_SECONDS):
                block = await self._reader.readuntil(b"\n\n")
            self.bytes += len(block)
            fields = dict(line.split(": ", 1) for line in block.decode().strip().splitlines())
            if "data" in fields:
                break
        self.token = fields.get("id", self.token)
        self.last = json.loads(fields["data"])
        if self.last["reset"]:
            self.resets += 1
            self.states.clear()
        self.states.update(self.last["nodes"])
        for name in self.last["gone"]:
            self.states.pop(name, None)
        self.changes.update({change["number"]: change for change in self.last["changes"]})
        return self.last

    async def until(self, nodes: int) -> None:
        """Read until so many nodes are known."""
        while len(self.states) < nodes:
            await self.next()


@asynccontextmanager
async def stream(port: int, *, token: str = "") -> AsyncIterator[StreamReader]:
    """An open stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        headers = {"Host": f"127.0.0.1:{port}", **({"Last-Event-ID": token} if token else {})}
        writer.write(_request("/api/stream", headers))
        async with asyncio.timeout(DEADLINE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        status, fields = _parse(head.removesuffix(b"\r\n\r\n"))
        assert (status, fields["content-type"]) == (200, "text/event-stream")
        yield StreamReader(reader)
    finally:
        writer.close()
