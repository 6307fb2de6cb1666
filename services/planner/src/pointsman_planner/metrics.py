# SPDX-License-Identifier: Apache-2.0
"""The planner's figures, made once at the composition root."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pointsman_chassis.metrics import Registry
from pointsman_planner.core.plan_cache import CacheStatistics

_NODE_BUCKETS: Final = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)


class PlannerMetrics:
    """Every metric of the planner; names begin with `pointsman_planner_`."""

    def __init__(self, registry: Registry) -> None:
        prefix = "pointsman_planner"
        self.feed_connected = registry.gauge(f"{prefix}_feed_connected", "1 while a watcher's stream is in sync.")
        self.feed_disconnects = registry.counter(
            f"{prefix}_feed_disconnects_total", "Streams from watchers that ended.", ["reason"]
        )
        self.changes = registry.counter(f"{prefix}_changes_total", "Object changes taken in.")
        self.malformed = registry.counter(
            f"{prefix}_malformed_changes_total", "Changes from a watcher that were skipped."
        )
        self.mass_deletes_held = registry.counter(
            f"{prefix}_mass_deletes_held_total", "Snapshots and deltas held back by the mass-delete guard."
        )
        self.is_holding = registry.gauge(f"{prefix}_mass_delete_holding", "1 while the mass-delete guard holds.")
        self.is_older_held = registry.gauge(
            f"{prefix}_feed_older_holding", "1 while a watcher that has read less than what is held is not believed."
        )
        self.older_believed = registry.counter(
            f"{prefix}_feed_older_believed_total", "Times an older state was taken in after the hold time."
        )
        self.revision = registry.gauge(f"{prefix}_revision", "Revision of the cluster that plans speak of.")
        self.services = registry.gauge(f"{prefix}_services", "Services held.")
        self.nodes = registry.gauge(f"{prefix}_nodes", "Nodes held.")
        self.streams = registry.gauge(f"{prefix}_streams", "Enforcers connected.")
        self.compute = registry.histogram(
            f"{prefix}_compute_duration_seconds", "Time to take in one batch, until sessions are marked."
        )
        self._register_sending(registry)

    def _register_sending(self, registry: Registry) -> None:
        prefix = "pointsman_planner"
        self.acknowledged = registry.histogram(
            f"{prefix}_node_programming_duration_seconds", "Transaction built until the node's kernel has it."
        )
        self.transactions = registry.counter(f"{prefix}_transactions_total", "Transactions sent.")
        self.bytes_sent = registry.counter(f"{prefix}_sent_bytes_total", "Bytes of transactions sent.")
        self.nacks = registry.counter(f"{prefix}_nacked_services_total", "Services that nodes refused.")
        self.conditions = registry.gauge(
            f"{prefix}_service_conditions",
            "Trouble with services on connected nodes that is no failure to program them, by kind.",
            ["kind"],
        )
        self.resyncs = registry.counter(f"{prefix}_resyncs_total", "Digest mismatches that nodes reported.")
        self.mismatches = registry.counter(
            f"{prefix}_digest_mismatches_total", "Acks and heartbeats with an unexpected digest."
        )
        self.rejected = registry.counter(
            f"{prefix}_streams_closed_total", "Streams that the planner closed.", ["reason"]
        )
        self.feed_lag = registry.histogram(
            f"{prefix}_feed_lag_seconds",
            "From the watcher receiving a change until it was taken in here, by both machines' clocks.",
        )
        self.fan_out = registry.histogram(
            f"{prefix}_fan_out_nodes", "Nodes that were given something to do by one batch.", buckets=_NODE_BUCKETS
        )

    def cache(self, registry: Registry, statistics: Callable[[], CacheStatistics]) -> None:
        """Figures of plans that nodes share, computed when they are asked for."""
        prefix = "pointsman_planner"
        cached = registry.gauge(f"{prefix}_cached_plans", "Encoded plans in memory.")
        cached.set_function(lambda: statistics().entries)
        size = registry.gauge(f"{prefix}_cached_bytes", "Size of the encoded plans in memory.")
        size.set_function(lambda: statistics().bytes)
        registry.computed_counter(
            f"{prefix}_encoded_plans_total",
            "Plans computed and encoded: once for all nodes that share them.",
            lambda: statistics().encoded,
        )
        registry.computed_counter(
            f"{prefix}_served_plans_total",
            "Plans put into transactions; those that were not encoded for it were shared.",
            lambda: statistics().served,
        )
        registry.computed_counter(
            f"{prefix}_oversized_plans_total",
            "Plans too large for a message: nodes refuse the Service.",
            lambda: statistics().oversized,
        )


class ControlMetrics:
    """Figures of the control API; names begin with `pointsman_planner_control_`."""

    def __init__(self, registry: Registry) -> None:
        prefix = "pointsman_planner_control"
        self.watches = registry.gauge(f"{prefix}_watches", "Watches that are open.")
        self.waits = registry.gauge(f"{prefix}_waits", "Calls that wait for convergence.")
        self.refused = registry.counter(
            f"{prefix}_refused_total", "Watches and waits that were ended or refused: too_many, too_slow.", ["reason"]
        )


class StoreMetrics:
    """Figures of what planners share; names begin with `pointsman_planner_store_`."""

    def __init__(self, registry: Registry) -> None:
        prefix = "pointsman_planner_store"
        self.available = registry.gauge(f"{prefix}_available", "1 while reads and writes of shared state work.")
        self.commands = registry.counter(
            f"{prefix}_commands_total",
            "Commands to the store, by outcome: ok, refused, failed.",
            ["command", "outcome"],
        )
        self.duration = registry.histogram(
            f"{prefix}_command_duration_seconds", "Time to the answer of commands that worked.", ["command"]
        )
        self.hostile = registry.counter(
            f"{prefix}_hostile_values_total", "Values in the store that are none of ours and were left out.", ["area"]
        )
        self.rebuilds = registry.counter(
            f"{prefix}_rebuilds_total",
            "Times an area was found emptied, replaced or set back, and was rebuilt.",
            ["area"],
        )
        self.refused = registry.counter(
            f"{prefix}_refused_writes_total",
            "Writes that found their area full, by what happened: refused, evicted, dropped.",
            ["area", "outcome"],
        )


class ShardingMetrics:
    """Figures of who serves which node, and of nodes that come or go."""

    def __init__(self, registry: Registry) -> None:
        prefix = "pointsman_planner"
        self.members = registry.gauge(
            f"{prefix}_members", "Planners that serve, this one included, as this one sees it."
        )
        self.membership_frozen = registry.gauge(
            f"{prefix}_membership_frozen", "1 while nobody can know who joins or leaves, because the store is away."
        )
        self.redirects = registry.counter(
            f"{prefix}_redirects_total", "Enforcers sent elsewhere: not-owner, draining, overloaded.", ["reason"]
        )
        self.moves_pending = registry.gauge(
            f"{prefix}_moves_pending", "Connected nodes that belong to another planner and will be sent there."
        )
        self.syncing = registry.gauge(f"{prefix}_syncing_nodes", "Nodes that are brought up to date now.")
        self.sync_queue = registry.gauge(
            f"{prefix}_waiting_nodes", "Nodes that wait for that; they keep what they have."
        )
