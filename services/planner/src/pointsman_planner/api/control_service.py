# SPDX-License-Identifier: Apache-2.0
"""ControlService on gRPC: answers from the planner's state at one moment, read-only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc.aio

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1 import control_service_pb2_grpc as pb_grpc
from pointsman_chassis.errors import NotInSyncError, PeerError, PointsmanError, errors_to_status
from pointsman_model.names import Prefix, Protocol, ServiceKey
from pointsman_model.packet import Packet
from pointsman_model.plan import DataplaneSettings, DetectLocal, TrafficClass
from pointsman_model.wire.cluster import endpoint_slice_to_pb
from pointsman_model.wire.plan import node_facts_to_pb, service_plan_to_pb
from pointsman_model.wire.positions import position_to_pb
from pointsman_planner.api.control_codec import (
    explanation_to_pb,
    name_to_pb,
    status_to_pb,
    summary_to_pb,
)
from pointsman_planner.api.paging import page_of
from pointsman_planner.api.plan_service import PlanService
from pointsman_planner.core.assignment import plan_service
from pointsman_planner.core.cluster_state import PlannedService
from pointsman_planner.core.explain import explain_packet
from pointsman_planner.core.planner import Planner
from pointsman_planner.core.status import NodeState, NodeStatus
from pointsman_planner.core.view import View, view_of
from pointsman_planner.store.node_status_store import NodeStatusStore

SERVICE = "pointsman.control.v1.ControlService"

_Context = Any
"""grpc.aio's servicer context; its class is not public."""


class ControlService(pb_grpc.ControlServiceServicer):
    """Serves ControlService for one planner."""

    def __init__(self, *, planner: Planner, plans: PlanService, store: NodeStatusStore) -> None:
        self._planner = planner
        self._plans = plans
        self._store = store

    async def ListServices(self, request: pb.ListServicesRequest, context: _Context) -> pb.ListServicesResponse:  # noqa: N802 - the name in the proto
        """Services with their ports and endpoint counts."""
        async with errors_to_status(context):
            self._require_in_sync()
            services = self._planner.cluster.services
            keys = sorted(key for key in services if request.namespace in {"", key.namespace})
            page = page_of(keys, request.page_size, request.page_token)
            return pb.ListServicesResponse(
                services=[summary_to_pb(self._planner.cluster, services[ServiceKey(*key)]) for key in page.keys],
                next_page_token=page.next_token,
                position=position_to_pb(self._planner.position),
            )
        raise _unreachable()

    async def GetService(self, request: pb.GetServiceRequest, context: _Context) -> pb.GetServiceResponse:  # noqa: N802 - the name in the proto
        """One Service: raw facts and the plan as one node sees it."""
        async with errors_to_status(context):
            self._require_in_sync()
            key = ServiceKey(request.name.namespace, request.name.name)
            planned = self._planner.cluster.services.get(key)
            if planned is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {key} to program")
                raise _unreachable()
            view = self._view(planned, request.node_name)
            return pb.GetServiceResponse(
                summary=summary_to_pb(self._planner.cluster, planned),
                endpoint_slices=map(endpoint_slice_to_pb, self._planner.cluster.slices_of(key)),
                plan=service_plan_to_pb(plan_service(planned.state, view, planned.lost)),
                position=position_to_pb(self._planner.position),
            )
        raise _unreachable()

    async def ListNodes(self, request: pb.ListNodesRequest, context: _Context) -> pb.ListNodesResponse:  # noqa: N802 - the name in the proto
        """Nodes and how far each has come: every Node of the cluster, and every enforcer that is connected."""
        async with errors_to_status(context):
            self._require_in_sync()
            sessions = self._planner.sessions
            keys = sorted((name,) for name in self._planner.cluster.nodes.keys() | sessions.keys())
            page = page_of(keys, request.page_size, request.page_token)
            names = [key[0] for key in page.keys]
            remote = await self._store.read(name for name in names if name not in sessions)
            return pb.ListNodesResponse(
                nodes=[status_to_pb(self._status(name, remote)) for name in names],
                next_page_token=page.next_token,
                position=position_to_pb(self._planner.position),
            )
        raise _unreachable()

    async def GetNodePlan(self, request: pb.GetNodePlanRequest, context: _Context) -> pb.GetNodePlanResponse:  # noqa: N802 - the name in the proto
        """The whole plan of one node."""
        async with errors_to_status(context):
            self._require_in_sync()
            self._require_node(request.node_name)
            cluster, index = self._planner.cluster, self._planner.index
            page = page_of(sorted(cluster.services), request.page_size, request.page_token)
            response = pb.GetNodePlanResponse(
                node=node_facts_to_pb(cluster.node_view(request.node_name).facts),
                next_page_token=page.next_token,
                digest=index.digest_once(request.node_name),
                position=position_to_pb(self._planner.position),
            )
            for key in page.keys:
                planned = cluster.services[ServiceKey(*key)]
                plan = plan_service(planned.state, self._view(planned, request.node_name), planned.lost)
                response.services.add(name=name_to_pb(ServiceKey(*key)), plan=service_plan_to_pb(plan))
            return response
        raise _unreachable()

    async def ExplainPacket(self, request: pb.ExplainPacketRequest, context: _Context) -> pb.ExplainPacketResponse:  # noqa: N802 - the name in the proto
        """Where a packet goes on a node, and why."""
        async with errors_to_status(context):
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
        raise _unreachable()

    async def GetNode(self, request: pb.GetNodeRequest, context: _Context) -> pb.GetNodeResponse:  # noqa: N802, ARG002 - the name in the proto
        """One node and how far it has come."""
        await _not_served(context)
        raise _unreachable()

    async def GetEndpoints(self, request: pb.GetEndpointsRequest, context: _Context) -> pb.GetEndpointsResponse:  # noqa: N802, ARG002 - the name in the proto
        """Every endpoint of a Service, and why it is not in a set."""
        await _not_served(context)
        raise _unreachable()

    async def WaitConverged(self, request: pb.WaitConvergedRequest, context: _Context) -> pb.WaitConvergedResponse:  # noqa: N802, ARG002 - the name in the proto
        """Wait until nodes have something in their kernels."""
        await _not_served(context)
        raise _unreachable()

    async def WatchServices(  # noqa: N802 - the name in the proto
        self, _request: pb.WatchServicesRequest, context: _Context
    ) -> AsyncIterator[pb.WatchServicesResponse]:
        """Services and their changes."""
        await _not_served(context)
        raise _unreachable()
        yield pb.WatchServicesResponse()

    async def WatchEndpoints(  # noqa: N802 - the name in the proto
        self, _request: pb.WatchEndpointsRequest, context: _Context
    ) -> AsyncIterator[pb.WatchEndpointsResponse]:
        """Endpoints and their changes."""
        await _not_served(context)
        raise _unreachable()
        yield pb.WatchEndpointsResponse()

    async def WatchNodes(  # noqa: N802 - the name in the proto
        self, _request: pb.WatchNodesRequest, context: _Context
    ) -> AsyncIterator[pb.WatchNodesResponse]:
        """Nodes and their changes."""
        await _not_served(context)
        raise _unreachable()
        yield pb.WatchNodesResponse()

    def _view(self, planned: PlannedService, node_name: str) -> View:
        return view_of(planned.state, self._planner.cluster.node_view(node_name))

    def _status(self, name: str, remote: dict[str, NodeStatus]) -> NodeStatus:
        """What is known now; of a node that is not connected here, what was recorded last, but never as converged.

        Whoever recorded it compared with an older plan: after a restart it would vouch for changes it never saw.
        """
        session = self._planner.sessions.get(name)
        if session is not None:
            return self._plans.status(session)
        return replace(remote.get(name) or NodeStatus(name=name, state=_AWAY), state=_AWAY, desired_digest=0)

    def _require_in_sync(self) -> None:
        if not self._planner.is_in_sync:
            raise NotInSyncError("the planner has not seen the whole cluster yet; try again in a moment")

    def _require_node(self, name: str) -> None:
        if not name or (name not in self._planner.cluster.nodes and name not in self._planner.sessions):
            raise PeerError(f"node_name: there is no node {name!r}")


_AWAY = NodeState.DISCONNECTED
_DEFAULT_SETTINGS = DataplaneSettings(
    detect_local=DetectLocal.NONE, node_port_addresses=(Prefix(bytes(4), 0), Prefix(bytes(16), 0))
)


async def _not_served(context: _Context) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this planner does not serve this call")


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


def _unreachable() -> PointsmanError:
    """`context.abort` always raises; this tells the type checker."""
    return PointsmanError("a call went on after it was aborted")
