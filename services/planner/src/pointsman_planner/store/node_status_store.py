# SPDX-License-Identifier: Apache-2.0
"""Node status that any planner can show: written some time later, or not at all, and never on anybody's way.

What comes back from the store is shown to people; one that does not parse is left out. A planner that lost a node says
so only if no other planner has spoken of it since: the new owner's word must not be undone by the old one's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

import msgspec

from pointsman_chassis.clock import Clock, SystemClock
from pointsman_model.cluster import ClusterPosition
from pointsman_planner.core.messages import Conditions, Drift, Failure
from pointsman_planner.core.reached import Reached
from pointsman_planner.core.status import NodeState, NodeStatus
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.store.hostile_values import HostileValues
from pointsman_planner.store.port import WRITES_MAX, Area, Record, Store, StoreUnavailableError, Write
from pointsman_planner.store.write_behind import WriteBehind

_NODES_MAX = 20_000
_FLUSH_SECONDS = 0.1
_LIVES_SECONDS = 24 * 3600.0
"""A node that nobody has heard of for a day is gone; the store needs no other cleaning."""
NODES = Area(name="nodes", records_max=_NODES_MAX, evicts=True, is_followed=False)


class NodeStatusStore:
    """The repository of node status."""

    def __init__(
        self,
        *,
        store: Store,
        metrics: StoreMetrics,
        flush_seconds: float = _FLUSH_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        """`clock` is the one by which the store says when records end."""
        self._store = store
        self._clock = clock or SystemClock()
        self._hostile = HostileValues(metrics)
        self._behind: WriteBehind[NodeStatus] = WriteBehind(
            write=self._write,
            keys_max=_NODES_MAX,
            on_dropped=metrics.refused.labels(NODES.name, "dropped").inc,
            flush_seconds=flush_seconds,
        )

    def report(self, status: NodeStatus) -> None:
        """A node's status changed. Never waits and never fails."""
        self._behind.put(status.name, status)

    @property
    def waiting(self) -> int:
        """Nodes whose status is not written yet."""
        return len(self._behind)

    @property
    def is_available(self) -> bool:
        """Whether what is not read is really not there."""
        return self._store.is_available

    async def read(self, nodes: Iterable[str]) -> dict[str, NodeStatus]:
        """Last known status; what is not known, or not readable now, is left out."""
        names = list(nodes)
        found: dict[str, NodeStatus] = {}
        with suppress(StoreUnavailableError):
            for start in range(0, len(names), WRITES_MAX):
                records = (await self._store.read(NODES, names[start : start + WRITES_MAX])).records
                found.update((name, status) for name, status in map(self._decoded, records.values()) if status)
        return found | {name: self._behind[name] for name in names if name in self._behind}

    async def run(self) -> None:
        """Write what was reported, for ever."""
        await self._behind.run()

    async def close(self) -> None:
        """Write what is left, if that is possible at once."""
        await self._behind.close()

    async def _write(self, batch: Mapping[str, NodeStatus]) -> None:
        lost = [name for name, status in batch.items() if status.state is NodeState.DISCONNECTED]
        known = (await self._store.read(NODES, lost)).records if lost else {}
        writes = []
        for name, status in batch.items():
            version = None
            if status.state is NodeState.DISCONNECTED:
                _, stored = self._decoded(known[name]) if name in known else (name, None)
                if stored is not None and stored.planner_id != status.planner_id and _is_newer(stored, status):
                    continue
                version = known[name].version if name in known else 0
            value = msgspec.json.encode(status)
            writes.append(Write(key=name, value=value, lives_seconds=_LIVES_SECONDS, if_version=version))
        if writes:
            await self._store.commit(NODES, writes)

    def _decoded(self, record: Record) -> tuple[str, NodeStatus | None]:
        status = self._hostile.decoded(NODES, record, NodeStatus)
        if status is not None and not (status.name == record.key and _fits(status)):
            self._hostile.leave_out(NODES, record.key, ValueError("a number is out of range, or the name is another"))
            status = None
        return record.key, replace(status, age_ns=self._age_ns(record)) if status is not None else None

    def _age_ns(self, record: Record) -> int:
        """How long ago a record was written: each lives equally long, and the store knows how much of that is left."""
        if record.expires_at is None:
            return 0
        left_seconds = record.expires_at - self._clock.monotonic()
        return max(0, round((_LIVES_SECONDS - left_seconds) * 1e9))


def _is_newer(stored: NodeStatus, status: NodeStatus) -> bool:
    """Whether another planner speaks of the node as its own since; clocks of planners need to agree only roughly."""
    return stored.state is not NodeState.DISCONNECTED or stored.last_seen_ns > status.last_seen_ns


def _fits(status: NodeStatus) -> bool:
    """Whether every number fits the message in which it will be shown."""
    unsigned = (status.desired_digest, status.programmed_digest)
    return (
        all(0 <= number < 1 << 64 for number in unsigned)
        and all(map(_fits_position, (status.sent, status.programmed)))
        and 0 <= status.mode < 1 << 31
        and 0 <= status.pending_services < 1 << 31
        and 0 <= status.last_seen_ns < 1 << 63
        and 0 <= status.since_ns < 1 << 63
        and all(map(_fits_reached, status.reached))
        and all(map(_fits_failure, status.failures))
        and (status.drift is None or _fits_drift(status.drift))
        and _fits_conditions(status.conditions)
    )


def _fits_position(position: ClusterPosition) -> bool:
    numbers = (position.revision, position.overrides, *position.resource_versions)
    return all(0 <= number < 1 << 64 for number in numbers)


def _fits_reached(reached: Reached) -> bool:
    return _fits_position(reached.position) and 0 <= reached.digest < 1 << 64 and 0 <= reached.at_ns < 1 << 63


def _fits_failure(failure: Failure) -> bool:
    return bool(failure.service.name)


def _fits_drift(drift: Drift) -> bool:
    numbers = (drift.repairs, drift.repaired_at_ns, drift.duration_ns, drift.objects)
    return all(0 <= number < 1 << 63 for number in numbers) and 0 <= drift.process_id < 1 << 32


def _fits_conditions(conditions: Conditions) -> bool:
    is_fitting = all(0 <= each.since_ns < 1 << 63 and 0 < each.kind < 1 << 31 for each in conditions.conditions)
    return is_fitting and 0 <= conditions.total < 1 << 32
