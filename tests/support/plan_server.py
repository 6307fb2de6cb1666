# SPDX-License-Identifier: Apache-2.0
"""A planner's gRPC server on loopback with a feed that the test drives, and enforcer clients that dial it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from pointsman.control.v1 import control_service_pb2_grpc
from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.clock import SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_chassis.server import GrpcServer
from pointsman_chassis.tls import TransportSecurity
from pointsman_chassis.tracing import Tracing
from pointsman_model.cluster import Change, ClusterObject, ClusterPosition, ObjectKey, ResourceVersions, key_of
from pointsman_planner.api import control_service, plan_service
from pointsman_planner.api.control_service import ControlService
from pointsman_planner.api.entrance import Entrance
from pointsman_planner.api.handover import Handover, HandoverPace
from pointsman_planner.api.plan_service import PlanService
from pointsman_planner.core.admission import AdmissionLimits
from pointsman_planner.core.planner import Batch, Planner
from pointsman_planner.core.priority import Priority
from pointsman_planner.metrics import ControlMetrics, PlannerMetrics, ShardingMetrics, StoreMetrics
from pointsman_planner.shard import Shard
from pointsman_planner.store.memory_store import MemoryStore
from pointsman_planner.store.node_status_store import NodeStatusStore
from pointsman_planner.store.port import Store
from support.model_enforcer import ModelEnforcer

DEADLINE_SECONDS = 20.0
METHOD = "/pointsman.plan.v1.PlanService/StreamNodePlan"


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; fails with `what` after a deadline."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_SECONDS
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        await asyncio.sleep(0.005)


class PlanServer:
    """The server side: `put` and `remove` are the cluster."""

    def __init__(
        self,
        *,
        planner_id: str = "planner-under-test",
        heartbeat_seconds: float = 5.0,
        checks_identity: bool = False,
        limits: AdmissionLimits | None = None,
        shard: Shard | None = None,
        shared: Store | None = None,
    ) -> None:
        self.registry = Registry(process=False)
        self.planner = Planner(priority=Priority(["kube-system"]))
        self.store = NodeStatusStore(store=shared or MemoryStore(), metrics=StoreMetrics(self.registry))
        sharding, clock = ShardingMetrics(self.registry), SystemClock()
        self.handover = Handover(planner_id=planner_id, pace=HandoverPace(), metrics=sharding, clock=clock)
        entrance = Entrance(limits=limits or AdmissionLimits(), metrics=sharding, clock=clock)
        self.plans = PlanService(
            planner=self.planner,
            planner_id=planner_id,
            heartbeat_interval_seconds=heartbeat_seconds,
            metrics=PlannerMetrics(self.registry),
            tracing=Tracing(),
            clock=SystemClock(),
            report=self.store.report,
            handover=shard.handover if shard is not None else self.handover,
            entrance=shard.entrance if shard is not None else entrance,
            checks_identity=checks_identity,
        )
        self.control = ControlService(
            planner=self.planner, plans=self.plans, store=self.store, metrics=ControlMetrics(self.registry)
        )
        self.revision = 0
        self.epoch = "test"
        self.versions = ResourceVersions()
        """How far the API server was read, as positions say from the next batch on."""
        self.port = 0

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def put(self, *objects: ClusterObject, traceparent: str = "") -> None:
        """One batch of upserts; the first batch opens the start gate."""
        self._apply(*(Change(key=key_of(value), value=value, traceparent=traceparent) for value in objects))

    def remove(self, *keys: ObjectKey) -> None:
        """One batch of removals."""
        self._apply(*(Change(key=key, value=None) for key in keys))

    def _apply(self, *changes: Change) -> None:
        self.revision += 1
        position = ClusterPosition(epoch=self.epoch, revision=self.revision, resource_versions=self.versions)
        self.plans.apply(Batch(changes=changes, position=position))

    def is_converged(self, *nodes: str) -> bool:
        """Whether these nodes have provably programmed everything."""
        return all(name in self.planner.sessions and self.planner.sessions[name].is_converged for name in nodes)


@asynccontextmanager
async def plan_server(
    *,
    heartbeat_seconds: float = 5.0,
    security: TransportSecurity | None = None,
    limits: AdmissionLimits | None = None,
    planner_id: str = "planner-under-test",
    shared: Store | None = None,
) -> AsyncIterator[PlanServer]:
    """A server that listens, with both services."""
    made = PlanServer(
        planner_id=planner_id,
        heartbeat_seconds=heartbeat_seconds,
        checks_identity=security is not None,
        limits=limits,
        shared=shared,
    )
    server = GrpcServer(address="127.0.0.1:0", security=security or TransportSecurity(insecure=True))
    server.add_raw_service(plan_service.SERVICE, made.plans.methods())
    control_service_pb2_grpc.add_ControlServiceServicer_to_server(made.control, server.server)
    server.declare(control_service.SERVICE)
    made.port = await server.start()
    tasks = [asyncio.create_task(made.plans.keep_time()), asyncio.create_task(made.store.run())]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        made.control.close()
        await server.stop(grace_seconds=0)


class EnforcerClient:
    """A stream that feeds a ModelEnforcer and acknowledges by itself, unless told not to."""

    def __init__(self, channel: grpc.aio.Channel, enforcer: ModelEnforcer, *, acks: bool = True) -> None:
        self.enforcer = enforcer
        self.acks = acks
        self.responses: list[pb.StreamNodePlanResponse] = []
        self.transactions: list[int] = []
        self.call: Any = channel.stream_stream(METHOD)()
        self._reader: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    async def start(self) -> None:
        """Say hello and follow."""
        await self.send(self.enforcer.hello())
        self._reader = asyncio.create_task(self._follow())

    async def send(self, message: pb.StreamNodePlanRequest) -> None:
        """Write one message; a stream takes one at a time, whoever writes."""
        async with self._writing:
            await self.call.write(message.SerializeToString())

    async def _follow(self) -> None:
        while True:
            try:
                data = await self.call.read()
            except grpc.aio.AioRpcError:
                return
            if data is grpc.aio.EOF:
                return
            self.responses.append(pb.StreamNodePlanResponse.FromString(data))
            nonce = self.enforcer.receive(data)
            if nonce is not None:
                self.transactions.append(nonce)
                if self.acks:
                    await self.send(self.enforcer.ack(nonce))

    async def status(self) -> tuple[grpc.StatusCode, str]:
        """Wait for the end; status and details."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.call.code(), await self.call.details()

    async def close(self) -> None:
        """Go away as a process that dies does."""
        self.call.cancel()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


@asynccontextmanager
async def enforcer_client(
    server: PlanServer, enforcer: ModelEnforcer, *, acks: bool = True, says_hello: bool = True
) -> AsyncIterator[EnforcerClient]:
    """An enforcer connected to the server."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        client = EnforcerClient(channel, enforcer, acks=acks)
        if says_hello:
            await client.start()
        try:
            yield client
        finally:
            await client.close()
