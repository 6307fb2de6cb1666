# SPDX-License-Identifier: Apache-2.0
"""The processes of a fan-out run: planners as an operator starts them, and generators; what each of them costs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pointsman_lab.bench.fanout.generator import GeneratorOrder

_READY_SECONDS = 120.0
_STOP_SECONDS = 10.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True, kw_only=True)
class PlannerProcess:
    """A planner, and where it listens."""

    process: asyncio.subprocess.Process
    address: str

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Resident memory now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def start_planner(directory: Path, number: int, watcher: str) -> PlannerProcess:
    """Start one with a configuration file in `directory`; returns when it is in sync.

    Raises:
        TimeoutError: it was not in sync in time; its log is in the directory.
    """
    address = f"127.0.0.1:{_free_port()}"
    path = directory / f"planner-{number}.json"
    document = {
        "apiVersion": "config.pointsman.io/v1alpha1",
        "kind": "PlannerConfiguration",
        "watcherAddresses": [watcher],
        "listenAddress": address,
        "metricsBindAddress": f"127.0.0.1:{_free_port()}",
        "plannerID": f"planner-{number}",
        "security": {"insecure": True},
    }
    path.write_text(json.dumps(document))
    with path.with_suffix(".log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pointsman_planner", "--config", str(path), stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(_READY_SECONDS), grpc.aio.insecure_channel(address) as channel:
            await _serving(channel)
    except BaseException:
        await stop(process)
        raise
    return PlannerProcess(process=process, address=address)


async def _serving(channel: grpc.aio.Channel) -> None:
    check = health_pb2_grpc.HealthStub(channel).Check
    request = health_pb2.HealthCheckRequest()
    while True:
        try:
            answer = await check(request, wait_for_ready=True)
        except grpc.aio.AioRpcError:
            pass
        else:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
        await asyncio.sleep(0.05)


class GeneratorProcess:
    """A process of light enforcers, and a way to ask it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, order: GeneratorOrder) -> GeneratorProcess:
        """Start one; its nodes dial at once."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "pointsman_lab.bench.fanout.generator",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 << 20,
        )
        made = cls(process)
        await made._say(msgspec.json.encode(order))
        return made

    async def ask(self, word: str) -> dict[str, Any]:
        """The answer to `read` or `cut`.

        Raises:
            RuntimeError: the process ended.
        """
        await self._say(word.encode())
        if self.process.stdout is None or not (line := await self.process.stdout.readline()):
            raise RuntimeError(f"generator {self.process.pid} ended; its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def _say(self, line: bytes) -> None:
        if self.process.stdin is None:
            raise RuntimeError("a generator has no standard input")
        self.process.stdin.write(line + b"\n")
        await self.process.stdin.drain()


async def stop(process: asyncio.subprocess.Process) -> None:
    """Ask a process to end, and make it."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def stop_all(processes: Sequence[asyncio.subprocess.Process]) -> None:
    """End all of them, one after the other."""
    for each in processes:
        await stop(each)
