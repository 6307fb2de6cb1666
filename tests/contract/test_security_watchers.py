# SPDX-License-Identifier: Apache-2.0
"""Who may follow the cluster at a watcher: the planners that it lists, by real certificates."""

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman.cluster.v1 import cluster_service_pb2_grpc as pb_grpc
from pointsman_chassis.backoff import Backoff
from pointsman_chassis.channel import open_channel
from pointsman_chassis.clock import SystemClock
from pointsman_chassis.guard import CallLimits, Guard, GuardMetrics
from pointsman_chassis.metrics import Registry
from pointsman_chassis.server import GrpcServer
from pointsman_chassis.tls import TransportSecurity
from pointsman_chassis.tracing import Tracing
from pointsman_planner.core.feed_state import GuardSettings, MassDeleteGuard
from pointsman_planner.core.planner import Batch, Planner
from pointsman_planner.core.priority import Priority
from pointsman_planner.feed import cluster_feed
from pointsman_planner.metrics import PlannerMetrics
from pointsman_watcher.api.cluster_service import SERVICE_NAME, ClusterService
from pointsman_watcher.api.gate import WatcherGate
from pointsman_watcher.core.object_store import ObjectStore
from pointsman_watcher.core.resources import RESOURCES
from pointsman_watcher.feed import ClusterFeed
from pointsman_watcher.metrics import WatcherMetrics
from pointsman_watcher.settings import StreamSettings
from support.certificates import Authority
from support.guarded_planner import refusal
from support.plan_server import eventually
from support.planner_stores import running


class Watcher:
    """A watcher in sync with an empty cluster, with TLS and its guard."""

    def __init__(self, directory: Path, planners: tuple[str, ...]) -> None:
        self.directory = directory
        self.authority = Authority("pointsman test")
        self.registry = Registry(process=False)
        metrics = WatcherMetrics(self.registry)
        store = ObjectStore(epoch="epoch-1", log_entries_max=10)
        feed = ClusterFeed(store=store, tracing=Tracing(), metrics=metrics, clock=SystemClock())
        for resource in RESOURCES:
            feed.replace(resource, [], 1, "100")
        gate = WatcherGate(planners=planners, is_plaintext=False)
        guard = Guard(
            gate=gate,
            limits=CallLimits(),
            metrics=GuardMetrics(self.registry, "pointsman_watcher"),
            clock=SystemClock(),
        )
        security = self.authority.issue(directory, "localhost")
        self.server = GrpcServer(address="127.0.0.1:0", security=security, guard=guard)
        service = ClusterService(feed, settings=StreamSettings(), metrics=metrics, clock=SystemClock())
        self.server.add_raw_service(SERVICE_NAME, service.methods())
        self.port = 0

    def issue(self, name: str, **words: Any) -> TransportSecurity:
        """Files of a holder of this name."""
        return self.authority.issue(self.directory, name, server_name="localhost", **words)

    @staticmethod
    def remove(path: str) -> None:
        """As a rotation does that does not rename."""
        Path(path).unlink()

    def dial(self, name: str, authority: Authority | None = None) -> grpc.aio.Channel:
        """A channel of a holder of this name."""
        issuer = authority or self.authority
        files = issuer.issue(self.directory, name, server_name="localhost", trust=self.authority)
        return open_channel(f"127.0.0.1:{self.port}", security=files)


@asynccontextmanager
async def watcher(directory: Path, *planners: str) -> AsyncIterator[Watcher]:
    made = Watcher(directory, planners)
    made.port = await made.server.start()
    try:
        yield made
    finally:
        await made.server.stop(grace_seconds=0)


async def test_a_listed_planner_follows_the_cluster(tmp_path: Path) -> None:
    async with watcher(tmp_path, "planner-1", "planner-2") as made, made.dial("planner-2") as channel:
        call = pb_grpc.ClusterServiceStub(channel).WatchCluster(pb.WatchClusterRequest(client_id="x"))
        assert await call.read()
        call.cancel()


@pytest.mark.parametrize("name", ["node-a", "planner-10", "PLANNER-1"])
async def test_a_certificate_that_names_no_listed_planner_is_denied(tmp_path: Path, name: str) -> None:
    async with watcher(tmp_path, "planner-1") as made, made.dial(name) as channel:
        call = pb_grpc.ClusterServiceStub(channel).WatchCluster(pb.WatchClusterRequest(client_id="planner-1"))
        code, details = await refusal(call.read())
        assert (code, name in details) == (grpc.StatusCode.PERMISSION_DENIED, True)
        refused = made.registry.value("pointsman_watcher_calls_refused_total", {"reason": "forbidden"})
        assert refused == 1


async def test_a_planner_of_a_wrong_ca_is_not_spoken_to(tmp_path: Path) -> None:
    async with watcher(tmp_path, "planner-1") as made, made.dial("planner-1", Authority("stranger")) as channel:
        call = pb_grpc.ClusterServiceStub(channel).WatchCluster(pb.WatchClusterRequest(client_id="x"))
        assert (await refusal(call.read()))[0] is grpc.StatusCode.UNAVAILABLE


async def test_whoever_has_a_certificate_may_ask_for_health(tmp_path: Path) -> None:
    async with watcher(tmp_path, "planner-1") as made, made.dial("monitor") as channel:
        assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") is not None


async def test_a_planner_comes_back_with_the_new_certificate_after_a_rotation_that_took_its_time(
    tmp_path: Path,
) -> None:
    async with watcher(tmp_path, "planner-1") as made:
        files = made.issue("planner-1", valid_for=dt.timedelta(seconds=4))
        registry = Registry(process=False)
        metrics = PlannerMetrics(registry)
        batches: list[Batch] = []
        feed = cluster_feed.ClusterFeed(
            addresses=[f"127.0.0.1:{made.port}"],
            client_id="planner-1",
            security=files,
            planner=Planner(priority=Priority(())),
            guard=MassDeleteGuard(GuardSettings()),
            on_batch=batches.append,
            metrics=metrics,
            backoff=Backoff(initial_seconds=0.05, maximum_seconds=0.05),
        )

        def ended(reason: str) -> float:
            return registry.value("pointsman_planner_feed_disconnects_total", {"reason": reason}) or 0.0

        async with running(feed):
            await eventually(lambda: len(batches) == 1, "it follows")
            made.remove(files.key_file)
            await eventually(lambda: ended("unauthenticated") == 1, "its certificate expires")
            await eventually(lambda: ended("certificates") >= 1, "the new one is not all there yet")
            made.issue("planner-1")
            await eventually(lambda: len(batches) == 2, "it follows again")
