# SPDX-License-Identifier: Apache-2.0
"""The nodes' part: runs the pods that are assigned to the lab's nodes and reports their status."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pointsman_lab.controller.gateway import ApiUnavailableError, Gateway
from pointsman_lab.controller.objects import Object, is_terminating, key, name, namespace, spec, uid
from pointsman_lab.controller.pods import Container, grace_seconds, pod_status
from pointsman_lab.controller.state import ClusterState
from pointsman_lab.errors import LabUsageError, NetworkError
from pointsman_lab.net.fabric import Fabric
from pointsman_lab.net.topology import DualStack
from pointsman_lab.pod.life import PodLife

_RETRY_SECONDS = 0.2
_log = logging.getLogger(__name__)


class Kubelet:
    """Starts and ends pod lives as the API objects ask for; one life per pod uid."""

    def __init__(
        self, state: ClusterState, gateway: Gateway, fabric: Fabric, logs: Path, wake: Callable[[], None]
    ) -> None:
        """Takes the shared state, the API, the network, the log directory, and how to wake the reconciler."""
        self._state = state
        self._gateway = gateway
        self._fabric = fabric
        self._logs = logs
        self._wake = wake
        self._lives: dict[str, PodLife] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def sync(self, pod: Object) -> None:
        """Brings the pod's life in line with its object."""
        life = self._lives.get(uid(pod))
        if life is not None:
            if is_terminating(pod):
                life.terminate(grace_seconds(pod))
        elif not is_terminating(pod) and self._is_ours(pod):
            self._start(pod)

    def is_running(self, pod: Object) -> bool:
        """Whether the pod has a life here."""
        return uid(pod) in self._lives

    def forget(self, known: set[str]) -> None:
        """Ends at once the lives of pods whose uid the API no longer knows."""
        for pod_uid, life in self._lives.items():
            if pod_uid not in known:
                life.terminate(0)

    def kill(self, pod: Object) -> None:
        """Kills the pod's server without grace.

        Raises:
            LabUsageError: it does not run.
        """
        life = self._lives.get(uid(pod))
        if life is None or life.pid is None:
            raise LabUsageError(f"pod {key(pod)} does not run")
        life.kill()

    def _is_ours(self, pod: Object) -> bool:
        return any(node.name == spec(pod).get("nodeName") for node in self._fabric.topology.nodes)

    def _start(self, pod: Object) -> None:
        async def report(container: Container, addresses: DualStack) -> None:
            await self._report(pod, container, addresses)

        log = (self._logs / f"pod.{namespace(pod)}.{name(pod)}.log").open("ab")
        life = PodLife(pod, self._fabric, log, report)
        # Known before its task first runs: the next event of the same pod must find it.
        self._lives[uid(pod)] = life
        self._tasks[uid(pod)] = asyncio.create_task(self._live(pod, life, log), name=f"pod {key(pod)}")

    async def _live(self, pod: Object, life: PodLife, log: IO[bytes]) -> None:
        try:
            await life.run()
        except NetworkError as error:
            _log.warning("pod %s: %s", key(pod), error)
        finally:
            log.close()
            del self._lives[uid(pod)]
            del self._tasks[uid(pod)]
        await self._finalize(pod)

    async def _report(self, pod: Object, container: Container, addresses: DualStack) -> None:
        """Writes the status; repeats while the API server is away, since nobody else will."""
        node = self._fabric.topology.node(spec(pod)["nodeName"])
        while True:
            current = self._state.caches["pods"].get(key(pod)) or pod
            status = pod_status(current, container, addresses, node.address.ipv4, self._state.now())
            try:
                written = await self._gateway.patch(
                    "pods", namespace(pod), name(pod), {"status": status}, subresource="status"
                )
            except ApiUnavailableError:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if written is not None and uid(written) == uid(pod):
                self._state.observe("pods", written)
                self._wake()
            return

    async def _finalize(self, pod: Object) -> None:
        """Tells the API server that nothing of a terminating pod is left."""
        while True:
            current = self._state.caches["pods"].get(key(pod))
            if current is None or uid(current) != uid(pod):
                return
            if not is_terminating(current):
                # The life ended for another reason; the reconciler starts a new one.
                await asyncio.sleep(_RETRY_SECONDS)
                self._state.dirty["pod", key(pod)] = None
                self._wake()
                return
            try:
                await self._gateway.delete("pods", namespace(pod), name(pod), uid=uid(pod), grace_seconds=0)
            except ApiUnavailableError:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._state.observe_gone("pods", current)
            self._wake()
            return
