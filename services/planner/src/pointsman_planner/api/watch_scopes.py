# SPDX-License-Identifier: Apache-2.0
"""What each of the three watches is about: Services, their endpoints as a node sees them, nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_model.cluster import ObjectKey, ObjectKind
from pointsman_model.names import ServiceKey
from pointsman_planner.api.control_codec import status_to_pb, summary_to_pb
from pointsman_planner.api.control_watch import Built
from pointsman_planner.api.endpoint_codec import report_to_pb
from pointsman_planner.api.node_board import NodeBoard, node_key
from pointsman_planner.core.endpoint_report import report_endpoints
from pointsman_planner.core.label_selector import LabelSelector
from pointsman_planner.core.planner import Planner
from pointsman_planner.core.rights import EVERYTHING, Sight
from pointsman_planner.core.watching import ChangeLog


class ServiceScope:
    """Services of a namespace with some labels."""

    def __init__(
        self, *, planner: Planner, board: NodeBoard, namespace: str, selector: LabelSelector, sight: Sight = EVERYTHING
    ) -> None:
        self._planner = planner
        self._namespace = namespace
        self._selector = selector
        self._sight = sight
        self.log: ChangeLog = board.service_log

    def everything(self) -> Iterable[ObjectKey]:
        """Every Service."""
        return [ObjectKey(ObjectKind.SERVICE, *key) for key in sorted(self._planner.cluster.services)]

    def concerned(self, keys: Iterable[ObjectKey]) -> Sequence[ObjectKey]:
        """Services of the namespace; whether the labels fit is found when one is built."""
        return [key for key in keys if key.kind is ObjectKind.SERVICE and self._is_in(key.namespace)]

    def _is_in(self, namespace: str) -> bool:
        return self._namespace in {"", namespace} and self._sight.sees(namespace)

    async def build(self, keys: Sequence[ObjectKey]) -> Built:
        """Summaries of those that are there and selected."""
        updates, removals = [], []
        for key in map(_service_key, keys):
            planned = self._planner.cluster.services.get(key)
            if planned is not None and self._selector.selects(dict(planned.state.service.labels)):
                updates.append(summary_to_pb(self._planner.cluster, planned))
            else:
                removals.append(ObjectKey(ObjectKind.SERVICE, *key))
        return Built(updates, removals)

    async def look_around(self) -> None:
        """Every change of a Service is told."""

    def response(self, **parts: Any) -> pb.WatchServicesResponse:
        """A message of the stream."""
        return pb.WatchServicesResponse(**parts)

    def changes(self, built: Built) -> pb.ServiceChanges:
        """The `changes` field."""
        return pb.ServiceChanges(services=built.updates, removals=map(_name_to_pb, built.removals))


class EndpointScope:
    """Endpoints of one Service, of a namespace, or of all, as one node sees them."""

    def __init__(
        self, *, planner: Planner, board: NodeBoard, service: ServiceKey, node_name: str, sight: Sight = EVERYTHING
    ) -> None:
        self._planner = planner
        self._service = service
        self._node = node_name
        self._sight = sight
        self.log: ChangeLog = board.service_log

    def everything(self) -> Iterable[ObjectKey]:
        """Every Service in question."""
        return [
            ObjectKey(ObjectKind.SERVICE, *key) for key in sorted(self._planner.cluster.services) if self._is_in(key)
        ]

    def concerned(self, keys: Iterable[ObjectKey]) -> Sequence[ObjectKey]:
        """Services in question; all of them when the node itself changed, since it may see each otherwise."""
        changed = list(keys)
        if self._node and node_key(self._node) in changed:
            changed += self.everything()
        wanted = (key for key in changed if key.kind is ObjectKind.SERVICE and self._is_in(_service_key(key)))
        return list(dict.fromkeys(wanted))

    async def build(self, keys: Sequence[ObjectKey]) -> Built:
        """Reports of those that are there."""
        updates, removals = [], []
        for key in map(_service_key, keys):
            planned = self._planner.cluster.services.get(key)
            if planned is None:
                removals.append(ObjectKey(ObjectKind.SERVICE, *key))
            else:
                updates.append(report_to_pb(report_endpoints(self._planner.cluster, planned, self._node)))
        return Built(updates, removals)

    async def look_around(self) -> None:
        """Every change of a Service or a node is told."""

    def response(self, **parts: Any) -> pb.WatchEndpointsResponse:
        """A message of the stream."""
        return pb.WatchEndpointsResponse(**parts)

    def changes(self, built: Built) -> pb.EndpointChanges:
        """The `changes` field."""
        return pb.EndpointChanges(services=built.updates, removals=map(_name_to_pb, built.removals))

    def _is_in(self, key: ServiceKey) -> bool:
        is_asked_for = self._service.namespace in {"", key.namespace} and self._service.name in {"", key.name}
        return is_asked_for and self._sight.sees(key.namespace)


class NodeSelection:
    """Nodes by name and by labels."""

    def __init__(self, *, planner: Planner, names: Iterable[str], selector: LabelSelector) -> None:
        self._planner = planner
        self.names = frozenset(names)
        """Named one by one; empty = all."""
        self._selector = selector

    def selects(self, name: str) -> bool:
        """Whether a node is meant; one that the API server does not have has no labels."""
        if self.names and name not in self.names:
            return False
        node = self._planner.cluster.nodes.get(name)
        return self._selector.selects(dict(node.labels) if node is not None else {})


class NodeScope:
    """Statuses of selected nodes."""

    def __init__(self, *, board: NodeBoard, selection: NodeSelection) -> None:
        self._board = board
        self._selection = selection
        self.log: ChangeLog = board.node_log

    def everything(self) -> Iterable[ObjectKey]:
        """Every node there is."""
        return [node_key(name) for name in sorted(self._board.names)]

    def concerned(self, keys: Iterable[ObjectKey]) -> Sequence[ObjectKey]:
        """Nodes in question; whether the labels fit is found when one is built."""
        return [key for key in keys if not self._selection.names or key.name in self._selection.names]

    async def build(self, keys: Sequence[ObjectKey]) -> Built:
        """Statuses of those that are there and selected."""
        statuses = await self._board.statuses(key.name for key in keys if self._is_selected(key))
        there = [key for key in keys if key.name in statuses and self._is_selected(key)]
        updates = [status_to_pb(statuses[key.name]) for key in there]
        known = set(there)
        return Built(updates, [key for key in keys if key not in known])

    def _is_selected(self, key: ObjectKey) -> bool:
        return self._board.is_there(key.name) and self._selection.selects(key.name)

    async def look_around(self) -> None:
        """Nodes of other planners: their records change without a word."""
        await self._board.look_around()

    def response(self, **parts: Any) -> pb.WatchNodesResponse:
        """A message of the stream."""
        return pb.WatchNodesResponse(**parts)

    def changes(self, built: Built) -> pb.NodeChanges:
        """The `changes` field."""
        return pb.NodeChanges(nodes=built.updates, removals=[key.name for key in built.removals])


def _service_key(key: ObjectKey) -> ServiceKey:
    return ServiceKey(key.namespace, key.name)


def _name_to_pb(key: ObjectKey) -> types_pb2.NamespacedName:
    return types_pb2.NamespacedName(namespace=key.namespace, name=key.name)
