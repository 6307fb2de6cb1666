# SPDX-License-Identifier: Apache-2.0
"""The composition root: builds every part of a planner and runs them until the process is asked to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import socket

import msgspec
import structlog

from pointsman.control.v1 import control_service_pb2_grpc
from pointsman_chassis.clock import SystemClock
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.guard import Guard, GuardMetrics
from pointsman_chassis.http import HttpServer, Request, Response
from pointsman_chassis.lifecycle import Stop, task_boundary
from pointsman_chassis.metrics import Registry
from pointsman_chassis.server import GrpcServer
from pointsman_chassis.tracing import Tracing
from pointsman_planner.access.gate import PlannerGate
from pointsman_planner.access.reviews import Reviews, api_access
from pointsman_planner.affinity_parts import AffinityParts
from pointsman_planner.api import control_service, override_service, plan_service
from pointsman_planner.api.control_service import ControlService
from pointsman_planner.api.plan_service import PlanService
from pointsman_planner.console.page import Console
from pointsman_planner.core.feed_state import GuardSettings, MassDeleteGuard
from pointsman_planner.core.freshness import FreshnessSettings
from pointsman_planner.core.planner import Batch, Planner
from pointsman_planner.core.priority import Priority
from pointsman_planner.core.rights import Sight
from pointsman_planner.event_writer import EventMetrics, EventWriter
from pointsman_planner.feed.cluster_feed import ClusterFeed
from pointsman_planner.fleet_metrics import FleetCollector
from pointsman_planner.health_page import health_page
from pointsman_planner.metrics import ControlMetrics, PlannerMetrics, ShardingMetrics, StoreMetrics
from pointsman_planner.override_parts import OverrideOptions, OverrideParts
from pointsman_planner.settings import PlannerSettings, shown_settings
from pointsman_planner.shard import Shard, advertised_address
from pointsman_planner.store.connection import Topology, check_files, check_plaintext, parse_store_url
from pointsman_planner.store.memory_store import MemoryStore
from pointsman_planner.store.node_status_store import NodeStatusStore
from pointsman_planner.store.port import Store
from pointsman_planner.store.redis_store import RedisStore
from pointsman_planner.store.replicas import Replicas

_SHARED_STATE_SECONDS_MAX = 5.0


class App:
    """One planner process."""

    def __init__(self, settings: PlannerSettings) -> None:
        self._settings = settings
        self._registry = Registry()
        self._metrics = PlannerMetrics(self._registry)
        self._planner_id = settings.planner_id or socket.gethostname()
        self._tracing = Tracing.from_environment(
            "pointsman-planner", attributes={"service.instance.id": self._planner_id}
        )
        self._tracing.count_in(self._registry, "pointsman_planner")
        self._planner = Planner(
            priority=Priority(settings.priority_namespaces), cache_bytes_max=settings.plan_cache_bytes
        )
        self._metrics.cache(self._registry, lambda: self._planner.cache.statistics)
        self._store_metrics = StoreMetrics(self._registry)
        self._store = self._make_store()
        self._replicas = Replicas(store=self._store, metrics=self._store_metrics)
        self._statuses = NodeStatusStore(store=self._store, metrics=self._store_metrics)
        self._shard = Shard(
            settings=settings,
            planner_id=self._planner_id,
            store=self._store,
            replicas=self._replicas,
            metrics=ShardingMetrics(self._registry),
            store_metrics=self._store_metrics,
            clock=SystemClock(),
        )
        self._plans = PlanService(
            planner=self._planner,
            planner_id=self._planner_id,
            heartbeat_interval_seconds=settings.heartbeat_interval,
            metrics=self._metrics,
            tracing=self._tracing,
            clock=SystemClock(),
            report=self._statuses.report,
            handover=self._shard.handover,
            entrance=self._shard.entrance,
            checks_identity=not settings.security.insecure,
        )
        self._registry.register(FleetCollector(self._plans.standings, SystemClock()))
        self._overrides = self._make_overrides()
        self._affinity = AffinityParts(
            planner=self._planner,
            plans=self._plans,
            store=self._store,
            replicas=self._replicas,
            registry=self._registry,
            store_metrics=self._store_metrics,
            clock=SystemClock(),
        )
        self._events = self._make_events() if settings.access.events else None
        self._server = GrpcServer(
            address=settings.listen_address,
            security=settings.security,
            guard=self._make_guard(),
            token_address=settings.access.tokens.listen_address,
            reflection_enabled=settings.reflection,
        )
        self._in_sync = asyncio.Event()

    async def run(self, stop: Stop) -> int:
        """Serve until asked to stop; returns the exit status."""
        self._server.add_raw_service(plan_service.SERVICE, self._plans.methods())
        control = ControlService(
            planner=self._planner,
            plans=self._plans,
            store=self._statuses,
            metrics=ControlMetrics(self._registry),
        )
        control_service_pb2_grpc.add_ControlServiceServicer_to_server(control, self._server.server)
        self._server.declare(control_service.SERVICE)
        self._overrides.serve(self._server)
        port = await self._server.start()
        told_port = self._server.token_port if self._settings.access.tokens.is_advertised else port
        address = advertised_address(self._settings, port=told_port, pod_ip=os.environ.get("POD_IP", ""))
        http = await self._start_http()
        console = await self._start_console(control)
        structlog.get_logger("planner").info(
            "listening", address=self._settings.listen_address, port=port, planner=self._planner_id
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(task_boundary("feed", self._run_feed())),
                    tasks.create_task(task_boundary("time", self._plans.keep_time())),
                    tasks.create_task(task_boundary("store", self._store.run())),
                    tasks.create_task(task_boundary("replicas", self._replicas.run())),
                    tasks.create_task(task_boundary("node status", self._statuses.run())),
                    tasks.create_task(task_boundary("overrides", self._overrides.run())),
                    tasks.create_task(task_boundary("affinity", self._affinity.run())),
                    tasks.create_task(task_boundary("readiness", self._become_ready(address))),
                    tasks.create_task(task_boundary("shard", self._shard.run(lambda: self._plans.streams))),
                ]
                if self._events is not None:
                    running.append(tasks.create_task(task_boundary("events", self._events.run())))
                await stop.wait()
                await self._drain()
                for task in running:
                    task.cancel()
        finally:
            control.close()
            await self._server.stop()
            await http.close()
            if console is not None:
                await console.close()
            await self._statuses.close()
            await self._store.close()
            await self._tracing.shutdown()
        return 0

    def _make_guard(self) -> Guard[Sight]:
        settings, clock = self._settings, SystemClock()
        gate = PlannerGate(
            settings=settings.access,
            is_plaintext=settings.security.insecure,
            reviews=Reviews(lambda: api_access(settings.access), settings.access),
            namespaces=lambda: {key.namespace for key in self._planner.cluster.services},
            clock=clock,
        )
        metrics = GuardMetrics(self._registry, "pointsman_planner")
        return Guard(gate=gate, limits=settings.limits, metrics=metrics, clock=clock)

    def _make_store(self) -> Store:
        address = parse_store_url(self._settings.redis_url)
        if address.topology is Topology.MEMORY:
            self._store_metrics.available.set(1)
            return MemoryStore()
        check_files(self._settings.redis)
        check_plaintext(address, self._settings.redis)
        return RedisStore(
            address=address,
            settings=self._settings.redis,
            key_prefix=self._settings.redis_key_prefix,
            metrics=self._store_metrics,
        )

    def _make_overrides(self) -> OverrideParts:
        wanted = self._settings.overrides
        is_alone = isinstance(self._store, MemoryStore)
        return OverrideParts(
            planner=self._planner,
            on_change=self._plans.override,
            store=self._store,
            replicas=self._replicas,
            registry=self._registry,
            store_metrics=self._store_metrics,
            clock=SystemClock(),
            options=OverrideOptions(
                is_restored=is_alone or wanted.on_empty_store == "restore", state_file=wanted.state_file
            ),
        )

    def _make_events(self) -> EventWriter:
        made = EventWriter(
            open_access=lambda: api_access(self._settings.access),
            planner_id=self._planner_id,
            knows=lambda service: service in self._planner.cluster.services,
            metrics=EventMetrics(self._registry),
            clock=SystemClock(),
        )
        self._plans.on_trouble = made.begun
        return made

    async def _run_feed(self) -> None:
        """What planners share is input too: plans made before it is known would flap. But none waits for long."""
        if not await self._replicas.loaded(_SHARED_STATE_SECONDS_MAX):
            structlog.get_logger("planner").warning("begins without what planners share; it follows when it is known")
        await self._feed().run()

    def _feed(self) -> ClusterFeed:
        guard = self._settings.mass_delete_guard
        return ClusterFeed(
            addresses=self._settings.watcher_addresses,
            client_id=self._planner_id,
            security=self._settings.security,
            planner=self._planner,
            guard=MassDeleteGuard(
                GuardSettings(share=guard.share, minimum=guard.minimum, hold_seconds=float(guard.hold_for))
            ),
            freshness=FreshnessSettings(hold_seconds=float(self._settings.older_state_hold_for)),
            on_batch=self._take,
            metrics=self._metrics,
        )

    def _take(self, batch: Batch) -> None:
        self._plans.apply(batch)
        self._in_sync.set()

    async def _drain(self) -> None:
        """Give the nodes away before anything is torn down."""
        for service in (plan_service.SERVICE, control_service.SERVICE):
            await self._server.set_serving(service, serving=False)
        await self._shard.drain(lambda: self._plans.streams)

    async def _become_ready(self, address: str) -> None:
        """Serve once the first complete view is in; never back, because a planner without watchers still serves."""
        await self._in_sync.wait()
        # The cluster's objects are here to stay: without this, each full garbage collection walks millions of them, and
        # a change that comes then waits for hundreds of milliseconds.
        gc.freeze()
        structlog.get_logger("planner").info("in sync", services=len(self._planner.cluster.services))
        for service in (plan_service.SERVICE, control_service.SERVICE, override_service.SERVICE):
            await self._server.set_serving(service, serving=True)
        self._shard.join(address)

    async def _start_http(self) -> HttpServer:
        http = HttpServer(
            {
                "/metrics": self._serve_metrics,
                "/healthz": _alive,
                "/readyz": self._ready,
                "/configz": self._configz,
                "/statusz": self._statusz,
            }
        )
        if self._settings.metrics_bind_address:
            host, _, port = self._settings.metrics_bind_address.rpartition(":")
            try:
                await http.listen(host.strip("[]"), int(port))
            except (OSError, ValueError) as error:
                raise ConfigError(f"metricsBindAddress {self._settings.metrics_bind_address}: {error}") from error
        return http

    async def _start_console(self, control: ControlService) -> Console | None:
        address = self._settings.console.listen_address
        if not address:
            return None
        console = Console(planner=self._planner, control=control, planner_id=self._planner_id, clock=SystemClock())
        port = await console.listen(address)
        structlog.get_logger("planner").info("console", address=address, port=port)
        return console

    def _serve_metrics(self, request: Request) -> Response:
        self._metrics.services.set(len(self._planner.cluster.services))
        self._metrics.nodes.set(len(self._planner.cluster.nodes))
        self._metrics.revision.set(self._planner.position.revision)
        content_type, body = self._registry.render(request.headers.get("accept", ""))
        return Response(body=body, content_type=content_type)

    def _ready(self, _request: Request) -> Response:
        if self._shard.is_draining:
            return Response(body=b"gives its nodes to other planners, to end\n", status=503)
        if self._planner.is_in_sync:
            return Response(body=b"ok\n")
        return Response(body=b"not in sync with any watcher yet\n", status=503)

    def _statusz(self, _request: Request) -> Response:
        return health_page(
            planner_id=self._planner_id,
            planner=self._planner,
            shard=self._shard,
            store=self._store,
            affinity=self._affinity.records,
        )

    def _configz(self, _request: Request) -> Response:
        return Response(body=msgspec.json.encode(shown_settings(self._settings)), content_type="application/json")


def _alive(_request: Request) -> Response:
    return Response(body=b"ok\n")
