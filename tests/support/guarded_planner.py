# SPDX-License-Identifier: Apache-2.0
"""A planner's gRPC server with TLS, guard, gate and all three services, beside an API server that reviews."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import yaml

from pointsman.control.v1 import control_service_pb2_grpc, override_service_pb2_grpc
from pointsman_chassis.channel import open_channel
from pointsman_chassis.clock import SystemClock
from pointsman_chassis.guard import CallLimits, Guard, GuardMetrics
from pointsman_chassis.metrics import Registry
from pointsman_chassis.server import GrpcServer
from pointsman_chassis.settings import API_VERSION, settings_as_data
from pointsman_chassis.tls import TransportSecurity
from pointsman_lab.apiserver import ApiServer, ServerOptions, new_cluster
from pointsman_lab.apiserver.auth import server_tls
from pointsman_planner.access.gate import PlannerGate
from pointsman_planner.access.reviews import Reviews, api_access
from pointsman_planner.access.settings import RULES_KIND, AccessSettings, RuleSettings
from pointsman_planner.api import control_service, plan_service
from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.override_parts import OverrideOptions, OverrideParts
from pointsman_planner.store.memory_store import MemoryStore
from pointsman_planner.store.replicas import Replicas
from support.certificates import Authority
from support.cluster_objects import node, service
from support.plan_server import DEADLINE_SECONDS, PlanServer
from support.planner_stores import running

SERVER = "localhost"


class GuardedPlanner(PlanServer):
    """The planner; `authority` issues what it trusts, `directory` holds the files."""

    def __init__(self, directory: Path) -> None:
        super().__init__(checks_identity=True)
        self.directory = directory
        self.authority = Authority("pointsman test")
        self.security = self.authority.issue(directory, SERVER)
        self.token_port = 0
        self.store_registry = Registry(process=False)
        self.put(node("node-a", "192.168.0.2"), node("node-b", "192.168.0.3"))
        self.put(service("shop/web", "10.96.0.1"), service("bank/db", "10.96.0.2"))

    @property
    def token_address(self) -> str:
        """Where callers with tokens are served."""
        return f"127.0.0.1:{self.token_port}"

    def identity(self, name: str, *groups: str, **words: Any) -> TransportSecurity:
        """Files of a caller whom the planner's authority knows."""
        return self.authority.issue(self.directory, name, server_name=SERVER, groups=groups, **words)

    def dial(self, name: str, *groups: str) -> grpc.aio.Channel:
        """A channel of that caller."""
        return open_channel(self.address, security=self.identity(name, *groups))

    def dial_with_token(self, token: str, name: str = "token") -> grpc.aio.Channel:
        """A channel to the address where no certificate is asked for."""
        path = self.directory / name
        path.write_text(token + "\n")
        security = TransportSecurity(ca_file=self.security.ca_file, token_file=str(path), server_name=SERVER)
        return open_channel(self.token_address, security=security)

    def dial_with_nothing(self, address: str) -> grpc.aio.Channel:
        """A channel by TLS without a certificate."""
        roots = grpc.ssl_channel_credentials(Path(self.security.ca_file).read_bytes())
        return grpc.aio.secure_channel(address, roots, options=(("grpc.ssl_target_name_override", SERVER),))

    def refused(self, reason: str) -> float:
        """How many calls were refused for a reason."""
        return self.registry.value("pointsman_planner_calls_refused_total", {"reason": reason}) or 0.0


@asynccontextmanager
async def guarded_planner(
    directory: Path, *, access: AccessSettings | None = None, limits: CallLimits | None = None
) -> AsyncIterator[GuardedPlanner]:
    """A planner in sync that listens."""
    made = GuardedPlanner(directory)
    settings = access or AccessSettings()
    gate = PlannerGate(
        settings=settings,
        is_plaintext=False,
        reviews=Reviews(lambda: api_access(settings), settings),
        namespaces=lambda: {key.namespace for key in made.planner.cluster.services},
        clock=SystemClock(),
    )
    guard = Guard(
        gate=gate,
        limits=limits or CallLimits(),
        metrics=GuardMetrics(made.registry, "pointsman_planner"),
        clock=SystemClock(),
    )
    server = GrpcServer(
        address="127.0.0.1:0",
        security=made.security,
        guard=guard,
        token_address=settings.tokens.listen_address,
        reflection_enabled=True,
    )
    server.add_raw_service(plan_service.SERVICE, made.plans.methods())
    control_service_pb2_grpc.add_ControlServiceServicer_to_server(made.control, server.server)
    server.declare(control_service.SERVICE)
    store = MemoryStore()
    metrics = StoreMetrics(made.store_registry)
    replicas = Replicas(store=store, metrics=metrics, check_seconds=0.1)
    parts = OverrideParts(
        planner=made.planner,
        on_change=made.plans.override,
        store=store,
        replicas=replicas,
        registry=made.registry,
        store_metrics=metrics,
        clock=SystemClock(),
        options=OverrideOptions(),
    )
    parts.serve(server)
    made.port = await server.start()
    made.token_port = server.token_port
    timer = asyncio.create_task(made.plans.keep_time())
    async with running(store, replicas, parts):
        assert await replicas.loaded(DEADLINE_SECONDS)
        try:
            yield made
        finally:
            timer.cancel()
            made.control.close()
            await server.stop(grace_seconds=0)
    await store.close()


@asynccontextmanager
async def reviewing_api_server(directory: Path) -> AsyncIterator[tuple[ApiServer, Path]]:
    """An API server by TLS, and the kubeconfig with which a planner asks it."""
    files = Authority("cluster").issue(directory, "kube-apiserver")
    tls = server_tls(Path(files.cert_file), Path(files.key_file), None)
    server = ApiServer(new_cluster(), ServerOptions(tls=tls, tokens={"planner-token": "planner"}, anonymous=False))
    await server.start()
    kubeconfig = directory / "kubeconfig"
    cluster = {"server": server.url, "certificate-authority": files.ca_file, "tls-server-name": "kube-apiserver"}
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "planner-token"}}],
    }
    kubeconfig.write_text(yaml.safe_dump(document))
    try:
        yield server, kubeconfig
    finally:
        await server.stop()


def write_rules(path: Path, *rules: RuleSettings) -> None:
    """Replace a file of rules as operators do."""
    document = {"apiVersion": API_VERSION, "kind": RULES_KIND, "rules": [settings_as_data(each) for each in rules]}
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(document))
    fresh.replace(path)


def control(channel: grpc.aio.Channel) -> Any:
    """A stub of ControlService."""
    return control_service_pb2_grpc.ControlServiceStub(channel)


def overrides(channel: grpc.aio.Channel) -> Any:
    """A stub of OverrideService."""
    return override_service_pb2_grpc.OverrideServiceStub(channel)


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """Status and details with which a call, or the next message of a stream, is refused."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            answer = await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError(f"it was answered: {answer!r}"[:500])


async def until_refused(call: Callable[[], Awaitable[Any]]) -> tuple[grpc.StatusCode, str]:
    """Ask until it is refused."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                return error.code(), error.details() or ""
            await asyncio.sleep(0.02)


def changed(settings: AccessSettings, **words: Any) -> AccessSettings:
    """The settings with other values."""
    return msgspec.structs.replace(settings, **words)
