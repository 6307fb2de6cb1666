# SPDX-License-Identifier: Apache-2.0
"""From a row's objects to the plan of the node under test, through the same code as in production.

API server's filters -> watcher's decoder (watch lines) -> wire form of cluster.v1 -> planner's cluster state
-> plan(node) -> wire form of plan.v1. Nothing here decides anything about packets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from conformance.model import Event, NodeSettings, Row, Verb

from pointsman.cluster.v1 import cluster_service_pb2
from pointsman_enforcer.dataplane.node_settings import DetectLocalMode, effective_settings
from pointsman_enforcer.dataplane.node_settings import NodeSettings as EnforcerSettings
from pointsman_model.cluster import Change
from pointsman_model.names import parse_prefix
from pointsman_model.plan import DataplaneSettings, NodeFacts, NodePlan
from pointsman_model.wire.cluster import change_from_pb
from pointsman_model.wire.plan import decode_service_plan, encode_service_plan
from pointsman_planner.core.cluster_state import ClusterState
from pointsman_planner.core.node_plan import plan
from pointsman_watcher.core import resources
from pointsman_watcher.core.decode import Observed, Rejected, decode_event

_RESOURCES = {
    "Service": resources.SERVICES,
    "EndpointSlice": resources.ENDPOINT_SLICES,
    "Node": resources.NODES,
    "ServiceCIDR": resources.SERVICE_CIDRS,
}


Alteration = Callable[[NodePlan], NodePlan]
"""Changes a plan on its way to the executor: for tests that an executor notices wrong plans."""


def unaltered(plan: NodePlan) -> NodePlan:
    """The plan as it is."""
    return plan


class ApiServer:
    """An API server, as far as a watch can tell, and the watcher's decoder behind it."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, str, str]] = set()

    def changes(self, events: Iterable[Event]) -> list[Change]:
        """What a planner is told of these events."""
        return [change for event in events for change in self._changes(event)]

    def _changes(self, event: Event) -> list[Change]:
        manifest = json.loads(event.manifest)
        names = manifest["metadata"]
        key = (manifest["kind"], names.get("namespace", ""), names["name"])
        is_shown = event.verb is Verb.APPLY and _passes_selectors(manifest)
        if not is_shown and key not in self._shown:
            return []
        kind = "DELETED" if not is_shown else "MODIFIED" if key in self._shown else "ADDED"
        (self._shown.add if is_shown else self._shown.remove)(key)
        line = json.dumps({"type": kind, "object": manifest}).encode()
        observed = decode_event(_RESOURCES[manifest["kind"]], line)
        if isinstance(observed, Rejected):
            return []
        if not isinstance(observed, Observed):
            raise TypeError(f"the watcher does not take {line.decode()} for an object: {observed}")
        if observed.body is None:
            return [Change(key=observed.key, value=None)]
        return [change_from_pb(cluster_service_pb2.Change.FromString(observed.body))]


class Cluster:
    """An API server and a planner behind a watcher of it."""

    def __init__(self, alter: Alteration = unaltered) -> None:
        self._alter = alter
        self._state = ClusterState()
        self._server = ApiServer()

    def apply(self, events: Iterable[Event]) -> None:
        """Take in events that arrive together."""
        self._state.apply(self._server.changes(events))

    def plan(self, node_name: str) -> NodePlan:
        """The node's plan as it arrives there: every service encoded and decoded."""
        planned = plan(node_name, self._state)
        services = {key: decode_service_plan(encode_service_plan(one)) for key, one in planned.services.items()}
        if services != planned.services:
            raise ValueError("a service plan is not what its wire form decodes to")
        return self._alter(NodePlan(facts=planned.facts, services=services))


def _passes_selectors(manifest: dict[str, Any]) -> bool:
    """What the API server does for the selectors that the watcher sends."""
    resource = _RESOURCES[manifest["kind"]]
    labels = manifest["metadata"].get("labels", {})
    if resource.label_selector.removeprefix("!") in labels:
        return False
    field, _, value = resource.field_selector.partition("!=")
    return not field or manifest.get("spec", {}).get(field.removeprefix("spec.")) != value


def node_settings(settings: NodeSettings) -> EnforcerSettings:
    """The settings as the enforcer's configuration has them."""
    mode = settings.detect_local_mode or DetectLocalMode.CLUSTER_CIDR.value
    is_primary = settings.node_port_addresses == ("primary",)
    return EnforcerSettings(
        detect_local_mode=DetectLocalMode(mode),
        cluster_cidrs=tuple(map(parse_prefix, settings.cluster_cidrs)),
        interface=settings.interface,
        masquerade_all=settings.masquerade_all,
        node_port_addresses=None if is_primary else tuple(map(parse_prefix, settings.node_port_addresses)),
    )


def dataplane_settings(settings: NodeSettings, facts: NodeFacts) -> DataplaneSettings:
    """What the settings come to on one node, by the enforcer's own rules."""
    return effective_settings(node_settings(settings), facts)


def describe(row: Row) -> str:
    """One line for reports."""
    return f"{row.section:>2}  {row.id:<28} {row.summary}"
