# SPDX-License-Identifier: Apache-2.0
"""Planners on loopback that serve OverrideService and plans, on any store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from pointsman.control.v1 import override_service_pb2 as pb
from pointsman.control.v1 import override_service_pb2_grpc as pb_grpc
from pointsman.types.v1 import types_pb2
from pointsman_chassis.clock import SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_chassis.server import GrpcServer
from pointsman_chassis.tls import TransportSecurity
from pointsman_model.names import ServiceKey, format_address, parse_address
from pointsman_planner.api import plan_service
from pointsman_planner.core.node_plan import plan
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.override_parts import OverrideOptions, OverrideParts
from pointsman_planner.store.memory_store import MemoryStore
from pointsman_planner.store.port import Store
from pointsman_planner.store.replicas import Replicas
from support.plan_server import PlanServer
from support.planner_stores import running

VIP = "10.96.0.10"


class OverrideServer(PlanServer):
    """A planner with overrides; `stub` calls it."""

    def __init__(self, store: Store, options: OverrideOptions, check_seconds: float) -> None:
        super().__init__()
        self.store_registry = Registry(process=False)
        metrics = StoreMetrics(self.store_registry)
        self.replicas = Replicas(store=store, metrics=metrics, check_seconds=check_seconds)
        self.parts = OverrideParts(
            planner=self.planner,
            on_change=self.plans.override,
            store=store,
            replicas=self.replicas,
            registry=self.registry,
            store_metrics=metrics,
            clock=SystemClock(),
            options=options,
        )
        self.stub: Any = None

    def endpoints(self, name: str = "shop/web", vip_port: int = 0, node: str = "node-a") -> dict[str, int]:
        """Addresses and weights that new connections to a Service get on a node."""
        namespace, _, service = name.partition("/")
        port = plan(node, self.planner.cluster).services[ServiceKey(namespace, service)].ports[vip_port]
        return {format_address(e.address): e.weight for e in port.endpoint_sets[0]} if port.endpoint_sets else {}

    def count(self, name: str, **labels: str) -> float:
        """A figure of overrides."""
        return self.registry.value(f"pointsman_planner_overrides{name}", labels) or 0.0


@asynccontextmanager
async def override_server(
    store: Store | None = None,
    *,
    options: OverrideOptions | None = None,
    loads: bool = True,
    check_seconds: float = 0.1,
) -> AsyncIterator[OverrideServer]:
    """A planner; `store` is run with it."""
    used = store or MemoryStore()
    made = OverrideServer(used, options or OverrideOptions(), check_seconds)
    server = GrpcServer(address="127.0.0.1:0", security=TransportSecurity(insecure=True))
    server.add_raw_service(plan_service.SERVICE, made.plans.methods())
    made.parts.serve(server)
    made.port = await server.start()
    timer = asyncio.create_task(made.plans.keep_time())
    async with running(used, made.replicas, made.parts), grpc.aio.insecure_channel(made.address) as channel:
        made.stub = pb_grpc.OverrideServiceStub(channel)
        if loads:
            assert await made.replicas.loaded(10)
        try:
            yield made
        finally:
            timer.cancel()
            await server.stop(grace_seconds=0)
    await used.close()


def name_of(text: str) -> types_pb2.NamespacedName:
    """`namespace/name`, or `name` alone."""
    namespace, slash, name = text.partition("/")
    return types_pb2.NamespacedName(namespace=namespace, name=name) if slash else types_pb2.NamespacedName(name=text)


def wish(
    text: str, service: str = "web", *, ttl_seconds: float = 0, etag: str = "", owner: str = "tests"
) -> pb.Override:
    """An override that says nothing yet."""
    message = pb.Override(name=name_of(text), owner=owner, etag=etag, spec=pb.OverrideSpec(service_name=service))
    if ttl_seconds:
        message.spec.ttl.FromNanoseconds(round(ttl_seconds * 1e9))
    return message


def drain_of(text: str, address: str, **words: Any) -> pb.Override:
    """A drain of one address."""
    message = wish(text, **words)
    message.spec.drain.endpoints.address = parse_address(address)
    return message


def weight_of(text: str, *rules: tuple[str, int], **words: Any) -> pb.Override:
    """Weights by address."""
    message = wish(text, **words)
    for address, weight in rules:
        message.spec.weight.rules.add(weight=weight).endpoints.address = parse_address(address)
    return message


def registration_of(text: str, *addresses: str, ttl_seconds: float = 60, port: str = "p", **words: Any) -> pb.Override:
    """Endpoints under a lease."""
    message = wish(text, ttl_seconds=ttl_seconds, **words)
    message.spec.register.ports.add(name=port, protocol=types_pb2.PROTOCOL_TCP, port=8080)
    for address in addresses:
        message.spec.register.endpoints.add(address=parse_address(address))
    return message
