# SPDX-License-Identifier: Apache-2.0
"""The life of one pod on its node: network, server process, restarts, termination.

    start -> [ network -> server -> (server died: wait, again) ] -> SIGTERM -> grace -> SIGKILL -> network removed

Every change of the container is told to `on_change`; the life itself writes nothing to the API.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec

from pointsman_lab.controller.pods import Container, echo_settings, grace_seconds
from pointsman_lab.net.fabric import Fabric
from pointsman_lab.net.process import start_process, wait_process
from pointsman_lab.net.topology import DualStack, pod_place

_RESTART_SECONDS = 1.0
_KILL_MARGIN_SECONDS = 1.0
_ECHO = Path(__file__).with_name("echo.py")

OnChange = Callable[[Container, DualStack], Awaitable[None]]


class PodLife:
    """One pod. `run` is its whole life; the other methods may be called at any time meanwhile."""

    def __init__(self, pod: dict[str, Any], fabric: Fabric, log: IO[bytes], on_change: OnChange) -> None:
        """Takes the pod object as scheduled, the network, where its errors are logged, and whom to tell."""
        self._pod = pod
        self._fabric = fabric
        self._log = log
        self._on_change = on_change
        self._terminating = asyncio.Event()
        self._grace_seconds = grace_seconds(pod)
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts = 0

    @property
    def pid(self) -> int | None:
        """The server's process id, while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def terminate(self, grace_seconds: float) -> None:
        """Asks the pod to end within `grace_seconds`; zero kills it at once."""
        self._grace_seconds = grace_seconds
        self._terminating.set()
        if grace_seconds == 0:
            self.kill()

    def kill(self) -> None:
        """Kills the server without grace, as a crash would; a pod that is not terminating starts it again."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    async def run(self) -> None:
        """Lives until terminated.

        Raises:
            NetworkError: the pod's network could not be made.
        """
        metadata = self._pod["metadata"]
        where = (metadata["namespace"], metadata["name"], self._pod["spec"]["nodeName"])
        addresses = await self._fabric.add_pod(*where)
        try:
            while not self._terminating.is_set():
                await self._run_container(addresses)
                if not self._terminating.is_set():
                    self._restarts += 1
                    await self._tell(addresses, running=False, ready=False)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._terminating.wait(), _RESTART_SECONDS)
        finally:
            self.kill()
            await self._fabric.remove_pod(*where, addresses)

    async def _tell(self, addresses: DualStack, *, running: bool, ready: bool, started_at: str | None = None) -> None:
        container = Container(is_running=running, is_ready=ready, restarts=self._restarts, started_at=started_at)
        await self._on_change(container, addresses)

    async def _run_container(self, addresses: DualStack) -> None:
        metadata = self._pod["metadata"]
        settings = msgspec.json.encode(echo_settings(self._pod, addresses)).decode()
        self._process = start_process(
            pod_place(metadata["namespace"], metadata["name"]),
            [sys.executable, "-S", "-E", "-I", str(_ECHO), settings],
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        started_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ended = asyncio.create_task(wait_process(self._process))
        watcher = asyncio.create_task(self._watch_readiness(self._process, addresses, started_at))
        terminating = asyncio.create_task(self._terminating.wait())
        try:
            await asyncio.wait({ended, terminating}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                self._process.terminate()
                _, pending = await asyncio.wait({ended}, timeout=self._grace_seconds + _KILL_MARGIN_SECONDS)
                if pending:
                    self._process.kill()
                    await ended
        finally:
            for task in (watcher, terminating, ended):
                task.cancel()

    async def _watch_readiness(self, process: subprocess.Popen[bytes], addresses: DualStack, started_at: str) -> None:
        """Follows what the server says about itself until it closes its standard output."""
        if process.stdout is None:
            raise RuntimeError("the server was started without a pipe")
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
        try:
            while line := await reader.readline():
                await self._tell(
                    addresses, running=True, ready=bool(msgspec.json.decode(line)["ready"]), started_at=started_at
                )
        finally:
            transport.close()
