# SPDX-License-Identifier: Apache-2.0
"""Instants at the API server: when the demo's own watch saw an endpoint become ready, or stop being so."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from pointsman_lab.apiserver.resources import ENDPOINTSLICES

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster


class EndpointClock:
    """First instants, on CLOCK_MONOTONIC, at which pods were ready (or no longer ready) in a Service's slices.

    An instant is when a watch event arrived here, a fraction of a millisecond after the write at the API server, and
    at the same moment as Pointsman's watcher sees it.
    """

    def __init__(self) -> None:
        self.ready: dict[str, float] = {}
        self.left: dict[str, float] = {}

    def see(self, slice_object: dict[str, Any], at: float) -> None:
        """Take in one state of a slice."""
        ready = {
            endpoint["targetRef"]["name"]
            for endpoint in slice_object.get("endpoints") or ()
            if endpoint.get("targetRef") and (endpoint.get("conditions") or {}).get("ready", True)
        }
        for pod in ready:
            self.ready.setdefault(pod, at)
            self.left.pop(pod, None)
        for pod in self.ready.keys() - ready:
            self.left.setdefault(pod, at)


@contextlib.asynccontextmanager
async def endpoint_clock(cluster: Cluster, namespace: str, service: str) -> AsyncIterator[EndpointClock]:
    """Watch a Service's EndpointSlices as long as the body runs."""
    clock = EndpointClock()
    label = f"kubernetes.io/service-name={service}"
    listed = await cluster.api.list(ENDPOINTSLICES, namespace, labelSelector=label)
    for item in listed["items"]:
        clock.see(item, time.monotonic())

    async def follow() -> None:
        version = listed["metadata"]["resourceVersion"]
        async for event in cluster.api.watch(
            ENDPOINTSLICES, namespace, labelSelector=label, resourceVersion=version, timeoutSeconds="300"
        ):
            clock.see(event.object, time.monotonic())

    task = asyncio.create_task(follow())
    try:
        yield clock
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
