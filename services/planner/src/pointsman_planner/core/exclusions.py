# SPDX-License-Identifier: Apache-2.0
"""Why an endpoint is not in a set that new connections are shared among: a cause for programs, a reason for people."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from pointsman_planner.core.categorize import Categorized, TopologyMode, is_available
from pointsman_planner.core.service_state import PortEndpoint, is_usable
from pointsman_planner.core.view import NodeView


class Cause(IntEnum):
    """In one word (equals `pointsman.control.v1.Exclusion.Cause`)."""

    NOT_READY = 1
    TERMINATING = 2
    TERMINATING_FALLBACK = 3
    NODE_HINTS = 4
    ZONE_HINTS = 5
    POLICY_LOCAL = 6
    DUPLICATE = 7
    NO_SERVICE_PORT = 8
    FAMILY = 9
    OVERRIDE = 10
    NOT_FORWARDED = 11


class Why(NamedTuple):
    """A cause and its reason."""

    cause: Cause
    reason: str


def why_not(endpoint: PortEndpoint, node: NodeView, sets: Categorized, *, is_local: bool) -> Why:
    """Why an endpoint of a ServicePort is not in its Local set, or else in its Cluster set, on a node."""
    name = node.facts.name
    if not is_usable(endpoint):
        return _held_back(endpoint) or _unusable(endpoint)
    if is_local and endpoint.node_name != name:
        where = f"is on node {endpoint.node_name}" if endpoint.node_name is not None else "names no node"
        return Why(Cause.POLICY_LOCAL, f"traffic policy is Local, and the endpoint {where}")
    if not endpoint.ready:
        fallback = Why(Cause.TERMINATING_FALLBACK, "terminating, and there are ready endpoints")
        return _held_back(endpoint) or fallback
    if not is_local and not is_available(endpoint, sets.topology, name, node.zone):
        if sets.topology is TopologyMode.NODE:
            hints = ", ".join(endpoint.node_hints)
            return Why(Cause.NODE_HINTS, f"its node hints ({hints}) do not name node {name}")
        hints = ", ".join(endpoint.zone_hints)
        return Why(Cause.ZONE_HINTS, f"its zone hints ({hints}) do not name zone {node.zone}")
    return Why(Cause.NOT_FORWARDED, "the packet is not forwarded")


def _held_back(endpoint: PortEndpoint) -> Why | None:
    return Why(Cause.OVERRIDE, endpoint.held_back) if endpoint.held_back else None


def _unusable(endpoint: PortEndpoint) -> Why:
    if endpoint.terminating:
        return Why(Cause.TERMINATING, "terminating and no longer serving")
    return Why(Cause.NOT_READY, "not ready")
