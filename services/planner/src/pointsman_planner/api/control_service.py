# SPDX-License-Identifier: Apache-2.0
"""ControlService on gRPC: answers from the planner's state at one moment, watches and waits; read-only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1 import control_service_pb2_grpc as pb_grpc
from pointsman.types.v1 import types_pb2
from pointsman_chassis.clock import SystemClock
from pointsman_chassis.errors import NotFoundError, NotInSyncError, PeerError, errors_to_status
from pointsman_model.names import Prefix, Protocol, ServiceKey
from pointsman_model.packet import Packet
from pointsman_model.plan import DataplaneSettings, DetectLocal, TrafficClass
from pointsman_model.wire.cluster import endpoint_slice_to_pb, node_to_pb
from pointsman_model.wire.plan import node_facts_to_pb, service_plan_to_pb
from pointsman_model.wire.positions import position_to_pb
from pointsman_planner.api.control_codec import (
    difference_to_pb,
    explanation_to_pb,
    name_to_pb,
    status_to_pb,
    summary_to_pb,
)
from pointsman_planner.api.control_wait import Waits, selection_of
from pointsman_planner.api.control_watch import Watches
from pointsman_planner.api.endpoint_codec import report_to_pb
from pointsman_planner.api.node_board import NodeBoard
from pointsman_planner.api.paging import fitting, page_of
from pointsman_planner.api.plan_service import PlanService
from pointsman_planner.api.sight import sight_of
from pointsman_planner.api.watch_scopes import EndpointScope, NodeScope, ServiceScope
from pointsman_planner.core.assignment import plan_service
from pointsman_planner.core.cluster_state import PlannedService
from pointsman_planner.core.difference import differences, refusals
from pointsman_planner.core.endpoint_report import report_endpoints
from pointsman_planner.core.explain import explain_packet
from pointsman_planner.core.label_selector import LabelSelector, parse_label_selector
from pointsman_planner.core.planner import Planner
from pointsman_planner.core.view import View, view_of
from pointsman_planner.metrics import ControlMetrics
from pointsman_planner.store.node_status_store import NodeStatusStore

SERVICE = "pointsman.control.v1.ControlService"

_Context = Any
"""grpc.aio's servicer context; its class is not public."""


class ControlService(pb_grpc.ControlServiceServicer):
    """Serves ControlService for one planner."""

    def __init__(
        self, *, planner: Planner, plans: PlanService, store: NodeStatusStore, metrics: ControlMetrics
    ) -> None:
        clock = SystemClock()
        self._planner = planner
        self.board = NodeBoard(planner=planner, plans=plans, store=store, clock=clock)
        self._watches = Watches(
            planner_id=plans.planner_id,
            heartbeat_seconds=plans.patience.heartbeat_seconds,
            clock=clock,
            metrics=metrics,
        )
        self._waits = Waits(planner=planner, board=self.board, clock=clock, metrics=metrics)

    async def ListServices(self, request: pb.ListServicesRequest, context: _Context) -> pb.ListServicesResponse:  # noqa: N802 - the name in the proto
        """Services with their ports and endpoint counts."""
        async with errors_to_status(context):
            self._require_in_sync()
            services = self._planner.cluster.services
            selector = _selector(request.label_selector)
            keys = sorted(
                key
                for key, planned in services.items()
                if request.namespace in {"", key.namespace}
                and sight_of(context).sees(key.namespace)
                and selector.selects(dict(planned.state.service.labels))
            )
            page = page_of(keys, request.page_size, request.page_token)
            summaries = (summary_to_pb(self._planner.cluster, services[ServiceKey(*key)]) for key in page.keys)
            found, token = fitting(page, summaries)
            return pb.ListServicesResponse(
                services=found,
                next_page_token=token,
                position=position_to_pb(self._planner.position),
            )

    async def GetService(self, request: pb.GetServiceRequest, context: _Context) -> pb.GetServiceResponse:  # noqa: N802 - the name in the proto
        """One Service: raw facts and the plan as one node sees it."""
        async with errors_to_status(context):
            self._require_in_sync()
            planned = self._service(request.name)
            view = self._view(planned, request.node_name)
            return pb.GetServiceResponse(
                summary=summary_to_pb(self._planner.cluster, planned),
                endpoint_slices=map(endpoint_slice_to_pb, self._planner.cluster.slices_of(planned.state.key)),
                plan=service_plan_to_pb(plan_service(planned.state, view, planned.lost)),
                position=position_to_pb(self._planner.position),
            )

    async def ListNodes(self, request: pb.ListNodesRequest, context: _Context) -> pb.ListNodesResponse:  # noqa: N802 - the name in the proto
        """Nodes and how far each has come: every Node of the cluster, and every enforcer that is connected."""
        async with errors_to_status(context):
            self._require_in_sync()
            selection = selection_of(request.nodes, self._planner)
            keys = sorted((name,) for name in self.board.names if selection.selects(name))
            page = page_of(keys, request.page_size, request.page_token)
            statuses = await self.board.statuses(key[0] for key in page.keys)
            found, token = fitting(page, (status_to_pb(statuses[key[0]]) for key in page.keys))
            return pb.ListNodesResponse(
                nodes=found,
                next_page_token=token,
                position=position_to_pb(self._planner.position),
            )

    async def GetNodePlan(self, request: pb.GetNodePlanRequest, context: _Context) -> pb.GetNodePlanResponse:  # noqa: N802 - the name in the proto
        """The whole plan of one node."""
        async with errors_to_status(context):
            self._require_in_sync()
            self._require_node(request.node_name)
            cluster, index = self._planner.cluster, self._planner.index
            page = page_of(sorted(cluster.services), request.page_size, request.page_token)
            found, token = fitting(page, (self._planned_on(ServiceKey(*key), request.node_name) for key in page.keys))
            return pb.GetNodePlanResponse(
                node=node_facts_to_pb(cluster.node_view(request.node_name).facts),
                services=found,
                next_page_token=token,
                digest=index.digest_once(request.node_name),
                position=position_to_pb(self._planner.position),
            )

    def _planned_on(self, key: ServiceKey, node_name: str) -> pb.PlannedService:
        planned = self._planner.cluster.services[key]
        plan = plan_service(planned.state, self._view(planned, node_name), planned.lost)
        return pb.PlannedService(name=name_to_pb(key), plan=service_plan_to_pb(plan))

    async def ExplainPacket(self, request: pb.ExplainPacketRequest, context: _Context) -> pb.ExplainPacketResponse:  # noqa: N802 - the name in the proto
        """Where a packet goes on a node, and why."""
        async with errors_to_status(context):
            return self.explain(request)

    async def GetNode(self, request: pb.GetNodeRequest, context: _Context) -> pb.GetNodeResponse:  # noqa: N802 - the name in the proto
        """One node and how far it has come."""
        async with errors_to_status(context):
            return await self.node(request)

    async def GetEndpoints(self, request: pb.GetEndpointsRequest, context: _Context) -> pb.GetEndpointsResponse:  # noqa: N802 - the name in the proto
        """Every endpoint of a Service, and why it is not in a set."""
        async with errors_to_status(context):
            return self.endpoints(request)

    async def WaitConverged(self, request: pb.WaitConvergedRequest, context: _Context) -> pb.WaitConvergedResponse:  # noqa: N802 - the name in the proto
        """Wait until nodes have something in their kernels."""
        async with errors_to_status(context):
            self._require_in_sync()
            return await self._waits.wait(request)

    async def WatchServices(  # noqa: N802 - the name in the proto
        self, request: pb.WatchServicesRequest, context: _Context
    ) -> AsyncIterator[pb.WatchServicesResponse]:
        """Services and their changes."""
        async with errors_to_status(context):
            self._require_in_sync()
            scope = ServiceScope(
                planner=self._planner,
                board=self.board,
                namespace=request.namespace,
                selector=_selector(request.label_selector),
                sight=sight_of(context),
            )
            async for message in self._watches.watch(scope, request.resume_token, self._planner):
                yield message

    async def WatchEndpoints(  # noqa: N802 - the name in the proto
        self, request: pb.WatchEndpointsRequest, context: _Context
    ) -> AsyncIterator[pb.WatchEndpointsResponse]:
        """Endpoints and their changes."""
        async with errors_to_status(context):
            self._require_in_sync()
            if request.service.name and not request.service.namespace:
                raise PeerError("service.namespace: is needed beside a name")
            key = ServiceKey(request.service.namespace, request.service.name)
            scope = EndpointScope(
                planner=self._planner,
                board=self.board,
                service=key,
                node_name=request.node_name,
                sight=sight_of(context),
            )
            async for message in self._watches.watch(scope, request.resume_token, self._planner):
                yield message

    async def WatchNodes(  # noqa: N802 - the name in the proto
        self, request: pb.WatchNodesRequest, context: _Context
    ) -> AsyncIterator[pb.WatchNodesResponse]:
        """Nodes and their changes."""
        async with errors_to_status(context):
            self._require_in_sync()
            scope = NodeScope(board=self.board, selection=selection_of(request.nodes, self._planner))
            async for message in self._watches.watch(scope, request.resume_token, self._planner):
                yield message

    def explain(self, request: pb.ExplainPacketRequest) -> pb.ExplainPacketResponse:
        """What ExplainPacket answers; raises NotInSyncError and PeerError."""
        self._require_in_sync()
        self._require_node(request.node_name)
        session = self._planner.sessions.get(request.node_name)
        settings = session.hello.settings if session is not None else None
        try:
            explanation = explain_packet(
                self._planner.cluster, request.node_name, settings or _DEFAULT_SETTINGS, _packet(request)
            )
        except ValueError as error:
            raise PeerError(str(error)) from error
        response = explanation_to_pb(explanation, self._planner.position)
        if settings is None:
            response.steps.insert(0, "no enforcer is connected: its settings are unknown, kube-proxy's are assumed")
        return response

    async def node(self, request: pb.GetNodeRequest) -> pb.GetNodeResponse:
        """What GetNode answers; raises NotInSyncError and NotFoundError."""
        self._require_in_sync()
        name = request.node_name
        records = await self.board.records([name])
        if not self.board.is_there(name) and name not in records:
            raise NotFoundError(f"there is no node {name[:256]!r}")
        status, session = self.board.status(name, records), self._planner.sessions.get(name)
        found = differences(session, self._planner) if session is not None else refusals(status.failures)
        response = pb.GetNodeResponse(
            status=status_to_pb(status),
            position=position_to_pb(self._planner.position),
            differences=map(difference_to_pb, found),
            has_stream=session is not None,
        )
        node = self._planner.cluster.nodes.get(name)
        if node is not None:
            response.node.CopyFrom(node_to_pb(node))
        return response

    def endpoints(self, request: pb.GetEndpointsRequest) -> pb.GetEndpointsResponse:
        """What GetEndpoints answers; raises NotInSyncError, NotFoundError and PeerError."""
        self._require_in_sync()
        planned = self._service(request.service)
        if request.node_name:
            self._require_node(request.node_name)
        report = report_endpoints(self._planner.cluster, planned, request.node_name)
        return pb.GetEndpointsResponse(endpoints=report_to_pb(report), position=position_to_pb(self._planner.position))

    def close(self) -> None:
        """This planner is going away: watches and waits end, and their clients come to another one."""
        self._watches.close()
        self._waits.close()

    def _service(self, name: types_pb2.NamespacedName) -> PlannedService:
        key = ServiceKey(name.namespace, name.name)
        planned = self._planner.cluster.services.get(key)
        if planned is None:
            raise NotFoundError(f"there is no service {key} to program")
        return planned

    def _view(self, planned: PlannedService, node_name: str) -> View:
        return view_of(planned.state, self._planner.cluster.node_view(node_name))

    def _require_in_sync(self) -> None:
        if not self._planner.is_in_sync:
            raise NotInSyncError("the planner has not seen the whole cluster yet; try again in a moment")

    def _require_node(self, name: str) -> None:
        if not name or (name not in self._planner.cluster.nodes and name not in self._planner.sessions):
            raise PeerError(f"node_name: there is no node {name!r}")


_DEFAULT_SETTINGS = DataplaneSettings(
    detect_local=DetectLocal.NONE, node_port_addresses=(Prefix(bytes(4), 0), Prefix(bytes(16), 0))
)


def _selector(text: str) -> LabelSelector:
    try:
        return parse_label_selector(text)
    except ValueError as error:
        raise PeerError(f"label_selector: {error}") from error


def _packet(request: pb.ExplainPacketRequest) -> Packet:
    try:
        protocol = Protocol(request.protocol)
        sender = TrafficClass(request.source) if request.source else None
    except ValueError as error:
        raise PeerError(str(error)) from error
    return Packet(
        source=request.source_address,
        destination=request.destination_address,
        destination_port=request.destination_port,
        protocol=protocol,
        sender=sender,
    )
