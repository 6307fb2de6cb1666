# SPDX-License-Identifier: Apache-2.0
"""The lab as a Python object: start it, change it, probe it, break it.

    async with Cluster(LabSettings(nodes=3)) as cluster:
        await cluster.apply_text(YAML)
        await cluster.wait_deployed("shop", "frontend")
        probes = await cluster.probe("outside", "198.51.100.1", 80, count=100)
        async with cluster.traffic("shop/client-abc", vip, 80) as traffic:
            await cluster.signal("planner-1", "KILL")
        assert traffic.last.failed == 0

A place is `node-1`, `outside`, `control`, or a pod as `namespace/name`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Self

from pointsman_lab.apiserver.client import ApiClient
from pointsman_lab.apiserver.resources import DEPLOYMENTS, ENDPOINTSLICES, PODS, SERVICES
from pointsman_lab.control.calls import ControlCalls
from pointsman_lab.controller.objects import is_pod_ready, is_terminating, labels
from pointsman_lab.errors import LabUsageError, NotConvergedError
from pointsman_lab.launch import Launched, end, launch
from pointsman_lab.manifests import apply_objects, delete_objects, load_manifests, parse_manifests
from pointsman_lab.net.topology import NodePlace, Topology
from pointsman_lab.pki import Pki, client_tls
from pointsman_lab.probe.calls import ProbeCalls
from pointsman_lab.rpc import RpcClient
from pointsman_lab.settings import LabSettings, decode_settings
from pointsman_lab.statedir import StateDirectory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path
    from types import TracebackType

Object = dict[str, Any]
_POLL_SECONDS = 0.02
_WAIT_SECONDS = 30.0


class Cluster(ProbeCalls, ControlCalls):
    """One lab. As a context manager it starts the lab and ends it; `attach` joins one that runs."""

    def __init__(self, settings: LabSettings | None = None, *, on_step: Callable[[str], None] = lambda _: None) -> None:
        """Takes what to start; `on_step` is told how the start goes."""
        self.settings = settings or LabSettings()
        self.state = StateDirectory(self.settings.root_path, self.settings.name)
        self.topology: Topology = self.settings.topology
        self._on_step = on_step
        self._attached = False
        self._launched: Launched | None = None
        self._stack = contextlib.AsyncExitStack()
        self._api: ApiClient | None = None
        ProbeCalls.__init__(self, RpcClient(self.state.prober_socket))
        ControlCalls.__init__(self, RpcClient(self.state.control_socket))

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
        self._api = await self._stack.enter_async_context(
            ApiClient(server, tls=client_tls(Pki(directory=self.state.pki)))
        )
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

    async def fault(self, name: str, **fields: Any) -> Mapping[str, Any]:
        """A fault of the API server: drop-watches, freeze-watches, thaw-watches, delay-watches, compact, refuse."""
        return await self.api.request("POST", f"/lab/v1/faults/{name}", fields)

    def step_clock(self, process: str, seconds: float) -> None:
        """Moves the wall clock of a service by so many seconds, for good; its monotonic clock is not touched.

        Raises:
            LabUsageError: the lab was started without `stepped_clocks`, or has no such service.
        """
        path = self.state.clock(process)
        if not self.settings.stepped_clocks or not path.exists():
            raise LabUsageError(
                f"the clock of {process!r} cannot be set: is it a service, and are clocks stepped here?"
            )
        with path.open("r+b") as file:
            offset = int.from_bytes(file.read(8), "little", signed=True) + round(seconds * 1e9)
            file.seek(0)
            file.write(offset.to_bytes(8, "little", signed=True))

    async def clear_faults(self) -> None:
        """Ends the API server's faults."""
        await self.api.request("DELETE", "/lab/v1/faults")
