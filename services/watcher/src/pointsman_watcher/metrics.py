# SPDX-License-Identifier: Apache-2.0
"""The watcher's figures. Labels are a resource, a kind of outcome, never an object."""

from typing import Final

from pointsman_chassis.metrics import Registry

_LATENCY_BUCKETS_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)


class WatcherMetrics:
    """All metrics of this process, made once from the registry."""

    def __init__(self, registry: Registry) -> None:
        self.objects = registry.gauge("pointsman_watcher_objects", "Objects streamed to planners.", ["resource"])
        self.revision = registry.gauge("pointsman_watcher_revision", "Newest revision of this watcher's epoch.")
        self.in_sync = registry.gauge("pointsman_watcher_in_sync", "1 once all resources were listed completely.")
        self.events = registry.counter(
            "pointsman_watcher_events_total",
            "Objects received, by whether their normalised bytes differed from what was known.",
            ["resource", "outcome"],
        )
        self.event_latency = registry.histogram(
            "pointsman_watcher_event_latency_seconds",
            "From the bytes of a watch event to the change being handed to every subscriber.",
            buckets=_LATENCY_BUCKETS_SECONDS,
        )
        self.faulty_fields = registry.counter(
            "pointsman_watcher_faulty_fields_total", "Fields left out because they cannot be read.", ["resource"]
        )
        self.rejected_objects = registry.counter(
            "pointsman_watcher_rejected_objects_total",
            "Objects that cannot be read at all; the last good state of each is kept.",
            ["resource"],
        )
        self.lists = registry.counter("pointsman_watcher_lists_total", "Complete lists, by way.", ["resource", "way"])
        self.version_regressions = registry.counter(
            "pointsman_watcher_resource_version_regressions_total",
            "Times the API server came back older than what was read before, as after a restore from a backup.",
            ["resource"],
        )
        self.watch_ends = registry.counter(
            "pointsman_watcher_watch_ends_total", "Watches that ended, by reason.", ["resource", "reason"]
        )
        self.request_failures = registry.counter(
            "pointsman_watcher_request_failures_total",
            "Requests to the API server that were refused or not answered, by HTTP status (0: no answer).",
            ["resource", "code"],
        )
        self.last_contact = registry.gauge(
            "pointsman_watcher_last_contact_timestamp_seconds",
            "When the API server last sent anything for this resource (bookmarks included).",
            ["resource"],
        )
        self.subscribers = registry.gauge("pointsman_watcher_subscribers", "Open WatchCluster streams.")
        self.streams = registry.counter(
            "pointsman_watcher_streams_total",
            "WatchCluster calls, by how they began: snapshot, resume, not_in_sync, too_many.",
            ["start"],
        )
        self.sent_messages = registry.counter("pointsman_watcher_sent_messages_total", "Messages written to streams.")
        self.sent_bytes = registry.counter("pointsman_watcher_sent_bytes_total", "Bytes written to streams.")
        self.conflated = registry.counter(
            "pointsman_watcher_conflated_changes_total", "Changes merged because a reader had not taken the one before."
        )
        self.overruns = registry.counter(
            "pointsman_watcher_overruns_total", "Streams ended because too many changed keys waited for their reader."
        )
