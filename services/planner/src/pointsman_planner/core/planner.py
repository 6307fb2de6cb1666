# SPDX-License-Identifier: Apache-2.0
"""The planner without its sockets: cluster changes in, sessions with work out.

A change is taken in once (cluster state, index, digests), then only the sessions of nodes whose bytes changed are
marked. Nothing here waits, so the order of events is the order of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from pointsman_model.cluster import Change, ClusterPosition, EndpointSlice, ObjectKind, SliceKey
from pointsman_model.digest import BUCKET_COUNT, DigestBuckets, bucket_of
from pointsman_model.names import ServiceKey
from pointsman_model.wire.plan import node_facts_to_pb
from pointsman_planner.core.cluster_state import ClusterState, Effects, PlannedService
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.node_session import NodeSession
from pointsman_planner.core.origins import Origin
from pointsman_planner.core.override import Override, OverrideChange
from pointsman_planner.core.plan_cache import PlanCache
from pointsman_planner.core.plan_index import PlanIndex
from pointsman_planner.core.priority import Priority
from pointsman_planner.core.service_state import is_usable


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Changes that bring the cluster to `position`, complete up to it."""

    changes: tuple[Change, ...]
    position: ClusterPosition


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a batch did."""

    services: int
    """Services whose input to planning changed."""
    marked: frozenset[NodeSession]
    """Sessions that were given something to send."""
    touched_services: frozenset[ServiceKey] = frozenset()
    """Services of which any fact changed."""
    changed_nodes: frozenset[str] = frozenset()
    """Nodes of which any fact changed, and attached nodes whose plan did."""
    touched_nodes: frozenset[str] = frozenset()
    """Nodes of which any fact changed."""


class Planner:
    """Owns cluster state, index and sessions; a PlanSource for the sessions."""

    def __init__(self, *, priority: Priority | None = None, cache_bytes_max: int = 256 << 20) -> None:
        self.cluster = ClusterState()
        self.cache = PlanCache(bytes_max=cache_bytes_max)
        self.index = PlanIndex(self.cluster, self.cache)
        self._priority = priority or Priority()
        self._position = ClusterPosition()
        self._is_in_sync = False
        self._sessions: dict[str, NodeSession] = {}
        self._observed: set[str] = set()
        self._ordered: list[ServiceKey] | None = None
        self.on_applied: Callable[[Applied], None] | None = None
        """Told of everything that was taken in, when it is; for whoever watches."""

    @property
    def position(self) -> ClusterPosition:
        """What the planner's plans speak of."""
        return self._position

    @property
    def is_in_sync(self) -> bool:
        """Whether a complete view of the cluster was seen; stays true when the watchers go away."""
        return self._is_in_sync

    @property
    def sessions(self) -> dict[str, NodeSession]:
        """Open sessions by node name. Not to be changed by the caller."""
        return self._sessions

    # -- cluster side ------------------------------------------------------------------------------------------------

    def apply(self, batch: Batch) -> Applied:
        """Take in a batch. The first one is a complete view: it opens the start gate."""
        origins = self._origins(batch.changes) if self._sessions else {}
        effects = self.cluster.apply(batch.changes)
        self._position = replace(batch.position, overrides=self._position.overrides)
        marked: set[NodeSession] = set()
        changed = set(effects.touched_nodes)
        for key, before in effects.services.items():
            changed |= self._refresh(key, before, origins.get(key, ()), marked)
        changed |= self._refresh_nodes(effects, marked)
        if not self._is_in_sync:
            self._is_in_sync = True
            for session in self._sessions.values():
                self._go_live(session)
            marked.update(self._sessions.values())
        return self._applied(effects, marked, changed)

    def _applied(self, effects: Effects, marked: set[NodeSession], changed: set[str]) -> Applied:
        applied = Applied(
            services=len(effects.services),
            marked=frozenset(marked),
            touched_services=frozenset(effects.touched_services),
            changed_nodes=frozenset(changed),
            touched_nodes=frozenset(effects.touched_nodes),
        )
        if self.on_applied is not None:
            self.on_applied(applied)
        return applied

    def override(self, changes: Sequence[OverrideChange]) -> Applied:
        """Take in overrides: plans change as by a change of the cluster, and the position does not."""
        concerned = [(change, self.cluster.overrides.get(change.key)) for change in changes]
        effects = self.cluster.override(changes)
        self._position = replace(self._position, overrides=self._fingerprint(concerned))
        marked: set[NodeSession] = set()
        changed: set[str] = set()
        for key, before in effects.services.items():
            origins = [
                Origin(key, change.traceparent, 0, change.observed_at_ns)
                for change, older in concerned
                if any(each is not None and each.concerns(key) for each in (older, change.value))
            ]
            changed |= self._refresh(key, before, origins, marked)
        return self._applied(effects, marked, changed)

    def _fingerprint(self, concerned: Iterable[tuple[OverrideChange, Override | None]]) -> int:
        """Of the overrides in force: what came is added to it, and what went is taken off."""
        fingerprint = self._position.overrides
        for change, older in concerned:
            fingerprint += _fingerprint_of(change.value) - _fingerprint_of(older)
        return fingerprint % (1 << 64)

    def _refresh(
        self, key: ServiceKey, before: PlannedService | None, origins: Sequence[Origin], marked: set[NodeSession]
    ) -> set[str]:
        """Mark the sessions whose plan changed; all attached nodes with another plan than before."""
        nodes = self.index.refresh_service(key, before)
        after = self.cluster.services.get(key)
        if before is None or after is None:
            self._ordered = None
        if not nodes:
            return nodes
        is_shrinking = before is not None and _loses_endpoints(before, after)
        for name in nodes:
            session = self._sessions.get(name)
            if session is None:
                continue
            session.mark(key, is_shrinking=is_shrinking, origin=origins[0] if origins else None)
            for origin in origins[1:]:
                session.add_origin(origin)
            marked.add(session)
        return nodes

    def _refresh_nodes(self, effects: Effects, marked: set[NodeSession]) -> set[str]:
        """Take in changed facts of nodes; the attached nodes they concern."""
        attached = self._sessions.keys() | self._observed
        names = attached if effects.are_all_nodes_changed else effects.nodes.keys() & attached
        for name in names:
            keys = self.index.refresh_node(name)
            session = self._sessions.get(name)
            if session is None:
                continue
            for key in keys:
                session.mark(key, is_shrinking=False, origin=None)
            session.mark_facts()
            marked.add(session)
        for name in effects.touched_nodes & self._observed:
            if name not in self.cluster.nodes:
                self._observed.discard(name)
                if name not in self._sessions:
                    self.index.detach(name)
        return names

    def _origins(self, changes: Iterable[Change]) -> dict[ServiceKey, list[Origin]]:
        """What stands behind each service's change; call it before the changes are taken in.

        A slice that goes takes with it when earlier changes of its service were called for.
        """
        origins: dict[ServiceKey, list[Origin]] = {}
        owners: dict[SliceKey, ServiceKey] = {}
        for change in changes:
            trigger_ns, family = 0, None
            name = SliceKey(change.key.namespace, change.key.name)
            if change.key.kind is ObjectKind.SERVICE:
                key = ServiceKey(*name)
            elif change.key.kind is not ObjectKind.ENDPOINT_SLICE:
                continue
            elif isinstance(change.value, EndpointSlice):
                key = owners[name] = change.value.service
                trigger_ns, family = change.value.trigger_time_ns, change.value.family
            else:
                owner = owners.pop(name, None) or self.cluster.owner_of(name)
                if owner is None:
                    continue
                key = owner
                origins[key] = [origin.without_trigger() for origin in origins.get(key, ())]
                for session in self._sessions.values():
                    session.forget_triggers(key)
            origin = Origin(key, change.traceparent, trigger_ns, change.observed_at_ns, family)
            origins.setdefault(key, []).append(origin)
        return origins

    # -- node side ---------------------------------------------------------------------------------------------------

    def open(self, hello: Hello, *, now_ns: int) -> NodeSession:
        """Begin a session. An older one of the same node is marked as superseded: the newest stream wins."""
        older = self._sessions.get(hello.node_name)
        if older is not None:
            older.superseded = True
        session = NodeSession(hello, self, now_ns=now_ns)
        self._sessions[hello.node_name] = session
        if self._is_in_sync:
            self._go_live(session)
        return session

    def close(self, session: NodeSession) -> None:
        """End a session; what was sent stays with the node."""
        if self._sessions.get(session.node) is session:
            del self._sessions[session.node]
            if session.node not in self._observed:
                self.index.detach(session.node)

    # -- nodes of other planners -------------------------------------------------------------------------------------

    def observe(self, names: Iterable[str]) -> None:
        """Keep the digests of these nodes of the cluster from now on. Each costs its own services once."""
        for name in names:
            if name in self.cluster.nodes:
                self._observed.add(name)
                self.index.attach(name)

    def is_observed(self, name: str) -> bool:
        """Whether the digest of a node is kept, or cannot be because there is no such node."""
        return name in self._observed or name not in self.cluster.nodes

    def desired_digest(self, name: str) -> int:
        """Digest of what any node should have; cheap for one that has a session or is observed."""
        return self.index.digest_once(name)

    def _go_live(self, session: NodeSession) -> None:
        self.index.attach(session.node)
        session.go_live()

    # -- PlanSource --------------------------------------------------------------------------------------------------

    def digest(self, node: str) -> int:
        """Digest of an attached node's plan."""
        return self.index.digest(node)

    def buckets(self, node: str) -> DigestBuckets:
        """Bucket sums of an attached node's plan."""
        return self.index.buckets(node)

    def services_in(self, buckets: Iterable[int]) -> list[ServiceKey]:
        """All services of some buckets, most urgent first."""
        wanted = frozenset(buckets)
        if self._ordered is None:
            self._ordered = sorted(self.cluster.services, key=self._priority.sort_key)
        if len(wanted) == BUCKET_COUNT:
            return self._ordered
        if len(wanted) * 4 > BUCKET_COUNT:
            return [key for key in self._ordered if bucket_of(key) in wanted]
        return sorted(self.index.services_in(wanted), key=self._priority.sort_key)

    def in_order(self, dirty: dict[ServiceKey, bool]) -> list[ServiceKey]:
        """Dirty services: those that lost endpoints first, then by priority."""
        if len(dirty) == 1:
            return list(dirty)
        return sorted(dirty, key=lambda key: (not dirty[key], self._priority.sort_key(key)))

    def update(self, key: ServiceKey, node: str) -> bytes | None:
        """An attached node's plan of a service as an `updates` field."""
        return self.index.update(key, node)

    def facts(self, node: str) -> bytes:
        """An attached node's facts, encoded."""
        return node_facts_to_pb(self.index.node_view(node).facts).SerializeToString()


def _fingerprint_of(override: Override | None) -> int:
    if override is None:
        return 0
    name = f"{override.key.namespace}\0{override.key.name}\0{override.etag}".encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")


def _loses_endpoints(before: PlannedService, after: PlannedService | None) -> bool:
    if after is None:
        return True
    return not _usable(before) <= _usable(after)


def _usable(planned: PlannedService) -> set[tuple[str, bytes, int]]:
    return {(port.name, e.address, e.port) for port in planned.state.ports for e in port.endpoints if is_usable(e)}
