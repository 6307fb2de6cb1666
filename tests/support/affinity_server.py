# SPDX-License-Identifier: Apache-2.0
"""Planners that share remembered clients over one store, and enforcers that report some and are told of others."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.clock import SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_model.cluster import ClusterObject
from pointsman_model.names import Protocol, ServiceKey, ServicePortName, format_address, parse_address
from pointsman_model.remembered import ClientKey, RememberedClient
from pointsman_model.wire.remembered import memories_to_pb, memory_from_pb
from pointsman_planner.affinity_parts import AffinityParts
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.store.port import Store
from pointsman_planner.store.replicas import Replicas
from support.cluster_objects import endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import EnforcerClient, PlanServer, enforcer_client, plan_server
from support.planner_stores import running

WEB = ServiceKey("shop", "web")
PORT = ServicePortName(WEB, "p", Protocol.TCP)
POD_PORT = 8080


def objects(*endpoints: str) -> tuple[ClusterObject, ...]:
    """A Service with a node port and session affinity, and these endpoints."""
    web = service("shop/web", "10.96.0.1", ports=["p:80"], node_ports={"p": 30080}, affinity_timeout_seconds=600)
    return web, endpoint_slice("shop/web-x", "web", endpoints, [f"p:{POD_PORT}"])


def client(address: str, endpoint: str, *, seconds: float = 600, port: ServicePortName = PORT) -> RememberedClient:
    """A client that some node remembers."""
    key = ClientKey(port, parse_address(address))
    return RememberedClient(key, (parse_address(endpoint), POD_PORT), round(seconds * 1000))


class SharingEnforcer(ModelEnforcer):
    """It says that it takes remembered clients."""

    capabilities = ("affinity",)

    def hello(self) -> pb.StreamNodePlanRequest:
        message = super().hello()
        message.hello.capabilities.extend(self.capabilities)
        return message


class SharingNode:
    """One enforcer's stream."""

    def __init__(self, stream: EnforcerClient) -> None:
        self.stream = stream

    async def report(self, *clients: RememberedClient) -> None:
        """Tell the planner."""
        for message in memories_to_pb(clients):
            await self.stream.send(pb.StreamNodePlanRequest(affinity=message))

    @property
    def messages(self) -> list[list[RememberedClient]]:
        """What the planner told, message by message."""
        responses = list(self.stream.responses)
        return [memory_from_pb(each.affinity) for each in responses if each.HasField("affinity")]

    @property
    def told(self) -> dict[str, str]:
        """The endpoint of each client as last told, by address."""
        clients = [each for message in self.messages for each in message]
        return {format_address(each.key.client): format_address(each.endpoint[0]) for each in clients}

    def left_ms(self, address: str) -> int:
        """The time of a client as last told."""
        key = parse_address(address)
        return [each.left_ms for message in self.messages for each in message if each.key.client == key][-1]


class SharingPlanner:
    """A planner with its part of the store."""

    def __init__(self, served: PlanServer, store: Store) -> None:
        self.served = served
        self.registry = Registry(process=False)
        metrics = StoreMetrics(self.registry)
        self.replicas = Replicas(store=store, metrics=metrics, check_seconds=0.1)
        self.parts = AffinityParts(
            planner=served.planner,
            plans=served.plans,
            store=store,
            replicas=self.replicas,
            registry=self.registry,
            store_metrics=metrics,
            clock=SystemClock(),
        )

    @property
    def held(self) -> dict[str, str]:
        """The endpoint of each client, by address."""
        held = self.parts.records.held
        return {format_address(key.client): format_address(each.endpoint[0]) for key, each in held.items()}

    def value(self, name: str, **labels: str) -> float:
        """A figure."""
        return self.registry.value(f"pointsman_planner_{name}", labels or None) or 0.0


class SharingCluster:
    """Planners by number; nodes connect to one of them."""

    def __init__(self, stack: AsyncExitStack, endpoints: tuple[str, ...]) -> None:
        self._stack = stack
        self._endpoints = endpoints
        self.planners: list[SharingPlanner] = []

    async def add(self, store: Store) -> int:
        """One more planner, in sync with the store and the cluster; its number."""
        self._stack.push_async_callback(store.close)
        served = await self._stack.enter_async_context(plan_server(planner_id=f"planner-{len(self.planners)}"))
        planner = SharingPlanner(served, store)
        await self._stack.enter_async_context(running(store, planner.replicas, planner.parts))
        assert await planner.replicas.loaded(20)
        nodes = (node(f"node-{each}", f"192.168.0.{each}") for each in (1, 2, 3))
        served.put(*nodes, *objects(*self._endpoints))
        self.planners.append(planner)
        return len(self.planners) - 1

    def put(self, *values: ClusterObject) -> None:
        """A change that every planner takes in."""
        for planner in self.planners:
            planner.served.put(*values)

    async def connect(self, name: str, planner: int = 0, kind: type[ModelEnforcer] = SharingEnforcer) -> SharingNode:
        """A node with everything programmed."""
        served = self.planners[planner].served
        stream = await self._stack.enter_async_context(enforcer_client(served, kind(name)))
        async with asyncio.timeout(20):
            while not served.is_converged(name):
                await asyncio.sleep(0.005)
        return SharingNode(stream)


@asynccontextmanager
async def sharing(
    make_store: Callable[[], Store], *, planners: int = 2, endpoints: Iterable[str] = ("10.1.0.1", "10.1.0.2")
) -> AsyncIterator[SharingCluster]:
    """Planners in sync with each other, and with a cluster of three nodes and one Service."""
    async with AsyncExitStack() as stack:
        cluster = SharingCluster(stack, tuple(endpoints))
        for _ in range(planners):
            await cluster.add(make_store())
        yield cluster
