# SPDX-License-Identifier: Apache-2.0
"""The whole cluster as the planner holds it, and what a change of it affects.

`apply` keeps every index by the change, never by the cluster: a slice touches its own service, a node only itself
(services depend on nodes through views, so the caller moves that node's views and no service is planned again), a
service CIDR the facts of all nodes (and the services with registered endpoints, which must not be there). Overrides are
input like objects: one touches its service, or the services with endpoints it names. The state after a set of changes
does not depend on their order or on how often each came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pointsman_model.cluster import (
    Change,
    ClusterObject,
    EndpointSlice,
    Node,
    ObjectKey,
    ObjectKind,
    Service,
    ServiceCIDR,
    SliceKey,
)
from pointsman_model.names import Prefix, ServiceKey
from pointsman_model.plan import NodeFacts
from pointsman_planner.core.claims import Claim, Claimant, ClaimTable, claims_of
from pointsman_planner.core.override import Override, OverrideChange, OverrideKey, Selector, selectors_of
from pointsman_planner.core.override_table import OverrideTable
from pointsman_planner.core.overrides import apply_overrides
from pointsman_planner.core.service_state import ServiceState, join
from pointsman_planner.core.view import NodeView

_AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"


@dataclass(frozen=True, slots=True)
class PlannedService:
    """A service and the places it lost: everything `plan_service` takes besides a view."""

    state: ServiceState
    lost: frozenset[Claim]


@dataclass(slots=True)
class Effects:
    """What a set of changes touched; before-values are those from before the whole set."""

    services: dict[ServiceKey, PlannedService | None] = field(default_factory=dict)
    """Services whose input to planning changed, with what it was before; None = it did not exist."""
    nodes: dict[str, NodeView] = field(default_factory=dict)
    """Nodes whose zone, addresses or other facts changed, with what they were before."""
    touched_services: set[ServiceKey] = field(default_factory=set)
    """Services of which any fact changed, also one that planning does not use."""
    touched_nodes: set[str] = field(default_factory=set)
    """Nodes of which any fact changed."""
    are_all_nodes_changed: bool = False
    """The service CIDRs changed, which are among every node's facts."""


class ClusterState:
    """Services, slices, nodes and service CIDRs, joined, and the overrides on top."""

    __slots__ = (
        "_cidrs",
        "_claims",
        "_nodes",
        "_overrides",
        "_planned",
        "_service_cidrs",
        "_services",
        "_slice_owner",
        "_slices",
    )

    def __init__(self) -> None:
        self._services: dict[ServiceKey, Service] = {}
        self._slices: dict[ServiceKey, dict[SliceKey, EndpointSlice]] = {}
        self._slice_owner: dict[SliceKey, ServiceKey] = {}
        self._nodes: dict[str, Node] = {}
        self._cidrs: dict[str, ServiceCIDR] = {}
        self._service_cidrs: tuple[Prefix, ...] = ()
        self._claims = ClaimTable()
        self._planned: dict[ServiceKey, PlannedService] = {}
        self._overrides = OverrideTable()

    @property
    def services(self) -> dict[ServiceKey, PlannedService]:
        """Every service, joined. Not to be changed by the caller."""
        return self._planned

    @property
    def nodes(self) -> dict[str, Node]:
        """Every node. Not to be changed by the caller."""
        return self._nodes

    @property
    def claims(self) -> ClaimTable:
        """Who owns which address and port."""
        return self._claims

    @property
    def overrides(self) -> Mapping[OverrideKey, Override]:
        """Every override in force. Not to be changed by the caller."""
        return self._overrides.held

    @property
    def service_cidrs(self) -> tuple[Prefix, ...]:
        """Blocks from which cluster IPs are allocated, sorted."""
        return self._service_cidrs

    def without_overrides(self, key: ServiceKey) -> ServiceState | None:
        """A service as the API server has it; None when there is none."""
        service = self._services.get(key)
        return join(service, self._slices.get(key, {}).values()) if service is not None else None

    def owner_of(self, name: SliceKey) -> ServiceKey | None:
        """The service that a slice names; None when there is no such slice."""
        return self._slice_owner.get(name)

    def slices_of(self, key: ServiceKey) -> tuple[EndpointSlice, ...]:
        """The slices that name a service, by name."""
        held = self._slices.get(key, {})
        return tuple(held[name] for name in sorted(held))

    def objects(self) -> Iterator[tuple[ObjectKey, ClusterObject]]:
        """Every object held, with its key, in no particular order."""
        for key, service in self._services.items():
            yield ObjectKey(ObjectKind.SERVICE, *key), service
        for slices in self._slices.values():
            for name, item in slices.items():
                yield ObjectKey(ObjectKind.ENDPOINT_SLICE, *name), item
        for node_name, node in self._nodes.items():
            yield ObjectKey(ObjectKind.NODE, "", node_name), node
        for cidr_name, cidr in self._cidrs.items():
            yield ObjectKey(ObjectKind.SERVICE_CIDR, "", cidr_name), cidr

    def node_view(self, name: str) -> NodeView:
        """What planning knows about a node; a node that does not exist (yet) has no addresses and no zone."""
        node = self._nodes.get(name)
        if node is None:
            return NodeView(NodeFacts(name=name, service_cidrs=self._service_cidrs), "")
        facts = NodeFacts(
            name=name,
            addresses=_ordered_addresses(node),
            pod_cidrs=node.pod_cidrs,
            service_cidrs=self._service_cidrs,
            eligible=not node.deleting and all(taint.key != _AUTOSCALER_TAINT for taint in node.taints),
        )
        return NodeView(facts, node.zone)

    def apply(self, changes: Iterable[Change]) -> Effects:
        """Take in changes; says what they touched. A change that says what is already known touches nothing."""
        effects = Effects()
        touched: dict[ServiceKey, None] = {}  # a set in order of arrival: equal input gives equal output
        for change in changes:
            kind = change.key.kind
            if kind is ObjectKind.ENDPOINT_SLICE:
                self._apply_slice(change, touched)
            elif kind is ObjectKind.SERVICE:
                self._apply_service(change, touched)
            elif kind is ObjectKind.NODE:
                self._apply_node(change, effects)
            else:
                self._apply_cidr(change, effects, touched)
        self._join_again(touched, effects)
        return effects

    def override(self, changes: Iterable[OverrideChange]) -> Effects:
        """Take in overrides; says which services they touched."""
        touched: dict[ServiceKey, None] = {}
        for each in self._overrides.take(changes):
            touched.update((key, None) for key in self._named_by(each))
        effects = Effects()
        self._join_again(touched, effects)
        return effects

    def _named_by(self, override: Override) -> Iterator[ServiceKey]:
        """Services that an override may change."""
        if override.service is not None:
            yield override.service
            return
        selectors = selectors_of(override.kind)
        for key, planned in self._planned.items():
            if any(_has(planned.state, each) for each in selectors) and override.concerns(key):
                yield key

    def _apply_service(self, change: Change, touched: dict[ServiceKey, None]) -> None:
        key = ServiceKey(change.key.namespace, change.key.name)
        if change.value == self._services.get(key):
            return
        touched[key] = None
        if isinstance(change.value, Service):
            self._services[key] = change.value
        else:
            self._services.pop(key, None)

    def _apply_slice(self, change: Change, touched: dict[ServiceKey, None]) -> None:
        name = SliceKey(change.key.namespace, change.key.name)
        owner = self._slice_owner.pop(name, None)
        held = self._slices[owner].pop(name) if owner is not None else None
        if owner is not None and not self._slices[owner]:
            del self._slices[owner]
        value = change.value if isinstance(change.value, EndpointSlice) else None
        if value is not None:
            self._slice_owner[name] = value.service
            self._slices.setdefault(value.service, {})[name] = value
        if value != held:
            touched.update(
                (key, None) for key in (owner, value.service if value is not None else None) if key is not None
            )

    def _apply_node(self, change: Change, effects: Effects) -> None:
        name = change.key.name
        if change.value == self._nodes.get(name):
            return
        before = self.node_view(name)
        effects.touched_nodes.add(name)
        if isinstance(change.value, Node):
            self._nodes[name] = change.value
        else:
            self._nodes.pop(name, None)
        if self.node_view(name) != before:
            effects.nodes.setdefault(name, before)

    def _apply_cidr(self, change: Change, effects: Effects, touched: dict[ServiceKey, None]) -> None:
        if isinstance(change.value, ServiceCIDR):
            self._cidrs[change.key.name] = change.value
        else:
            self._cidrs.pop(change.key.name, None)
        cidrs = tuple(sorted({prefix for cidr in self._cidrs.values() for prefix in cidr.cidrs}))
        if cidrs != self._service_cidrs:
            self._service_cidrs = cidrs
            effects.are_all_nodes_changed = True
            touched.update((key, None) for key in self._overrides.registering())

    def _join_again(self, touched: dict[ServiceKey, None], effects: Effects) -> None:
        effects.touched_services.update(touched)
        states: dict[ServiceKey, ServiceState | None] = {}
        rivals: set[ServiceKey] = set()
        for key in touched:
            state = self.without_overrides(key)
            if state is not None:
                state = apply_overrides(state, self._overrides.of(key), self._service_cidrs)
            before = self._planned.get(key)
            if before is not None and state is not None and before.state == state:
                continue
            states[key] = state
            rivals |= self._claims.update(_claims(before.state if before else None), _claims(state))
        for key in sorted(rivals - states.keys()):
            states[key] = self._planned[key].state
        for key, state in states.items():
            self._store(key, state, effects)

    def _store(self, key: ServiceKey, state: ServiceState | None, effects: Effects) -> None:
        before = self._planned.get(key)
        after = PlannedService(state, self._claims.lost(key, claims_of(state))) if state is not None else None
        if after == before:
            return
        effects.services[key] = before
        if after is None:
            del self._planned[key]
        else:
            self._planned[key] = after


def _has(state: ServiceState, selector: Selector) -> bool:
    """Whether a selector matches an endpoint; most are ruled out by the node they name."""
    if selector.node_name and selector.node_name not in state.named_nodes:
        return False
    return any(selector.matches(e) for port in state.ports for e in port.endpoints)


def _claims(state: ServiceState | None) -> dict[Claim, Claimant]:
    return claims_of(state) if state is not None else {}


def _ordered_addresses(node: Node) -> tuple[bytes, ...]:
    """InternalIPs first, as kube-proxy picks node IPs, then the rest; the API's order within each, no duplicates."""
    ranked = sorted(node.addresses, key=lambda address: address.type != "InternalIP")
    return tuple(dict.fromkeys(address.address for address in ranked))
