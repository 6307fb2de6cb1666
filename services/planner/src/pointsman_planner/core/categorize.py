# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a ServicePort uses on one node: traffic policy, topology hints and the terminating fallback.

This is kube-proxy's `CategorizeEndpoints` (pkg/proxy/topology.go, 1.36), rule for rule. An endpoint is *usable* when
it is ready, or, if no endpoint in question is ready, when it is serving and terminating.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from pointsman_planner.core.service_state import PortEndpoint


class TopologyMode(Enum):
    """How the Cluster set is narrowed by hints."""

    NONE = "none"
    NODE = "node"
    ZONE = "zone"


class Policy(NamedTuple):
    """The flags of a ServicePort that decide which sets it needs."""

    internal_local: bool
    """internalTrafficPolicy is Local."""
    external_local: bool
    """externalTrafficPolicy is Local."""
    externally_accessible: bool
    """The ServicePort has a node port, an external IP or a captured load balancer IP (of this family)."""

    @property
    def uses_cluster(self) -> bool:
        """Whether any traffic class may use endpoints anywhere."""
        return not self.internal_local or self.externally_accessible

    @property
    def uses_local(self) -> bool:
        """Whether any traffic class is limited to endpoints on the node."""
        return self.internal_local or (self.external_local and self.externally_accessible)


class Categorized(NamedTuple):
    """The sets of one ServicePort on one node; every tuple keeps the order of the input."""

    cluster: tuple[PortEndpoint, ...]
    """For Cluster policy traffic."""
    local: tuple[PortEndpoint, ...]
    """For Local policy traffic."""
    all_reachable: tuple[PortEndpoint, ...]
    """Their union."""
    has_any: bool
    """Whether some endpoint, on any node, is usable: an empty set then means DROP, else REJECT."""
    topology: TopologyMode
    """What narrowed `cluster`."""


def categorize_endpoints(
    endpoints: tuple[PortEndpoint, ...], policy: Policy, node_name: str | None, zone: str | None
) -> Categorized:
    """Sort the endpoints of one ServicePort into the sets that its traffic classes use.

    Args:
        endpoints: all endpoints of the ServicePort in one family, of any condition.
        policy: the ServicePort's flags.
        node_name: the node; None when no endpoint and no hint names it.
        zone: the node's zone; None when it has none, or no hint names it.
    """
    cluster: tuple[PortEndpoint, ...] = ()
    topology = TopologyMode.NONE
    if policy.uses_cluster:
        topology = topology_mode(endpoints, node_name, zone)
        cluster = tuple(e for e in endpoints if e.ready and is_available(e, topology, node_name, zone))
        if not cluster:
            cluster = tuple(e for e in endpoints if e.serving and e.terminating)
    if not policy.uses_local:
        return Categorized(cluster, (), cluster, bool(cluster), topology)
    usable = [e for e in endpoints if e.ready or (e.serving and e.terminating)]
    on_node = [e for e in usable if node_name is not None and e.node_name == node_name]
    local = tuple(e for e in on_node if e.ready) or tuple(on_node)
    return Categorized(cluster, local, _union(endpoints, cluster, local), bool(usable), topology)


def topology_mode(endpoints: Iterable[PortEndpoint], node_name: str | None, zone: str | None) -> TopologyMode:
    """What narrows the Cluster set: hints of a kind that every ready endpoint has and that name us at least once."""
    has_node_hints = has_zone_hints = True
    is_node_hinted = is_zone_hinted = False
    for endpoint in endpoints:
        if not endpoint.ready:
            continue
        if not endpoint.node_hints:
            has_node_hints = False
        elif node_name is not None and node_name in endpoint.node_hints:
            is_node_hinted = True
        if not endpoint.zone_hints:
            has_zone_hints = False
        elif zone and zone in endpoint.zone_hints:
            is_zone_hinted = True
        if not (has_node_hints or has_zone_hints):
            return TopologyMode.NONE
    if has_node_hints and is_node_hinted:
        return TopologyMode.NODE
    if has_zone_hints and is_zone_hinted:
        return TopologyMode.ZONE
    return TopologyMode.NONE


def is_available(endpoint: PortEndpoint, mode: TopologyMode, node_name: str | None, zone: str | None) -> bool:
    """Whether hints leave this endpoint to the node."""
    if mode is TopologyMode.NODE:
        return node_name in endpoint.node_hints
    return zone in endpoint.zone_hints if mode is TopologyMode.ZONE else True


def _union(
    endpoints: tuple[PortEndpoint, ...], cluster: tuple[PortEndpoint, ...], local: tuple[PortEndpoint, ...]
) -> tuple[PortEndpoint, ...]:
    if not local:
        return cluster
    if not cluster:
        return local
    members = {(e.address, e.port) for e in cluster} | {(e.address, e.port) for e in local}
    return tuple(e for e in endpoints if (e.address, e.port) in members)
