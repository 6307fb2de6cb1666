# SPDX-License-Identifier: Apache-2.0
"""Views: the facts about a node that one service's plan can depend on, and nothing else.

`plan_service` takes a View and never a node, so two nodes with equal views of a service have equal plans of it by
construction, and share the encoded bytes. A fact is left out of the view unless this service mentions it: the node's
name only if an endpoint or a node hint names it, the zone only if a zone hint names it, its addresses only as "is
inside the load balancer source ranges". For most services most nodes therefore have the same view.
"""

from __future__ import annotations

from typing import NamedTuple

from pointsman_model.names import Family
from pointsman_model.plan import NodeFacts
from pointsman_planner.core.service_state import ServiceState


class NodeView(NamedTuple):
    """What planning may know about a node before a service is named; `facts` holds the addresses."""

    facts: NodeFacts
    zone: str


class View(NamedTuple):
    """What one service's plan may depend on; hashable, the key of shared bytes."""

    node_name: str | None = None
    """The node, if the service names it."""
    zone: str | None = None
    """Its zone, if the service names it."""
    vip_sources_v4: bool = False
    """Its primary IPv4 address is inside the source ranges, so load balancer IPs are allowed as sources."""
    vip_sources_v6: bool = False
    """The same for IPv6."""


EVERYONE = View()
"""The view of all nodes of which a service knows nothing."""


def base_view(state: ServiceState, zone: str) -> View:
    """The view of a node of this zone of which the service knows nothing more."""
    return View(zone=zone) if zone and zone in state.hinted_zones else EVERYONE


def view_of(state: ServiceState, node: NodeView) -> View:
    """The view that a node has of a service."""
    name = node.facts.name
    if not state.source_ranges and name not in state.named_nodes and node.zone not in state.hinted_zones:
        return EVERYONE
    v4 = v6 = False
    if state.source_ranges:
        v4 = _is_in_ranges(state, node.facts, Family.IPV4)
        v6 = _is_in_ranges(state, node.facts, Family.IPV6)
    return View(
        name if name in state.named_nodes else None,
        node.zone if node.zone and node.zone in state.hinted_zones else None,
        v4,
        v6,
    )


def _is_in_ranges(state: ServiceState, facts: NodeFacts, family: Family) -> bool:
    address = facts.primary_address(family)
    return address is not None and any(prefix.contains(address) for prefix in state.source_ranges)
