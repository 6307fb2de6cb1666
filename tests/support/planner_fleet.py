# SPDX-License-Identifier: Apache-2.0
"""Several planners that share a store, and nodes that roam between them, in one process over real gRPC."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.duration import Duration
from pointsman_chassis.metrics import Registry
from pointsman_chassis.server import GrpcServer
from pointsman_chassis.tls import TransportSecurity
from pointsman_model.cluster import ClusterObject
from pointsman_planner.affinity_parts import AffinityParts
from pointsman_planner.api import plan_service
from pointsman_planner.core.ownership import Member, candidates
from pointsman_planner.metrics import ShardingMetrics, StoreMetrics
from pointsman_planner.settings import PlannerSettings, ShardingSettings
from pointsman_planner.shard import Shard
from pointsman_planner.store.port import Store
from pointsman_planner.store.replicas import Replicas
from support.plan_server import PlanServer
from support.roaming_enforcer import RoamingEnforcer


class FleetPlanner:
    """One planner: all its parts but the feed, which is the test."""

    def __init__(self, name: str, store: Store, *, lease_seconds: float, drain_seconds: float) -> None:
        self.name = name
        self.store = store
        self.registry = Registry(process=False)
        metrics = StoreMetrics(self.registry)
        self.replicas = Replicas(store=store, metrics=metrics, check_seconds=0.1)
        settings = PlannerSettings(
            sharding=ShardingSettings(lease=Duration(lease_seconds), nodes_per_second=500),
            drain_period=Duration(drain_seconds),
        )
        self.shard = Shard(
            settings=settings,
            planner_id=name,
            store=store,
            replicas=self.replicas,
            metrics=ShardingMetrics(self.registry),
            store_metrics=metrics,
            clock=SystemClock(),
        )
        self.served = PlanServer(planner_id=name, heartbeat_seconds=0.5, shard=self.shard, shared=store)
        self.affinity = AffinityParts(
            planner=self.served.planner,
            plans=self.served.plans,
            store=store,
            replicas=self.replicas,
            registry=self.registry,
            store_metrics=metrics,
            clock=SystemClock(),
        )
        self.server = GrpcServer(address="127.0.0.1:0", security=TransportSecurity(insecure=True))
        self.server.add_raw_service(plan_service.SERVICE, self.served.plans.methods())
        self.address = ""
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def nodes(self) -> set[str]:
        """Nodes with a stream here."""
        return set(self.served.plans.streams)

    @property
    def members(self) -> set[str]:
        """As this planner sees them."""
        return {member.planner_id for member in self.shard.handover.members}

    async def start(self, objects: Iterable[ClusterObject]) -> None:
        """Listen, be in sync, join."""
        self.address = f"127.0.0.1:{await self.server.start()}"
        parts = (self.store.run(), self.replicas.run(), self.shard.run(lambda: self.served.plans.streams))
        others = (self.served.store.run(), self.served.plans.keep_time(), self.affinity.run())
        self._tasks = [asyncio.create_task(part) for part in (*parts, *others)]
        self.served.put(*objects)
        self.shard.join(self.address)

    async def drain(self) -> None:
        """As at SIGTERM."""
        await self.shard.drain(lambda: self.served.plans.streams)
        await self.crash()

    async def crash(self) -> None:
        """Gone, without a word."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self.server.stop(grace_seconds=0)
        await self.store.close()


class Fleet:
    """Planners by name, and nodes."""

    def __init__(
        self, make_store: Callable[[], Store], objects: Iterable[ClusterObject], *, lease_seconds: float = 1.0
    ) -> None:
        self._make_store = make_store
        self.objects = list(objects)
        self.lease_seconds = lease_seconds
        self.planners: dict[str, FleetPlanner] = {}
        self.nodes: dict[str, RoamingEnforcer] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def add(self, name: str, *, drain_seconds: float = 5.0) -> FleetPlanner:
        """A planner that joins."""
        planner = FleetPlanner(name, self._make_store(), lease_seconds=self.lease_seconds, drain_seconds=drain_seconds)
        await planner.start(self.objects)
        self.planners[name] = planner
        return planner

    def put(self, *objects: ClusterObject) -> None:
        """A change that every planner takes in."""
        self.objects += objects
        for planner in self.planners.values():
            planner.served.put(*objects)

    def connect(self, names: Iterable[str]) -> None:
        """Nodes that know all planners there are now, and dial some one first."""
        addresses = [planner.address for planner in self.planners.values()]
        for index, name in enumerate(names):
            first = index % len(addresses)
            node = self.nodes[name] = RoamingEnforcer(name, addresses[first:] + addresses[:first])
            self._tasks.append(asyncio.create_task(node.run()))

    async def remove(self, name: str, *, is_crash: bool) -> None:
        """A planner that goes."""
        planner = self.planners.pop(name)
        await (planner.crash() if is_crash else planner.drain())

    def owners(self, *names: str) -> dict[str, str]:
        """Who should serve each node when these planners are the members."""
        known = [Member(planner_id=name, address="x:1") for name in names or self.planners]
        return {node: candidates(node, known)[0].planner_id for node in self.nodes}

    def is_settled(self) -> bool:
        """Whether every node is with its owner, and with nobody else, and has everything."""
        owners = self.owners()
        held = {name: {node for node, owner in owners.items() if owner == name} for name in self.planners}
        return all(
            planner.nodes == held[name] and planner.served.is_converged(*held[name])
            for name, planner in self.planners.items()
        ) and all(self.nodes[node].planner == owner for node, owner in owners.items())

    async def close(self) -> None:
        """End everything that runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for planner in list(self.planners.values()):
            await planner.crash()


@asynccontextmanager
async def fleet(
    make_store: Callable[[], Store], objects: Iterable[ClusterObject], *planners: str, lease_seconds: float = 1.0
) -> AsyncIterator[Fleet]:
    """Planners that know each other."""
    made = Fleet(make_store, objects, lease_seconds=lease_seconds)
    try:
        for name in planners:
            await made.add(name)
        async with asyncio.timeout(20):
            while any(planner.members != set(planners) for planner in made.planners.values()):
                await asyncio.sleep(0.01)
        yield made
    finally:
        await made.close()
