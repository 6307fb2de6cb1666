# SPDX-License-Identifier: Apache-2.0
"""The control process: composition root of everything inside the lab.

    python -m pointsman_lab.control.main STATE_DIRECTORY API_SOCKET_FD

Standard output tells the owner how the start goes, one JSON object a line: {"step": text}, then {"ready": seconds},
or {"error": text}.
"""

import asyncio
import contextlib
import logging
import os
import platform
import socket
import sys
import time
from pathlib import Path

import msgspec
import yaml

from pointsman_lab.apiserver.client import ApiClient
from pointsman_lab.control.methods import ControlMethods
from pointsman_lab.controller.http_gateway import HttpGateway
from pointsman_lab.controller.loop import Controllers
from pointsman_lab.errors import LabError
from pointsman_lab.net.fabric import Fabric
from pointsman_lab.net.topology import CONTROL, MemberPlace, Topology
from pointsman_lab.otlp.sink import OtlpSink
from pointsman_lab.otlp.store import SpanStore
from pointsman_lab.pki import Pki, client_tls, create_pki, issue, kubeconfig
from pointsman_lab.rpc import RpcServer
from pointsman_lab.settings import LabSettings, decode_settings
from pointsman_lab.statedir import StateDirectory
from pointsman_lab.supervise import readiness, services
from pointsman_lab.supervise.process import ProcessSpec
from pointsman_lab.supervise.redis import find_redis, redis_argv
from pointsman_lab.supervise.supervisor import Supervisor

_SERVER_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


def say(**message: object) -> None:
    """Tells the owner something about the start; after it nobody may be there to listen."""
    with contextlib.suppress(OSError):
        os.write(1, msgspec.json.encode(message) + b"\n")


class ControlProcess:
    """Starts the parts in order; each later one needs the earlier."""

    def __init__(self, settings: LabSettings, state: StateDirectory, api_socket: int) -> None:
        """Takes what to start, where its files are, and the host's API socket."""
        self._settings = settings
        self._state = state
        self._api_socket = api_socket
        self._topology: Topology = settings.topology
        self._fabric = Fabric(self._topology)
        self._supervisor = Supervisor(state.logs, start_timeout_seconds=settings.start_timeout_seconds)
        self._spans = SpanStore()
        self._pki = Pki(directory=state.pki)

    async def run(self) -> None:
        """Starts everything, then runs until the process is ended.

        Raises:
            LabError: a part did not come up.
        """
        started = time.monotonic()
        say(step=f"network of {self._settings.nodes} nodes")
        await self._fabric.build()
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            say(step="API server")
            await self._start_api_server()
            controllers = None
            if self._settings.controllers:
                tls = client_tls(self._pki)
                client = await stack.enter_async_context(ApiClient(self._internal_server(), tls=tls))
                controllers = Controllers(HttpGateway(client), self._fabric, self._state.logs)
                await controllers.register_nodes(platform.release())
                tasks.create_task(controllers.run(), name="controllers")
                await controllers.in_sync.wait()
            await self._start_prober()
            await self._start_support()
            await self._start_services()
            methods = ControlMethods(
                fabric=self._fabric,
                supervisor=self._supervisor,
                spans=self._spans,
                controllers=controllers,
                admin=self._pki.admin,
            )
            await RpcServer(self._state.control_socket, methods.table()).start()
            say(ready=time.monotonic() - started)
            await asyncio.Event().wait()

    def _internal_server(self) -> str:
        return f"https://{self._topology.control_address.ipv4}:{services.API_PORT}"

    async def _start_api_server(self) -> None:
        with socket.socket(fileno=os.dup(self._api_socket)) as listener:
            host, port = listener.getsockname()[:2]
        pki = create_pki(self._state.pki, [host, "::1", *self._topology.control_address, "10.96.0.1"], _SERVER_NAMES)
        for path, server in (
            (self._state.kubeconfig, f"https://{host}:{port}"),
            (self._state.internal_kubeconfig, self._internal_server()),
        ):
            path.touch(mode=0o600)
            path.write_text(kubeconfig(pki, server, self._settings.name), encoding="utf-8")
        address = self._topology.control_address.ipv4
        spec = ProcessSpec(
            name="apiserver",
            place=CONTROL,
            argv=(
                sys.executable,
                "-m",
                "pointsman_lab.supervise.apiserver",
                str(self._state.pki),
                str(self._api_socket),
            ),
            ready=readiness.http_ok(address, services.API_PORT, "/readyz", tls=client_tls(pki)),
            # Its objects live in memory: a new one would be another, empty cluster.
            restarts=False,
            pass_fds=(self._api_socket,),
        )
        await self._supervisor.start(spec)

    async def _start_prober(self) -> None:
        await self._supervisor.start(
            ProcessSpec(
                name="prober",
                place=CONTROL,
                argv=(sys.executable, "-m", "pointsman_lab.probe.prober", str(self._state.prober_socket)),
                ready=readiness.unix_socket(self._state.prober_socket),
            )
        )

    async def _start_support(self) -> None:
        if "otlp" in self._settings.services:
            here = self._topology.control_address
            sink = OtlpSink(self._spans, issue(self._pki, "otlp", common_name="otlp", addresses=here))
            await sink.start(f"{here.ipv4}:{services.OTLP_PORT}")
            await sink.start_http(here.ipv4, services.OTLP_HTTP_PORT)
        if "redis" in self._settings.services:
            place = self._topology.redis
            address = place.address.ipv4
            identity = issue(self._pki, place.name, common_name=place.name, addresses=place.address)
            argv = redis_argv(
                find_redis(), address=address, port=services.REDIS_PORT, directory=self._state.path, identity=identity
            )
            say(step="Redis")
            ready = readiness.redis_ping(address, services.REDIS_PORT, tls=client_tls(self._pki))
            await self._supervisor.start(ProcessSpec(name=place.name, place=place.name, argv=argv, ready=ready))

    async def _start_services(self) -> None:
        wanted = self._settings.services
        site = services.Site(settings=self._settings, state=self._state)
        text = yaml.safe_dump(services.ctl_config(site), sort_keys=False)
        self._state.ctl_config.write_text(text, encoding="utf-8")
        specs = []
        if "watcher" in wanted:
            specs += [
                self._member_spec(services.watcher_plan(site, member), member, services.WATCHER_PORT)
                for member in self._topology.watchers
            ]
        if "planner" in wanted:
            specs += [
                self._member_spec(services.planner_plan(site, member), member, services.PLANNER_PORT)
                for member in self._topology.planners
            ]
        if "enforcer" in wanted:
            for node in self._topology.nodes:
                (self._state.nodes / node.name).mkdir(exist_ok=True)
                issue(self._pki, node.name, common_name=f"system:node:{node.name}", organization="system:nodes")
                plan = services.enforcer_plan(site, node)
                check = readiness.http_ok(node.address.ipv4, services.HEALTHZ_PORT, "/healthz")
                specs.append(self._spec(plan, check))
        if specs:
            say(step=", ".join(spec.name for spec in specs))
            await self._supervisor.start_all(specs)

    def _member_spec(self, plan: services.ServicePlan, member: MemberPlace, port: int) -> ProcessSpec:
        issue(self._pki, member.name, common_name=member.name, addresses=member.address, names=(member.name,))
        return self._spec(plan, readiness.grpc_health(f"{member.address.ipv4}:{port}", self._pki.admin))

    def _spec(self, plan: services.ServicePlan, ready: readiness.Check) -> ProcessSpec:
        path = self._state.config / f"{plan.name}.yaml"
        path.write_text(yaml.safe_dump(plan.config, sort_keys=False), encoding="utf-8")
        self._state.clock(plan.name).write_bytes(bytes(8))
        return ProcessSpec(name=plan.name, place=plan.place, argv=plan.argv, env=plan.env, ready=ready)


def main() -> None:
    """Runs the control process; exit status 1 when a part did not come up."""
    directory, api_socket = Path(sys.argv[1]), int(sys.argv[2])
    state = StateDirectory(directory.parent, directory.name)
    logging.basicConfig(
        filename=state.logs / "control.log", level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    settings = decode_settings(state.settings.read_bytes())
    try:
        asyncio.run(ControlProcess(settings, state, api_socket).run())
    except* (LabError, OSError) as group:
        for error in group.exceptions:
            logging.getLogger(__name__).error("%s", error)  # noqa: TRY400  # the message is for the operator; traces go to control.stderr
        say(error="; ".join(str(error) for error in group.exceptions))
        sys.exit(1)


if __name__ == "__main__":
    main()
