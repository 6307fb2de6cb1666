# SPDX-License-Identifier: Apache-2.0
"""pointsman.cluster.v1 ClusterService: moves the bytes of a `Subscription` to its stream.

The protocol is in proto/pointsman/cluster/v1/cluster_service.proto and in `core.subscription`; here are only the gate
(nothing before the first full state), the bound on streams, the waiting, and the heartbeat. gRPC's flow control is
what makes a slow reader slow: `write` returns when the transport took the message, and until then only keys gather.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import grpc.aio
import structlog

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import SlowConsumerError, UnavailableError, errors_to_status
from pointsman_chassis.server import raw_unary_stream
from pointsman_model.cluster import ClusterPosition
from pointsman_watcher.core.frames import heartbeat_response
from pointsman_watcher.core.subscription import MESSAGE_BYTES_MAX, Subscription
from pointsman_watcher.feed import ClusterFeed, Subscriber
from pointsman_watcher.metrics import WatcherMetrics
from pointsman_watcher.settings import StreamSettings

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["ClusterService"].full_name
_CLIENT_ID_CHARACTERS_MAX: Final = 128

Context = grpc.aio.ServicerContext[pb.WatchClusterRequest, bytes]


class ClusterService:
    """Serves WatchCluster from one feed."""

    def __init__(
        self,
        feed: ClusterFeed,
        *,
        settings: StreamSettings,
        metrics: WatcherMetrics,
        clock: Clock,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        self._feed = feed
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._message_bytes_max = message_bytes_max

    def methods(self) -> Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]:
        """The method handlers, for `GrpcServer.add_raw_service`."""
        handler = raw_unary_stream(self.watch_cluster, request_deserializer=pb.WatchClusterRequest.FromString)
        return {"WatchCluster": handler}

    async def watch_cluster(self, request: pb.WatchClusterRequest, context: Context) -> None:
        """One stream, until the reader leaves, falls too far behind, or this process ends."""
        async with errors_to_status(context):
            subscriber = self._subscribe(request)
            log = structlog.get_logger("stream").bind(
                client=request.client_id[:_CLIENT_ID_CHARACTERS_MAX], peer=context.peer()
            )
            log.info("stream opened", resume=subscriber.subscription.is_resume, revision=self._feed.store.revision)
            try:
                await self._serve(subscriber, context)
            finally:
                self._feed.unsubscribe(subscriber)
                log.info("stream closed", pending_keys=subscriber.subscription.pending_count)

    def _subscribe(self, request: pb.WatchClusterRequest) -> Subscriber:
        """The gate and the bound; the subscription begins at this moment's revision."""
        feed = self._feed
        if feed.is_closed:
            raise UnavailableError("this watcher is stopping; connect to another")
        if not feed.is_in_sync:
            self._metrics.streams.labels("not_in_sync").inc()
            missing = ", ".join(feed.unsynced_kinds)
            raise UnavailableError(f"this watcher is not in sync yet, it still lists {missing}; try again or another")
        if feed.subscriber_count >= self._settings.subscribers_max:
            self._metrics.streams.labels("too_many").inc()
            raise SlowConsumerError(
                f"this watcher serves {feed.subscriber_count} streams, as many as stream.subscribersMax allows"
            )
        resume = request.resume if request.HasField("resume") else None
        subscription = Subscription(
            feed.store,
            resume=ClusterPosition(epoch=resume.epoch, revision=resume.revision) if resume else None,
            heartbeat_interval_ms=round(self._settings.heartbeat_interval * 1000),
            pending_keys_max=self._settings.pending_keys_max,
            message_bytes_max=self._message_bytes_max,
        )
        self._metrics.streams.labels("resume" if subscription.is_resume else "snapshot").inc()
        subscriber = Subscriber(subscription)
        feed.subscribe(subscriber)
        return subscriber

    async def _serve(self, subscriber: Subscriber, context: Context) -> None:
        subscription = subscriber.subscription
        while True:
            if self._feed.is_closed:
                raise UnavailableError("this watcher is stopping; connect to another")
            if subscription.is_overrun:
                self._metrics.overruns.inc()
                waiting = subscription.pending_count
                raise SlowConsumerError(f"{waiting} changed objects wait for this reader; connect again for a snapshot")
            subscriber.wake.clear()
            message = subscription.next_message()
            if message is None:
                message = await self._wait(subscriber)
                if message is None:
                    continue
            await context.write(message)
            self._metrics.sent_messages.inc()
            self._metrics.sent_bytes.inc(len(message))

    async def _wait(self, subscriber: Subscriber) -> bytes | None:
        """None once something may have changed, or the heartbeat after a silence."""
        try:
            async with asyncio.timeout(self._settings.heartbeat_interval):
                await subscriber.wake.wait()
        except TimeoutError:
            feed = self._feed
            return heartbeat_response(
                feed.store.revision, self._clock.wall_ns(), feed.store.resource_versions, feed.last_contact_ns
            )
        return None
