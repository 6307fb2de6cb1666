# SPDX-License-Identifier: Apache-2.0
"""The lab as a Python object: start it, change it, probe it, break it.

    async with Cluster(LabSettings(nodes=3)) as cluster:
        await cluster.apply_text(YAML)
        await cluster.wait_deployed("shop", "frontend")
        probes = await cluster.probe("outside", "198.51.100.1", 80, count=100)
        async with cluster.traffic("shop/client-abc", vip, 80) as traffic:
            await cluster.signal("planner", "KILL")
        assert traffic.last.failed == 0

A place is `node-1`, `outside`, `control`, or a pod as `namespace/name`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Self

import msgspec

from pointsman_lab.apiserver.client import ApiClient
from pointsman_lab.apiserver.resources import DEPLOYMENTS, ENDPOINTSLICES, PODS, SERVICES
from pointsman_lab.control.methods import ExecResult
from pointsman_lab.controller.objects import is_pod_ready, is_terminating, labels
from pointsman_lab.errors import NotConvergedError, RemoteError
from pointsman_lab.launch import Launched, end, launch
from pointsman_lab.manifests import apply_objects, delete_objects, load_manifests, parse_manifests
from pointsman_lab.net.topology import NodePlace, Topology, build_topology, place_name
from pointsman_lab.otlp.store import Span
from pointsman_lab.pki import client_tls, pki_paths
from pointsman_lab.probe.outcome import Answer, Probe, ProbeRequest, TrafficReport, TrafficRequest
from pointsman_lab.rpc import RpcClient
from pointsman_lab.settings import LabSettings, decode_settings
from pointsman_lab.statedir import StateDirectory
from pointsman_lab.supervise.process import ProcessInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

Object = dict[str, Any]
_POLL_SECONDS = 0.02
_WAIT_SECONDS = 30.0


class Cluster:
    """One lab. As a context manager it starts the lab and ends it; `attach` joins one that runs."""

    def __init__(self, settings: LabSettings | None = None, *, on_step: Callable[[str], None] = lambda _: None) -> None:
        """Takes what to start; `on_step` is told how the start goes."""
        self.settings = settings or LabSettings()
        self.state = StateDirectory(self.settings.root_path, self.settings.name)
        self.topology: Topology = build_topology(nodes=self.settings.nodes, zones=self.settings.zones)
        self._on_step = on_step
        self._launched: Launched | None = None
        self._stack = contextlib.AsyncExitStack()
        self._api: ApiClient | None = None
        self._control = RpcClient(self.state.control_socket)
        self._prober = RpcClient(self.state.prober_socket)

    @classmethod
    def attach(cls, root: Path, name: str) -> Cluster:
        """A cluster over a lab that runs already; leaving the context leaves it running.

        Raises:
            LabUsageError: no such lab runs.
        """
        state = StateDirectory(root, name)
        state.read()
        cluster = cls(decode_settings(state.settings.read_bytes()))
        cluster._attached = True
        return cluster

    _attached = False

    async def __aenter__(self) -> Self:
        if not self._attached:
            self._launched = await launch(self.settings, on_step=self._on_step)
        try:
            await self._connect()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        if self._launched is not None:
            await end(self._launched)
            self._launched = None

    async def _connect(self) -> None:
        server = self.state.read().server if self._attached or self.state.lab_file.exists() else ""
        self._api = await self._stack.enter_async_context(ApiClient(server, tls=client_tls(pki_paths(self.state.pki))))
        for client in (self._control, self._prober):
            await client.connect()
            self._stack.push_async_callback(client.close)

    # --- what there is -------------------------------------------------------------------------------------------

    @property
    def api(self) -> ApiClient:
        """A client of the API server, as its administrator."""
        if self._api is None:
            raise RuntimeError("the cluster is not started: use it in `async with`")
        return self._api

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig for tools on the host."""
        return self.state.kubeconfig

    @property
    def nodes(self) -> tuple[NodePlace, ...]:
        """The nodes, in order."""
        return self.topology.nodes

    async def pods(self, namespace: str = "", **selector: str) -> list[Object]:
        """The pod objects of a namespace (all when empty), those with all the given labels."""
        answer = await self.api.list(PODS, namespace)
        return [pod for pod in answer["items"] if all(labels(pod).get(key) == value for key, value in selector.items())]

    async def service(self, namespace: str, name: str) -> Object:
        """A Service object."""
        return await self.api.get(SERVICES, name, namespace)

    async def endpoint_slices(self, namespace: str, service: str) -> list[Object]:
        """The EndpointSlices of a Service."""
        answer = await self.api.list(ENDPOINTSLICES, namespace, labelSelector=f"kubernetes.io/service-name={service}")
        return list(answer["items"])

    # --- change --------------------------------------------------------------------------------------------------

    async def apply(self, *paths: Path) -> list[Object]:
        """Applies manifest files and directories."""
        return await apply_objects(self.api, load_manifests(paths))

    async def apply_text(self, text: str) -> list[Object]:
        """Applies manifests given as YAML."""
        return await apply_objects(self.api, parse_manifests(text, "text"))

    async def delete(self, *paths: Path) -> None:
        """Deletes what manifest files and directories name."""
        await delete_objects(self.api, load_manifests(paths))

    async def delete_text(self, text: str) -> None:
        """Deletes what manifests given as YAML name."""
        await delete_objects(self.api, parse_manifests(text, "text"))

    async def scale(self, namespace: str, deployment: str, replicas: int) -> None:
        """Sets the replicas of a Deployment."""
        await self.api.patch(DEPLOYMENTS, deployment, {"spec": {"replicas": replicas}}, namespace)

    async def wait_deployed(self, namespace: str, deployment: str, *, timeout_seconds: float = _WAIT_SECONDS) -> None:
        """Waits until a Deployment is rolled out and its old pods are gone.

        Raises:
            NotConvergedError: not in time.
        """

        async def is_done() -> bool:
            found = await self.api.get(DEPLOYMENTS, deployment, namespace)
            wanted, status = found["spec"].get("replicas", 1), found.get("status") or {}
            counts = (status.get("replicas", 0), status.get("updatedReplicas", 0), status.get("readyReplicas", 0))
            return (
                status.get("observedGeneration", 0) >= found["metadata"].get("generation", 1)
                and counts == (wanted,) * 3
                and not any(
                    is_terminating(pod) and pod["metadata"]["name"].startswith(f"{deployment}-")
                    for pod in await self.pods(namespace)
                )
            )

        await self.wait_until(is_done, f"deployment {namespace}/{deployment}", timeout_seconds=timeout_seconds)

    async def wait_all_deployed(self, *, timeout_seconds: float = _WAIT_SECONDS) -> None:
        """Waits for every Deployment, and for every other pod to be ready.

        Raises:
            NotConvergedError: not in time.
        """
        for found in (await self.api.list(DEPLOYMENTS))["items"]:
            metadata = found["metadata"]
            await self.wait_deployed(metadata["namespace"], metadata["name"], timeout_seconds=timeout_seconds)

        async def all_ready() -> bool:
            return all(is_pod_ready(pod) for pod in await self.pods())

        await self.wait_until(all_ready, "all pods ready", timeout_seconds=timeout_seconds)

    async def wait_until(
        self, condition: Callable[[], Awaitable[bool]], what: str, *, timeout_seconds: float = _WAIT_SECONDS
    ) -> float:
        """Polls until the condition holds; answers with the seconds it took.

        Raises:
            NotConvergedError: not in time; the message says `what`.
        """
        started = time.monotonic()
        while not await condition():
            if time.monotonic() - started > timeout_seconds:
                raise NotConvergedError(f"{what}: not reached within {timeout_seconds:g} s")
            await asyncio.sleep(_POLL_SECONDS)
        return time.monotonic() - started

    # --- probe ---------------------------------------------------------------------------------------------------

    async def probe(self, place: str, ip: str, port: int, protocol: str = "TCP", **options: Any) -> list[Probe]:
        """Sends probes from a place; the options are the other fields of ProbeRequest."""
        request = ProbeRequest(place=place_name(place), ip=ip, port=port, protocol=protocol, **options)
        return msgspec.convert(await self._prober.call("probe", **msgspec.to_builtins(request)), list[Probe])

    async def connect(self, place: str, ip: str, port: int, protocol: str = "TCP", **options: Any) -> Probe:
        """Sends one probe."""
        return (await self.probe(place, ip, port, protocol, count=1, **options))[0]

    @contextlib.asynccontextmanager
    async def traffic(
        self, place: str, ip: str, port: int, protocol: str = "TCP", **options: Any
    ) -> AsyncIterator[RunningTraffic]:
        """Continuous traffic as long as the body runs; the options are the other fields of TrafficRequest."""
        request = TrafficRequest(place=place_name(place), ip=ip, port=port, protocol=protocol, **options)
        number = await self._prober.call("traffic_start", **msgspec.to_builtins(request))
        traffic = RunningTraffic(self._prober, number)
        try:
            yield traffic
        finally:
            await traffic.stop()

    @contextlib.asynccontextmanager
    async def session(
        self, place: str, ip: str, port: int, *, source: str | None = None
    ) -> AsyncIterator[Callable[[], Awaitable[Answer]]]:
        """One TCP connection that stays; the body gets a function that asks over it."""
        number = await self._prober.call("session_open", place=place_name(place), ip=ip, port=port, source=source)

        async def ask() -> Answer:
            return msgspec.convert(await self._prober.call("session_ask", number=number), Answer)

        try:
            yield ask
        finally:
            await self._prober.call("session_close", number=number)

    async def execute(
        self, place: str, argv: Sequence[str], *, text: str = "", timeout_seconds: float = 30.0
    ) -> ExecResult:
        """Runs a command in a place, with `text` as its input."""
        answer = await self._control.call(
            "execute", place=place, argv=list(argv), text=text, timeout_seconds=timeout_seconds
        )
        return msgspec.convert(answer, ExecResult)

    async def node_exec(self, node: str, *argv: str) -> str:
        """Runs a command on a node and answers with its output.

        Raises:
            RemoteError: it failed; the message quotes it.
        """
        result = await self.execute(node, argv)
        if result.code != 0:
            raise RemoteError(f"{' '.join(argv)} on {node} ended with {result.code}: {result.stderr.strip()}")
        return result.stdout

    # --- processes and faults ------------------------------------------------------------------------------------

    async def processes(self) -> dict[str, ProcessInfo]:
        """The lab's processes by name."""
        infos = msgspec.convert(await self._control.call("processes"), list[ProcessInfo])
        return {info.name: info for info in infos}

    async def signal(self, process: str, name: str, *, restart: bool = True) -> None:
        """Sends a signal (`KILL`, `TERM`, `STOP`, `CONT`); without `restart` the process stays away."""
        await self._control.call("process_signal", name=process, signal=name, restart=restart)

    async def start_process(self, process: str) -> None:
        """Starts a process that ended and waits until it is ready."""
        await self._control.call("process_start", name=process)

    async def stop_process(self, process: str) -> None:
        """Ends a process in order, for good."""
        await self._control.call("process_stop", name=process)

    async def wait_process_ready(self, process: str) -> float:
        """Waits until a process is ready; answers with the seconds it took."""
        return float(await self._control.call("process_wait_ready", name=process))

    async def process_log(self, process: str) -> str:
        """The end of a process's log."""
        return str(await self._control.call("process_log", name=process))

    async def fault(self, name: str, **fields: Any) -> Mapping[str, Any]:
        """A fault of the API server: drop-watches, freeze-watches, thaw-watches, delay-watches, compact, refuse."""
        return await self.api.request("POST", f"/lab/v1/faults/{name}", fields)

    async def clear_faults(self) -> None:
        """Ends the API server's faults."""
        await self.api.request("DELETE", "/lab/v1/faults")

    async def partition(self, node: str) -> None:
        """Cuts a node off: packets from and to it vanish."""
        await self._control.call("partition", node=node)

    async def heal(self, node: str) -> None:
        """Connects a node again."""
        await self._control.call("heal", node=node)

    async def kill_pod(self, namespace: str, name: str) -> None:
        """Kills a pod's server without grace; its node starts it again."""
        await self._control.call("kill_pod", namespace=namespace, name=name)

    async def route_outside(self, address: str, *via: str) -> None:
        """Sends outside clients to an address over the given nodes."""
        await self._control.call("route_outside", address=address, via=list(via))

    # --- traces --------------------------------------------------------------------------------------------------

    async def find_traces(self, *, attribute: str = "", value: str = "", name: str = "", limit: int = 20) -> list[str]:
        """Ids of the latest traces that hold a span of that name with that attribute value."""
        answer = await self._control.call("trace_find", attribute=attribute, value=value, name=name, limit=limit)
        return [str(trace_id) for trace_id in answer]

    async def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace, by start."""
        return msgspec.convert(await self._control.call("trace_spans", trace_id=trace_id), list[Span])

    async def waterfall(self, trace_id: str) -> str:
        """A trace as text."""
        return str(await self._control.call("trace_waterfall", trace_id=trace_id))

    async def jaeger(self, *trace_ids: str) -> Object:
        """Traces as a document Jaeger's user interface loads."""
        return dict(await self._control.call("trace_jaeger", trace_ids=list(trace_ids)))


class RunningTraffic:
    """Traffic that runs."""

    def __init__(self, prober: RpcClient, number: int) -> None:
        """Made by `Cluster.traffic`."""
        self._prober = prober
        self._number = number
        self._last: TrafficReport | None = None

    @property
    def last(self) -> TrafficReport:
        """The report at the end, or the latest one asked for.

        Raises:
            RuntimeError: none was asked for yet.
        """
        if self._last is None:
            raise RuntimeError("no report yet: await report(), or leave the context")
        return self._last

    async def report(self) -> TrafficReport:
        """What was seen so far."""
        answer = await self._prober.call("traffic_report", number=self._number)
        self._last = msgspec.convert(answer, TrafficReport)
        return self._last

    async def stop(self) -> TrafficReport:
        """Ends the traffic after the requests in flight; further calls answer the same."""
        if self._last is None or self._last.running:
            answer = await self._prober.call("traffic_stop", number=self._number)
            self._last = msgspec.convert(answer, TrafficReport)
        return self._last

    async def wait_answer_of(self, pod: str, *, timeout_seconds: float = 10.0) -> float:
        """Waits until a pod has answered; gives the CLOCK_MONOTONIC instant of its first answer.

        Raises:
            NotConvergedError: not in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while pod not in (report := await self.report()).first_seen:
            if time.monotonic() > deadline:
                raise NotConvergedError(f"pod {pod} answered nothing within {timeout_seconds:g} s: {report.by_pod}")
            await asyncio.sleep(_POLL_SECONDS)
        return report.first_seen[pod]
