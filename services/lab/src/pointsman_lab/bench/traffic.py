# SPDX-License-Identifier: Apache-2.0
"""The bench's own traffic, run by flows.py in a place of the lab, and the Service's endpoints meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from pointsman_lab.apiserver.resources import ENDPOINTSLICES
from pointsman_lab.bench.availability import EndpointTimeline, Record
from pointsman_lab.errors import NotConvergedError

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster

_RUN_SECONDS_MAX = 900.0
_POLL_SECONDS = 0.02
_LINE_BYTES_MAX = 1 << 20


class Traffic:
    """Every question that was asked and has ended, in the order of arrival here."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def wait_count(self, count: int, *, timeout_seconds: float = 60.0) -> None:
        """Wait until so many questions have ended; NotConvergedError when they do not in time."""
        deadline = time.monotonic() + timeout_seconds
        while len(self.records) < count:
            if time.monotonic() > deadline:
                raise NotConvergedError(f"{len(self.records)} of {count} connections within {timeout_seconds:g} s")
            await asyncio.sleep(_POLL_SECONDS)

    async def read_from(self, reader: asyncio.StreamReader) -> None:
        """Collect records until the stream ends."""
        while line := await reader.readline():
            self.records.append(Record(*json.loads(line)))


@contextlib.asynccontextmanager
async def traffic(cluster: Cluster, place: str, specs: Sequence[dict[str, Any]], name: str) -> AsyncIterator[Traffic]:
    """Run flows.py in a place as long as the body runs; at the end every question is answered or failed."""
    path = cluster.state.path / f"bench-{name}.sock"
    seen = Traffic()
    connected: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    reading: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reading.append(asyncio.ensure_future(seen.read_from(reader)))
        connected.set_result(writer)

    server = await asyncio.start_unix_server(serve, path, limit=_LINE_BYTES_MAX)
    command = [sys.executable, "-m", "pointsman_lab.bench.flows", str(path), json.dumps(list(specs))]
    running = asyncio.create_task(cluster.execute(place, command, timeout_seconds=_RUN_SECONDS_MAX))
    try:
        async with asyncio.timeout(10):
            writer = await connected
        yield seen
        writer.write_eof()
        await running
        await asyncio.gather(*reading)
    finally:
        server.close()
        path.unlink(missing_ok=True)
        if connected.done():
            connected.result().close()


@contextlib.asynccontextmanager
async def endpoint_timeline(cluster: Cluster, namespace: str, service: str) -> AsyncIterator[EndpointTimeline]:
    """Watch the EndpointSlices of a Service as long as the body runs."""
    timeline = EndpointTimeline()
    label = f"kubernetes.io/service-name={service}"
    listed = await cluster.api.list(ENDPOINTSLICES, namespace, labelSelector=label)
    for item in listed["items"]:
        timeline.see("ADDED", item, time.monotonic())

    async def follow() -> None:
        version = listed["metadata"]["resourceVersion"]
        async for event in cluster.api.watch(
            ENDPOINTSLICES, namespace, labelSelector=label, resourceVersion=version, timeoutSeconds="900"
        ):
            timeline.see(event.type, event.object, time.monotonic())

    task = asyncio.create_task(follow())
    try:
        yield timeline
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
