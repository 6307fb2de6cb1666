# SPDX-License-Identifier: Apache-2.0
"""Where reflectors and subscribers meet: applies what arrives to the store, traces it, and marks every subscriber.

One call is one batch, one batch that changes something is one revision. Nothing waits here: a batch is what was in the
socket already. Runs on one event loop, so a call is atomic for subscribers.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from pointsman_chassis.clock import Clock
from pointsman_chassis.tracing import Span, Tracing
from pointsman_model.cluster import ObjectKey, ObjectKind, version_number
from pointsman_watcher.core.decode import Item, Observed
from pointsman_watcher.core.frames import decode_trace
from pointsman_watcher.core.object_store import ObjectStore, Update
from pointsman_watcher.core.resources import Resource
from pointsman_watcher.core.subscription import Subscription
from pointsman_watcher.metrics import WatcherMetrics
from pointsman_watcher.problem_log import ProblemLog

_ALL_KINDS: Final = frozenset(ObjectKind)


class Subscriber:
    """A subscription and the means to wake its stream."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.wake = asyncio.Event()


class ClusterFeed:
    """The one writer of the store."""

    def __init__(self, *, store: ObjectStore, tracing: Tracing, metrics: WatcherMetrics, clock: Clock) -> None:
        self.store = store
        self._tracing = tracing
        self._metrics = metrics
        self._clock = clock
        self._problems = ProblemLog(metrics)
        self._synced: set[ObjectKind] = set()
        self._in_sync = asyncio.Event()
        self._subscribers: set[Subscriber] = set()
        self.is_closed = False
        self.last_contact_ns = 0
        """When the API server was heard of last; 0 = never."""

    @property
    def is_in_sync(self) -> bool:
        """Whether every kind was listed completely at least once.

        Never taken back: losing the API server is no reason to stop serving what is known (fail static).
        """
        return self._in_sync.is_set()

    async def wait_in_sync(self) -> None:
        """Return once `is_in_sync`."""
        await self._in_sync.wait()

    @property
    def unsynced_kinds(self) -> list[str]:
        """The kinds that are still missing, for people."""
        return sorted(kind.name.lower() for kind in _ALL_KINDS - self._synced)

    def contact(self, received_ns: int) -> None:
        """The API server said something."""
        self.last_contact_ns = max(self.last_contact_ns, received_ns)

    def observe(self, resource: Resource, items: Iterable[Item], received_ns: int, version: str) -> None:
        """Apply watch events, in the order they came; with them, `version` of the resource is reached."""
        updates = self._updates(resource, items, received_ns)
        if updates:
            self._commit(resource, updates, received_ns)
        self._read_up_to(resource, version)

    def replace(self, resource: Resource, items: Sequence[Item], received_ns: int, version: str) -> None:
        """Apply a complete list: only what differs from what is known becomes a change.

        An object that the list names but that cannot be read keeps its last good state.
        """
        updates = self._updates(resource, items, received_ns)
        listed = {item.key for item in items if item.key is not None}
        updates += [
            Update(key=key, body=None, observed_at_ns=received_ns)
            for key in self.store.missing_from(resource.kind, listed)
        ]
        self._commit(resource, updates, received_ns)
        self._read_up_to(resource, version)
        self._mark_synced(resource)

    def _read_up_to(self, resource: Resource, version: str) -> None:
        before = self.store.resource_versions.of(resource.kind)
        if self.store.read_up_to(resource.kind, version_number(version)):
            self._metrics.version_regressions.labels(resource.plural).inc()
            structlog.get_logger("feed").error(
                "the API server is older than what was read before: was it restored from a backup? Planners hold what "
                "they have for a time before they believe it",
                resource=resource.plural,
                read=before,
                now=version,
            )

    def subscribe(self, subscriber: Subscriber) -> None:
        """Mark and wake this subscriber from the next change on; it must have been made in the same loop turn."""
        self._subscribers.add(subscriber)
        self._metrics.subscribers.set(len(self._subscribers))

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Forget a subscriber."""
        self._subscribers.discard(subscriber)
        self._metrics.subscribers.set(len(self._subscribers))
        self._metrics.conflated.inc(subscriber.subscription.conflated_count)

    @property
    def subscriber_count(self) -> int:
        """Streams that are open."""
        return len(self._subscribers)

    def close(self) -> None:
        """This process is ending: every stream wakes, sees `is_closed` and sends its reader to another watcher."""
        self.is_closed = True
        for subscriber in self._subscribers:
            subscriber.wake.set()

    def _updates(self, resource: Resource, items: Iterable[Item], received_ns: int) -> list[Update]:
        updates: list[Update] = []
        for item in items:
            self._problems.report(resource.kind, resource.plural, item)
            if isinstance(item, Observed):
                updates.append(
                    Update(
                        key=item.key,
                        body=item.body,
                        resource_version=item.resource_version,
                        observed_at_ns=received_ns,
                    )
                )
        return updates

    def _commit(self, resource: Resource, updates: Sequence[Update], received_ns: int) -> None:
        changes = self.store.real_changes(updates)
        plural = resource.plural
        if len(changes) < len(updates):
            self._metrics.events.labels(plural, "unchanged").inc(len(updates) - len(changes))
        if not changes:
            return
        spans: dict[ObjectKey, tuple[Span, bytes]] = {}
        # What an initial list brings did not happen now: nobody wants its trace.
        if self._tracing.is_enabled and resource.kind in self._synced:
            changes, spans = self._traced(changes, received_ns)
        revision = self.store.commit(changes)
        merged = self._notify([change.key for change in changes])
        for key, (span, before) in spans.items():
            span.set("revision", revision)
            if key in merged:
                span.link(decode_trace(before))
            span.end()
        self._metrics.events.labels(plural, "changed").inc(len(changes))
        self._metrics.objects.labels(plural).set(self.store.count(resource.kind))
        self._metrics.revision.set(revision)
        if resource.kind in self._synced:
            self._metrics.event_latency.observe(max(0.0, (self._clock.wall_ns() - received_ns) / 1e9))

    def _traced(
        self, changes: Sequence[Update], received_ns: int
    ) -> tuple[list[Update], dict[ObjectKey, tuple[Span, bytes]]]:
        """The changes with their traceparents; of those that are sampled, the span and the trace of the one before."""
        traced: list[Update] = []
        spans: dict[ObjectKey, tuple[Span, bytes]] = {}
        for change in changes:
            # Another watcher sees the same event: its spans belong to the same trace.
            event = f"{change.key} {change.resource_version}"
            span = self._tracing.start_trace("watch.event", start_ns=received_ns, event=event)
            traced.append(change.traced(span.traceparent))
            if span.is_sampled:
                span.set("object", str(change.key))
                span.set("resourceVersion", change.resource_version)
                span.set("removed", change.body is None)
                spans[change.key] = span, self.store.entry(change.key).trace
        return traced, spans

    def _notify(self, keys: Sequence[ObjectKey]) -> set[ObjectKey]:
        """Wake every subscriber; returns the keys whose change before some of them will never see."""
        merged: set[ObjectKey] = set()
        for subscriber in self._subscribers:
            merged.update(subscriber.subscription.mark(keys))
            subscriber.wake.set()
        return merged

    def _mark_synced(self, resource: Resource) -> None:
        if resource.kind in self._synced:
            return
        self._synced.add(resource.kind)
        log = structlog.get_logger("feed")
        count = self.store.count(resource.kind)
        self._metrics.objects.labels(resource.plural).set(count)
        log.info("first list is complete", resource=resource.plural, objects=count)
        if self._synced == _ALL_KINDS:
            self._in_sync.set()
            self._metrics.in_sync.set(1)
            log.info("in sync", objects=len(self.store), revision=self.store.revision, epoch=self.store.epoch)
