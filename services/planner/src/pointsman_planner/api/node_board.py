# SPDX-License-Identifier: Apache-2.0
"""How far every node of the cluster has come, whichever planner serves it, and what of that has changed.

A node with a stream here is asked for; of any other the record that planners share is judged against what this planner
wants of it. Nobody tells this planner when a record changes, so whoever watches asks now and then; all who watch share
one reading, and it takes a small share of the time, however many nodes there are.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace

from pointsman_chassis.clock import Clock, SystemClock
from pointsman_model.cluster import ObjectKey, ObjectKind
from pointsman_planner.api.plan_service import PlanService
from pointsman_planner.core.planner import Applied, Planner
from pointsman_planner.core.recent_changes import RecentChanges
from pointsman_planner.core.standing import Viewpoint, recorded_status
from pointsman_planner.core.status import NodeStatus
from pointsman_planner.core.watching import ChangeLog
from pointsman_planner.store.node_status_store import NodeStatusStore

_ATTACHED_AT_ONCE = 4
"""Nodes whose digest is begun to be kept in one turn of the event loop: some milliseconds."""
_FRESH_SECONDS = 0.2
_FRESH_MAX = 50_000
_READING_SECONDS = 1.0
_READING_SHARE = 20
"""A reading of all records that took t is followed by none for this many times t."""


class NodeBoard:
    """Statuses of all nodes, and the change logs that watches read."""

    def __init__(
        self, *, planner: Planner, plans: PlanService, store: NodeStatusStore, clock: Clock | None = None
    ) -> None:
        self._planner = planner
        self._plans = plans
        self._store = store
        self._clock = clock or SystemClock()
        epoch = secrets.token_hex(8)
        self.node_log = ChangeLog(epoch=epoch)
        """Nodes whose status may have changed."""
        self.service_log = ChangeLog(epoch=epoch)
        """Services of which a fact changed, and nodes of which one did (they see services otherwise)."""
        self.recent: RecentChanges | None = None
        """How long the last changes took; kept for whoever sets it."""
        self._told: dict[str, NodeStatus] = {}
        self._recorded: dict[str, NodeStatus] = {}
        self._next_reading = 0.0
        self._reading = asyncio.Lock()
        self._attaching = asyncio.Lock()
        self._fresh: dict[str, tuple[float, NodeStatus | None]] = {}
        self._store_turn = asyncio.Lock()
        planner.on_applied = self._applied
        plans.on_status = self._status_told

    @property
    def names(self) -> set[str]:
        """Every Node of the cluster, and every enforcer that is connected here."""
        return self._planner.cluster.nodes.keys() | self._planner.sessions.keys()

    def is_there(self, name: str) -> bool:
        """Whether a node is among `names`."""
        return name in self._planner.cluster.nodes or name in self._planner.sessions

    async def statuses(self, names: Iterable[str]) -> dict[str, NodeStatus]:
        """Statuses of nodes, in the order given, all of one moment."""
        wanted = list(names)
        records = await self.records(wanted)
        return {name: self.status(name, records) for name in wanted}

    async def records(self, names: Iterable[str]) -> Mapping[str, NodeStatus]:
        """What other planners recorded of nodes; afterwards `status` is cheap for each of them."""
        wanted = list(names)
        async with self._attaching:
            missing = [name for name in wanted if not self._planner.is_observed(name)]
            for start in range(0, len(missing), _ATTACHED_AT_ONCE):
                self._planner.observe(missing[start : start + _ATTACHED_AT_ONCE])
                await asyncio.sleep(0)
        return await self._read([name for name in wanted if name not in self._planner.sessions])

    async def _read(self, names: list[str]) -> Mapping[str, NodeStatus]:
        """Records as they were a moment ago: a hundred calls that wait for the same nodes are one reading."""
        async with self._store_turn:
            now = self._clock.monotonic()
            old = [name for name in names if name not in self._fresh or self._fresh[name][0] < now - _FRESH_SECONDS]
            if old:
                found = await self._store.read(old)
                if len(self._fresh) > _FRESH_MAX:
                    self._fresh.clear()
                self._fresh.update((name, (now, found.get(name))) for name in old)
            held = {name: self._fresh[name][1] for name in names if name in self._fresh}
        return {name: record for name, record in held.items() if record is not None}

    def status(self, name: str, records: Mapping[str, NodeStatus]) -> NodeStatus:
        """The status of a node now."""
        session = self._planner.sessions.get(name)
        if session is not None:
            return self._plans.status(session)
        view = Viewpoint(
            planner_id=self._plans.planner_id,
            position=self._planner.position,
            patience=self._plans.patience,
            is_store_available=self._store.is_available,
        )
        return recorded_status(name, records.get(name), self._planner.desired_digest(name), view)

    async def look_around(self) -> None:
        """Mark the nodes of other planners whose record has changed, if it is time to look again."""
        if self._clock.monotonic() < self._next_reading or self._reading.locked():
            return
        async with self._reading:
            started = self._clock.monotonic()
            found = await self.records(self._planner.cluster.nodes)
            changed = {
                name
                for name in found.keys() | self._recorded.keys()
                if _essence(found.get(name)) != _essence(self._recorded.get(name))
            }
            self._recorded = dict(found)
            self.node_log.mark(map(node_key, sorted(changed)))
            ended = self._clock.monotonic()
            self._next_reading = ended + max(_READING_SECONDS, _READING_SHARE * (ended - started))

    def _applied(self, applied: Applied) -> None:
        if self.recent is not None and applied.marked:
            self.recent.begun(
                sorted(applied.touched_services),
                (session.node for session in applied.marked),
                position=self._planner.position,
                now_ns=self._clock.wall_ns(),
            )
        if self.node_log.is_followed:
            self.node_log.mark(map(node_key, applied.changed_nodes | {session.node for session in applied.marked}))
        if not self.service_log.is_followed:
            return
        services = [ObjectKey(ObjectKind.SERVICE, *key) for key in applied.touched_services]
        self.service_log.mark([*services, *map(node_key, applied.touched_nodes)])

    def _status_told(self, status: NodeStatus) -> None:
        """A heartbeat that says nothing new is no change."""
        self._fresh.pop(status.name, None)
        if self.recent is not None:
            self.recent.told(status, now_ns=self._clock.wall_ns())
        if not self.node_log.is_followed:
            self._told.clear()
            return
        if _essence(self._told.get(status.name)) != _essence(status):
            self._told[status.name] = status
            self.node_log.mark([node_key(status.name)])
        if status.name not in self._planner.sessions:
            self._told.pop(status.name, None)


def node_key(name: str) -> ObjectKey:
    """The key of a node in the change logs."""
    return ObjectKey(ObjectKind.NODE, "", name)


def _essence(status: NodeStatus | None) -> NodeStatus | None:
    """What of a status is worth telling: not when the node was heard of, and not how long it has been late."""
    return replace(status, last_seen_ns=0, reason="") if status is not None else None
