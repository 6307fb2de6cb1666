# SPDX-License-Identifier: Apache-2.0
"""What each attached node's plan is, as digests, kept up by the change and not by the cluster.

The trick is that almost every service looks the same to almost every node. For each zone there is one set of bucket
sums, over the plan that a node of this zone gets when the service knows nothing more about it (the *base view*). A
node's digest is its zone's digest plus one number: the sum, over the few services that name the node, of what its
own plan's digest differs from the base. So

    state per node      one integer; no table of services
    state per zone      1024 sums
    change of a service one exchange per zone, one addition per attached node that the service names

and which nodes got other bytes falls out of the same comparison: nodes with an exception of their own are compared
one by one, all others through their zone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pointsman_model.digest import BUCKET_COUNT, DigestBuckets, bucket_of
from pointsman_model.names import ServiceKey
from pointsman_planner.core.cluster_state import ClusterState, PlannedService
from pointsman_planner.core.plan_cache import Digests, PlanCache
from pointsman_planner.core.view import NodeView, base_view, view_of

_MASK = (1 << 64) - 1


@dataclass(slots=True)
class _Zone:
    buckets: DigestBuckets
    members: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Attached:
    view: NodeView
    delta: int = 0
    """Digest of the node's plan minus digest of its zone."""


class PlanIndex:
    """Digests and bucket sums of attached nodes, and the services by what they depend on."""

    __slots__ = ("_by_bucket", "_cache", "_cluster", "_hinted", "_named", "_nodes", "_ranged", "_zones")

    def __init__(self, cluster: ClusterState, cache: PlanCache) -> None:
        self._cluster = cluster
        self._cache = cache
        self._zones: dict[str, _Zone] = {}
        self._nodes: dict[str, _Attached] = {}
        self._by_bucket: list[set[ServiceKey]] = [set() for _ in range(BUCKET_COUNT)]
        self._named: dict[str, set[ServiceKey]] = {}
        self._hinted: set[ServiceKey] = set()
        self._ranged: set[ServiceKey] = set()

    def attach(self, name: str) -> None:
        """Begin to keep a node's digest; no effect when it is attached already."""
        if name in self._nodes:
            return
        view = self._cluster.node_view(name)
        zone = self._zones.get(view.zone)
        if zone is None:
            zone = self._zones[view.zone] = _Zone(self._base_buckets(view.zone))
        zone.members.add(name)
        node = self._nodes[name] = _Attached(view)
        node.delta = sum(own - base for _, own, base in self._exceptions(view)) & _MASK

    def detach(self, name: str) -> None:
        """Forget a node, and the plans that only it had."""
        node = self._nodes.pop(name, None)
        if node is None:
            return
        zone = self._zones[node.view.zone]
        zone.members.discard(name)
        if not zone.members:
            del self._zones[node.view.zone]
        for key in self._named.get(name, ()):
            self._cache.drop(key, view_of(self._cluster.services[key].state, node.view))

    def refresh_service(self, key: ServiceKey, before: PlannedService | None) -> set[str]:
        """Take in a change of one service; the attached nodes whose plan of it is now other bytes."""
        after = self._cluster.services.get(key)
        self._index(key, before, after)
        old = self._cache.invalidate(key)
        bucket = bucket_of(key)
        changed: set[str] = set()
        exceptions = self._exceptional_nodes(before) | self._exceptional_nodes(after)
        bases: dict[str, tuple[int, int]] = {}
        for name, zone in self._zones.items():
            gone = self._old_digest(before, old, name)
            come = self._cache.digest(after, base_view(after.state, name)) if after is not None else 0
            bases[name] = (gone, come)
            if gone != come:
                zone.buckets.replace(bucket, gone, come)
                changed |= zone.members
        for name in exceptions:
            node = self._nodes[name]
            base_gone, base_come = bases[node.view.zone]
            gone = self._own_old_digest(before, old, node.view)
            come = self._cache.digest(after, view_of(after.state, node.view)) if after is not None else 0
            node.delta = (node.delta + (come - base_come) - (gone - base_gone)) & _MASK
            (changed.add if gone != come else changed.discard)(name)
        return changed

    def refresh_node(self, name: str) -> set[ServiceKey]:
        """Take in a change of a node's zone or addresses; the services of which it now gets other bytes."""
        node = self._nodes.get(name)
        if node is None:
            return set()
        before, after = node.view, self._cluster.node_view(name)
        if before.zone == after.zone and before.facts.addresses == after.facts.addresses:
            node.view = after
            return set()
        candidates = {key: self._digest(key, before) for key in self._hinted | self._ranged}
        self.detach(name)
        self.attach(name)
        return {key for key, digest in candidates.items() if self._digest(key, after) != digest}

    def is_attached(self, name: str) -> bool:
        """Whether a node's digest is kept."""
        return name in self._nodes

    def node_view(self, name: str) -> NodeView:
        """The facts about an attached node that its plan was computed from."""
        return self._nodes[name].view

    def digest(self, name: str) -> int:
        """Digest of an attached node's whole plan."""
        node = self._nodes[name]
        return (self._zones[node.view.zone].buckets.total + node.delta) & _MASK

    def digest_once(self, name: str) -> int:
        """Digest of any node's whole plan; for a node that is not attached it costs an attachment."""
        if name in self._nodes:
            return self.digest(name)
        self.attach(name)
        try:
            return self.digest(name)
        finally:
            self.detach(name)

    def buckets(self, name: str) -> DigestBuckets:
        """Bucket sums of an attached node's plan; costs 1024 sums and the services that name the node."""
        view = self._nodes[name].view
        buckets = DigestBuckets(self._zones[view.zone].buckets.sums)
        for key, own, base in self._exceptions(view):
            buckets.replace(bucket_of(key), base, own)
        return buckets

    def services_in(self, buckets: Iterable[int]) -> list[ServiceKey]:
        """Keys of all services that lie in some buckets, in no particular order."""
        return [key for bucket in buckets for key in self._by_bucket[bucket]]

    def update(self, key: ServiceKey, name: str) -> bytes | None:
        """An attached node's plan of a service as an `updates` field; None when the service does not exist."""
        planned = self._cluster.services.get(key)
        if planned is None:
            return None
        return self._cache.update(planned, view_of(planned.state, self._nodes[name].view))

    def _digest(self, key: ServiceKey, node: NodeView) -> int:
        planned = self._cluster.services[key]
        return self._cache.digest(planned, view_of(planned.state, node))

    def _base_buckets(self, zone: str) -> DigestBuckets:
        sums = [0] * BUCKET_COUNT
        for bucket, keys in enumerate(self._by_bucket):
            for key in keys:
                planned = self._cluster.services[key]
                sums[bucket] += self._cache.digest(planned, base_view(planned.state, zone))
        return DigestBuckets([value & _MASK for value in sums])

    def _exceptions(self, node: NodeView) -> list[tuple[ServiceKey, int, int]]:
        """Services of which a node has another view than its zone: key, digest of its own plan, digest of the base."""
        found = []
        for key in self._named.get(node.facts.name, set()) | self._ranged:
            planned = self._cluster.services[key]
            own, base = view_of(planned.state, node), base_view(planned.state, node.zone)
            if own != base:
                found.append((key, self._cache.digest(planned, own), self._cache.digest(planned, base)))
        return found

    def _exceptional_nodes(self, planned: PlannedService | None) -> set[str]:
        if planned is None:
            return set()
        state = planned.state
        if state.source_ranges:
            return set(self._nodes)
        if len(state.named_nodes) > len(self._nodes):
            return {name for name in self._nodes if name in state.named_nodes}
        return {name for name in state.named_nodes if name in self._nodes}

    def _old_digest(self, before: PlannedService | None, old: Digests, zone: str) -> int:
        return old[base_view(before.state, zone)] if before is not None else 0

    def _own_old_digest(self, before: PlannedService | None, old: Digests, node: NodeView) -> int:
        return old[view_of(before.state, node)] if before is not None else 0

    def _index(self, key: ServiceKey, before: PlannedService | None, after: PlannedService | None) -> None:
        old_names = before.state.named_nodes if before is not None else frozenset[str]()
        new_names = after.state.named_nodes if after is not None else frozenset[str]()
        for name in old_names - new_names:
            keys = self._named[name]
            keys.discard(key)
            if not keys:
                del self._named[name]
        for name in new_names - old_names:
            self._named.setdefault(name, set()).add(key)
        _set(self._by_bucket[bucket_of(key)], key, is_in=after is not None)
        _set(self._hinted, key, is_in=after is not None and bool(after.state.hinted_zones))
        _set(self._ranged, key, is_in=after is not None and bool(after.state.source_ranges))


def _set(keys: set[ServiceKey], key: ServiceKey, *, is_in: bool) -> None:
    (keys.add if is_in else keys.discard)(key)
