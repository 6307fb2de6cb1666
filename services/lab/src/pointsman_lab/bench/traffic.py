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


class SliceEvents:
    """The events of a Service's EndpointSlices while they were watched."""

    def __init__(self, cluster: Cluster, listed: dict[str, Any]) -> None:
        self._cluster = cluster
        self._started = time.monotonic()
        self.seen = [("ADDED", item) for item in listed["items"]]
        self._initial = len(self.seen)

    async def timeline(self) -> EndpointTimeline:
        """The endpoints over time, by when the API server committed each change.

        When the events came here says less: whoever hears first acts first, and that may be Pointsman.
        """
        path = f"/lab/v1/commits/{ENDPOINTSLICES.plural}"
        committed = await self._cluster.api.request("GET", path)
        timeline = EndpointTimeline()
        for index, (kind, item) in enumerate(self.seen):
            at = self._started if index < self._initial else committed[item["metadata"]["resourceVersion"]]
            timeline.see(kind, item, at)
        return timeline


@contextlib.asynccontextmanager
async def slice_events(cluster: Cluster, namespace: str, service: str) -> AsyncIterator[SliceEvents]:
    """Watch the EndpointSlices of a Service as long as the body runs."""
    label = f"kubernetes.io/service-name={service}"
    listed = await cluster.api.list(ENDPOINTSLICES, namespace, labelSelector=label)
    events = SliceEvents(cluster, listed)

    async def follow() -> None:
        version = listed["metadata"]["resourceVersion"]
        async for event in cluster.api.watch(
            ENDPOINTSLICES, namespace, labelSelector=label, resourceVersion=version, timeoutSeconds="900"
        ):
            if event.type != "BOOKMARK":
                events.seen.append((event.type, event.object))

    task = asyncio.create_task(follow())
    try:
        yield events
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
