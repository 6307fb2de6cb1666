# SPDX-License-Identifier: Apache-2.0
"""Composition root: builds the watcher from its settings and runs it.

4 reflectors --batches--> ClusterFeed --dirty keys--> one Subscription per stream --bytes--> planners
"""

import asyncio
import json
import random
import secrets
from typing import Final

import structlog

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.guard import Guard, GuardMetrics
from pointsman_chassis.http import Handler, HttpServer, Request, Response, metrics_handler
from pointsman_chassis.lifecycle import Stop, task_boundary
from pointsman_chassis.metrics import Registry
from pointsman_chassis.server import GrpcServer
from pointsman_chassis.settings import settings_as_data
from pointsman_chassis.tracing import Tracing
from pointsman_watcher.api.cluster_service import SERVICE_NAME, ClusterService
from pointsman_watcher.api.gate import WatcherGate
from pointsman_watcher.core.object_store import ObjectStore
from pointsman_watcher.core.resources import RESOURCES, Resource
from pointsman_watcher.feed import ClusterFeed
from pointsman_watcher.kube.client import KubeClient
from pointsman_watcher.kube.config import Access
from pointsman_watcher.kube.machine import ReflectorMachine
from pointsman_watcher.kube.reflector import Reflector
from pointsman_watcher.metrics import WatcherMetrics
from pointsman_watcher.settings import WatcherSettings

_STOP_GRACE_SECONDS: Final = 2.0


async def run_watcher(settings: WatcherSettings, stop: Stop) -> int:
    """Run until `stop`; returns the exit status. ConfigError when the settings cannot work here."""
    clock = SystemClock()
    registry = Registry()
    metrics = WatcherMetrics(registry)
    tracing = Tracing.from_environment("pointsman-watcher")
    tracing.count_in(registry, "pointsman_watcher")
    # A new epoch with every start: revisions count from 1 again, and no reader may take them for the old ones.
    store = ObjectStore(epoch=secrets.token_hex(8), log_entries_max=settings.stream.change_log_entries_max)
    feed = ClusterFeed(store=store, tracing=tracing, metrics=metrics, clock=clock)
    access = Access(kubeconfig=settings.kubernetes.kubeconfig, context=settings.kubernetes.context, clock=clock)
    client = KubeClient(access, settings.kubernetes)
    gate = WatcherGate(planners=settings.planners, is_plaintext=settings.security.insecure)
    guard = Guard(gate=gate, limits=settings.limits, metrics=GuardMetrics(registry, "pointsman_watcher"), clock=clock)
    server = GrpcServer(
        address=settings.listen_address,
        security=settings.security,
        guard=guard,
        reflection_enabled=settings.reflection,
    )
    service = ClusterService(feed, settings=settings.stream, metrics=metrics, clock=clock)
    server.add_raw_service(SERVICE_NAME, service.methods())
    http = HttpServer(_routes(feed, settings, metrics_handler(registry)))

    def build(resource: Resource) -> Reflector:
        machine = ReflectorMachine(resource, settings.kubernetes, random_source=random.Random())  # noqa: S311 - jitter
        return Reflector(resource, client=client, machine=machine, sink=feed, metrics=metrics, clock=clock)

    try:
        await access.check()
        await _listen(http, settings.metrics_bind_address)
        port = await server.start()
        structlog.get_logger("app").info("serving", address=settings.listen_address, port=port, server=access.server)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(task_boundary(reflector.name, reflector.run()))
                for reflector in (build(resource) for resource in RESOURCES)
            ]
            tasks.append(group.create_task(_announce(feed, server)))
            await stop.wait()
            structlog.get_logger("app").info("stopping", reason=stop.reason)
            for task in tasks:
                task.cancel()
    finally:
        feed.close()
        await server.stop(grace_seconds=_STOP_GRACE_SECONDS)
        await http.close()
        await access.close()
        await tracing.shutdown()
    return 0


async def _announce(feed: ClusterFeed, server: GrpcServer) -> None:
    """Health turns SERVING once there is something complete to serve, and stays so."""
    await feed.wait_in_sync()
    await server.set_serving(SERVICE_NAME, serving=True)


async def _listen(http: HttpServer, address: str) -> None:
    """Serve HTTP on `host:port` or `[v6]:port`; nowhere for an empty address."""
    if not address:
        return
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        raise ConfigError(f"metricsBindAddress: {address!r} is not host:port")
    try:
        await http.listen(host.strip("[]"), int(port))
    except OSError as error:
        raise ConfigError(f"metricsBindAddress: cannot listen on {address}: {error.strerror or error}") from error


def _routes(feed: ClusterFeed, settings: WatcherSettings, metrics: Handler) -> dict[str, Handler]:
    """`/livez` says that the event loop turns; `/readyz` and `/healthz` that planners are served."""

    def ready(_request: Request) -> Response:
        if feed.is_in_sync:
            return Response(body=b"ok\n")
        missing = ", ".join(feed.unsynced_kinds)
        return Response(status=503, body=f"not in sync: still listing {missing}\n".encode())

    def configuration(_request: Request) -> Response:
        return Response(body=json.dumps(settings_as_data(settings)).encode(), content_type="application/json")

    return {
        "/metrics": metrics,
        "/livez": lambda _request: Response(body=b"ok\n"),
        "/readyz": ready,
        "/healthz": ready,
        "/configz": configuration,
    }
