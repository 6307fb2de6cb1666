# SPDX-License-Identifier: Apache-2.0
"""Follows the cluster through any of several watchers, for as long as the process lives.

Losing a watcher loses nothing: the planner keeps what it holds, the next address is tried after a jittered delay,
and the stream resumes where it left off if that watcher knows the history, else brings a snapshot that is applied as
a difference. A watcher that has read less of the API server than what is held is waited for, and not believed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import structlog

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman.cluster.v1 import cluster_service_pb2_grpc as pb_grpc
from pointsman_chassis.backoff import Backoff
from pointsman_chassis.channel import open_channel
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.tls import TransportSecurity
from pointsman_model.cluster import Change, ClusterPosition
from pointsman_model.wire import WireError
from pointsman_model.wire.cluster import change_from_pb
from pointsman_model.wire.positions import resource_versions_from_pb
from pointsman_planner.core.feed_state import FeedProtocolError, FeedState, MassDeleteGuard, MassDeleteHeldError
from pointsman_planner.core.freshness import Freshness, FreshnessSettings, OlderWatcherError
from pointsman_planner.core.planner import Batch, Planner
from pointsman_planner.metrics import PlannerMetrics

_SILENT_INTERVALS_MAX = 3
_OPENED_TIMEOUT_SECONDS = 10.0
_CATCH_UP_LOOK_SECONDS = 0.25
_HEARTBEAT_SECONDS_MIN = 0.05
_HEARTBEAT_SECONDS_MAX = 300.0


class ClusterFeed:
    """Reads WatchCluster and hands complete batches to `on_batch`, on the event loop, in order."""

    def __init__(
        self,
        *,
        addresses: Sequence[str],
        client_id: str,
        security: TransportSecurity,
        planner: Planner,
        guard: MassDeleteGuard,
        on_batch: Callable[[Batch], None],
        metrics: PlannerMetrics,
        freshness: FreshnessSettings | None = None,
        now: Callable[[], float] = time.monotonic,
        backoff: Backoff | None = None,
    ) -> None:
        self._addresses = tuple(addresses)
        self._client_id = client_id
        self._security = security
        self._planner = planner
        self._guard = guard
        self._now = now
        self._catching_up_since = 0.0
        self._freshness = Freshness(freshness, now=now, on_older=self._believe_older)
        self._on_batch = on_batch
        self._metrics = metrics
        self._backoff = backoff or Backoff(initial_seconds=0.1, maximum_seconds=5.0)

    async def run(self) -> None:
        """Follow for ever; only cancellation ends it."""
        log = structlog.get_logger("cluster_feed")
        attempt = 0
        while True:
            address = self._addresses[attempt % len(self._addresses)]
            reason, detail = await self._follow(address)
            self._metrics.feed_connected.set(0)
            self._metrics.feed_disconnects.labels(reason).inc()
            attempt += 1
            delay = self._backoff.next_seconds()
            log.warning(
                "watcher stream ended", watcher=address, reason=reason, detail=detail, retry_seconds=round(delay, 3)
            )
            await asyncio.sleep(delay)

    async def _follow(self, address: str) -> tuple[str, str]:
        """Follow one watcher until its stream ends; says why it did."""
        try:
            channel = open_channel(address, security=self._security)
        except ConfigError as error:
            # They were usable at the start: somebody is replacing them, and is not done yet.
            return "certificates", str(error)
        try:
            return await self._follow_on(channel, address)
        finally:
            await channel.close()

    async def _follow_on(self, channel: grpc.aio.Channel, address: str) -> tuple[str, str]:
        try:
            await self._read(pb_grpc.ClusterServiceStub(channel), address)
        except grpc.aio.AioRpcError as error:
            return error.code().name.lower(), error.details() or ""
        except TimeoutError:
            return "silence", "nothing was heard for three heartbeat intervals"
        except (FeedProtocolError, WireError) as error:
            return "protocol", str(error)
        except MassDeleteHeldError as error:
            self._metrics.mass_deletes_held.inc()
            self._metrics.is_holding.set(1)
            structlog.get_logger("cluster_feed").error("mass deletion held", watcher=address, detail=str(error))
            return "held", str(error)
        except OlderWatcherError as error:
            self._metrics.is_older_held.set(1)
            structlog.get_logger("cluster_feed").error(
                "a watcher is older than what is held, and is not believed yet",
                watcher=address,
                detail=str(error),
                hold_seconds=round(self._freshness.hold_left_seconds, 1),
            )
            return "older", str(error)
        return "ended", "the watcher closed the stream"

    async def _read(self, stub: Any, address: str) -> None:
        resume = self._planner.position if self._planner.is_in_sync and not self._guard.is_holding else None
        request = pb.WatchClusterRequest(client_id=self._client_id)
        if resume is not None:
            request.resume.epoch, request.resume.revision = resume.epoch, resume.revision
        state = FeedState(self._planner.cluster, self._guard, self._freshness, resume)
        call = stub.WatchCluster(request)
        silence = _OPENED_TIMEOUT_SECONDS
        try:
            while True:
                message = await self._next(call, state, silence, address)
                if message is grpc.aio.EOF:
                    await _raise_status(call)
                    return
                if message.HasField("opened"):
                    silence = _SILENT_INTERVALS_MAX * _heartbeat_seconds(message.opened)
                self._take(state, message, address)
        finally:
            call.cancel()

    async def _next(self, call: Any, state: FeedState, silence: float, address: str) -> Any:
        """The next message. While the watcher catches up, a look at the clock now and then.

        Raises:
            TimeoutError: nothing came for too long.
            OlderWatcherError: it took too long to catch up, and there are others to ask.
        """
        if not state.is_catching_up:
            async with asyncio.timeout(silence):
                return await call.read()
        # A task, because a read that is given up ends the call.
        reading = asyncio.ensure_future(call.read())
        try:
            async with asyncio.timeout(silence):
                while not (await asyncio.wait({reading}, timeout=_CATCH_UP_LOOK_SECONDS))[0]:
                    if state.is_catching_up:
                        self._look_again(state, address)
            return reading.result()
        finally:
            reading.cancel()

    def _look_again(self, state: FeedState, address: str) -> None:
        batch = state.catch_up()
        if batch is not None:
            self._synced(batch, address)
        elif self._now() - self._catching_up_since > self._freshness.settings.patience_seconds and self._has_others:
            raise state.older()

    @property
    def _has_others(self) -> bool:
        return len(self._addresses) > 1

    def _take(self, state: FeedState, message: pb.WatchClusterResponse, address: str) -> None:
        kind = message.WhichOneof("message")
        was_in_sync = state.is_in_sync
        batch: Batch | None = None
        if kind == "opened":
            if message.opened.start not in {pb.Opened.START_SNAPSHOT, pb.Opened.START_RESUME}:
                raise FeedProtocolError(f"opened.start: {message.opened.start} is not known")
            state.opened(message.opened.epoch, is_snapshot=message.opened.start == pb.Opened.START_SNAPSHOT)
        elif kind == "delta":
            delta = message.delta
            versions = resource_versions_from_pb(delta.resource_versions)
            batch = state.delta(delta.revision, self._changes(delta), is_complete=delta.complete, versions=versions)
        elif kind == "in_sync":
            batch = state.in_sync(
                message.in_sync.revision, resource_versions_from_pb(message.in_sync.resource_versions)
            )
            if batch is None:
                self._wait_for(state, address)
        elif kind == "heartbeat":
            heartbeat = message.heartbeat
            batch = state.heartbeat(heartbeat.revision, resource_versions_from_pb(heartbeat.resource_versions))
        elif kind is None:
            raise FeedProtocolError("a message without content")
        if batch is not None and state.is_in_sync and not was_in_sync:
            self._synced(batch, address)
        elif batch is not None:
            self._on_batch(batch)
            self._metrics.is_older_held.set(self._freshness.is_holding)

    def _wait_for(self, state: FeedState, address: str) -> None:
        """The watcher is older than what is held: what it says grows, and is taken in when it is not any more."""
        self._catching_up_since = self._now()
        self._metrics.is_older_held.set(1)
        structlog.get_logger("cluster_feed").warning(
            "a watcher has to catch up with what is held", watcher=address, detail=str(state.older())
        )

    def _synced(self, batch: Batch, address: str) -> None:
        """The stream's first state is taken in."""
        self._backoff.reset()
        self._metrics.feed_connected.set(1)
        self._metrics.is_holding.set(0)
        self._metrics.is_older_held.set(0)
        structlog.get_logger("cluster_feed").info(
            "in sync with a watcher", watcher=address, position=_text(batch.position)
        )
        self._on_batch(batch)

    def _believe_older(self, reason: str) -> None:
        self._metrics.older_believed.inc()
        structlog.get_logger("cluster_feed").error(
            "an older state of the cluster is taken in, since nothing newer came: was the API server restored from a "
            "backup? If not, look at the watchers",
            detail=reason,
        )

    def _changes(self, delta: pb.Delta) -> list[Change]:
        """Decode; one malformed change is logged, counted and skipped, the rest goes on."""
        changes = []
        for message in delta.changes:
            try:
                changes.append(change_from_pb(message))
            except WireError as error:
                self._metrics.malformed.inc()
                structlog.get_logger("cluster_feed").error("change skipped", error=str(error))
        self._metrics.changes.inc(len(changes))
        return changes


async def _raise_status(call: Any) -> None:
    """An ended stream with a status other than OK is an error like any other."""
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code, await call.initial_metadata(), await call.trailing_metadata(), details=await call.details()
        )


def _heartbeat_seconds(opened: pb.Opened) -> float:
    return min(max(opened.heartbeat_interval_ms / 1000, _HEARTBEAT_SECONDS_MIN), _HEARTBEAT_SECONDS_MAX)


def _text(position: ClusterPosition) -> str:
    return f"{position.epoch}/{position.revision}"
