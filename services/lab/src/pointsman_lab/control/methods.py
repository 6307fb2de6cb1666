# SPDX-License-Identifier: Apache-2.0
"""What the control process offers to the host over its socket."""

import asyncio
import subprocess
from typing import Any

import grpc.aio
import msgspec

from pointsman_lab import inspect
from pointsman_lab.controller.loop import Controllers
from pointsman_lab.controller.objects import Object
from pointsman_lab.errors import LabUsageError, RemoteError
from pointsman_lab.net.fabric import Fabric
from pointsman_lab.net.process import start_process
from pointsman_lab.net.topology import place_name
from pointsman_lab.otlp.store import SpanStore
from pointsman_lab.otlp.waterfall import jaeger_export, render_waterfall
from pointsman_lab.pki import Identity, channel_credentials
from pointsman_lab.rpc import Method
from pointsman_lab.supervise.process import ProcessInfo
from pointsman_lab.supervise.services import PLANNER_PORT
from pointsman_lab.supervise.supervisor import Supervisor


class ExecResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a command in a place did."""

    code: int
    stdout: str
    stderr: str


class ControlMethods:
    """The methods; each is called with the parameters of the request by keyword."""

    def __init__(
        self,
        *,
        fabric: Fabric,
        supervisor: Supervisor,
        spans: SpanStore,
        controllers: Controllers | None,
        admin: Identity,
    ) -> None:
        """Takes what the methods act on, and as whom planners are asked; without controllers there are no pods."""
        self._fabric = fabric
        self._supervisor = supervisor
        self._spans = spans
        self._controllers = controllers
        self._admin = admin

    def table(self) -> dict[str, Method]:
        """All methods by name."""
        return {name: getattr(self, name) for name in dir(type(self)) if not name.startswith("_") and name != "table"}

    async def execute(
        self, *, place: str, argv: list[str], timeout_seconds: float = 30.0, text: str = ""
    ) -> ExecResult:
        """Runs a command in a place and waits for it; killed when it takes too long."""
        process = start_process(
            place_name(place), argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(None, process.communicate, text.encode())
        try:
            stdout, stderr = await asyncio.wait_for(asyncio.shield(future), timeout_seconds)
        except TimeoutError as error:
            process.kill()
            await future
            raise LabUsageError(f"{argv[0]} in {place} took longer than {timeout_seconds:g} s") from error
        return ExecResult(
            code=process.returncode,
            stdout=stdout.decode(errors="replace"),
            stderr=stderr.decode(errors="replace"),
        )

    async def partition(self, *, place: str) -> None:
        """Cuts a place off the underlay."""
        await self._fabric.partition(place)

    async def heal(self, *, place: str) -> None:
        """Connects a place again."""
        await self._fabric.heal(place)

    async def cut(self, *, member: str, peers: list[str], percent: int = 100) -> None:
        """Loses packets between a machine of the control plane and others."""
        await self._fabric.cut(member, peers, percent)

    async def ask_planner(self, *, question: list[str], planner: str = "") -> list[str]:
        """The lines of a planner's answer; without a name, of the first one that answers."""
        planners = [place for place in self._fabric.topology.planners if planner in ("", place.name)]
        if not planners:
            raise LabUsageError(f"there is no planner {planner!r}")
        errors = []
        for place in planners:
            target = f"{place.address.ipv4}:{PLANNER_PORT}"
            async with grpc.aio.secure_channel(target, channel_credentials(self._admin)) as channel:
                try:
                    return await inspect.answer(channel, question)
                except grpc.aio.AioRpcError as error:
                    errors.append(f"{place.name}: {error.code().name}: {error.details()}")
        raise RemoteError("; ".join(errors))

    async def route_outside(self, *, address: str, via: list[str]) -> None:
        """Sets over which nodes outside clients reach an address."""
        await self._fabric.route_outside([(address, via)])

    async def kill_pod(self, *, namespace: str, name: str) -> None:
        """Kills a pod's server without grace."""
        controllers, pod = self._pod(namespace, name)
        controllers.kubelet.kill(pod)

    async def processes(self) -> list[ProcessInfo]:
        """What is known of each process."""
        return self._supervisor.describe()

    async def process_signal(self, *, name: str, signal: str, restart: bool = True) -> None:
        """Sends a signal to a process."""
        self._supervisor.send(name, signal, restart=restart)

    async def process_start(self, *, name: str) -> None:
        """Starts a process that ended and waits until it is ready."""
        await self._supervisor.resume(name)

    async def process_stop(self, *, name: str) -> None:
        """Ends a process for good."""
        await self._supervisor.get(name).stop()

    async def process_wait_ready(self, *, name: str) -> float:
        """Waits until a process is ready."""
        return await self._supervisor.wait_ready(name)

    async def process_log(self, *, name: str) -> str:
        """The end of a process's log."""
        return self._supervisor.get(name).log_tail()

    async def trace_find(self, *, attribute: str = "", value: str = "", name: str = "", limit: int = 20) -> list[str]:
        """Ids of the latest traces with such a span."""
        return list(self._spans.find(attribute=attribute, value=value, name=name, limit=limit))

    async def trace_spans(self, *, trace_id: str) -> Any:
        """The spans of a trace."""
        return list(self._spans.trace(trace_id))

    async def trace_waterfall(self, *, trace_id: str) -> str:
        """A trace as text."""
        return render_waterfall(self._spans.trace(trace_id))

    async def trace_jaeger(self, *, trace_ids: list[str]) -> Any:
        """Traces as a file for Jaeger."""
        return jaeger_export([self._spans.trace(trace_id) for trace_id in trace_ids])

    def _pod(self, namespace: str, name: str) -> tuple[Controllers, Object]:
        pod = self._controllers.state.caches["pods"].get(f"{namespace}/{name}") if self._controllers else None
        if self._controllers is None or pod is None:
            raise LabUsageError(f"there is no pod {namespace}/{name}")
        return self._controllers, pod
