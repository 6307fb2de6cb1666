# SPDX-License-Identifier: Apache-2.0
"""Who is compared: our enforcer on its node, and another kube-proxy, given as a program, on a node of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import yaml

from pointsman_lab.bench.report import OURS
from pointsman_lab.errors import LabStartError
from pointsman_lab.net.topology import CLUSTER_CIDRS
from pointsman_lab.supervise.services import enforcer_name

if TYPE_CHECKING:
    from pathlib import Path

    from pointsman_lab.cluster import Cluster

PEER = "kube-proxy"
_RUN_SECONDS_MAX = 7200.0
_START_SECONDS = 30.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.02
_OURS = ("watcher", "planner")
_TABLES = (("ip", "pointsman"), ("ip6", "pointsman"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """So far, with all child processes that ended."""

    cpu_seconds: float
    resident_bytes: int


class Subject(Protocol):
    """Programs a node. `start` returns when the process is there, which says nothing about the kernel."""

    who: str
    node: str

    async def start(self) -> None:
        """Begin, knowing nothing."""

    async def stop(self) -> None:
        """End; what is in the kernel stays."""

    async def cost(self) -> Cost:
        """What it cost so far on its node."""


class Ours:
    """Watcher, planner and one enforcer; the cost is the enforcer's, which is what a node pays."""

    who = OURS

    def __init__(self, cluster: Cluster, node: str) -> None:
        self._cluster = cluster
        self.node = node
        self._enforcer = enforcer_name(node)

    async def start(self) -> None:
        """Have the node know nothing, then start its enforcer."""
        state = self._cluster.state.nodes / self.node
        for path in state.rglob("*"):
            if path.is_file():
                path.unlink()
        await self._cluster.start_process(self._enforcer)

    async def stop(self) -> None:
        """End the enforcer, and take its tables away."""
        await self._cluster.signal(self._enforcer, "KILL", restart=False)
        for family, table in _TABLES:
            await self._cluster.execute(self.node, ["nft", "delete", "table", family, table])

    async def leave(self) -> None:
        """End everything of ours, so that the machine is the other's."""
        await self.stop()
        for name in _OURS:
            await self._cluster.stop_process(name)

    async def cost(self) -> Cost:
        """The enforcer's."""
        info = (await self._cluster.processes())[self._enforcer]
        return Cost(cpu_seconds=info.cpu_seconds, resident_bytes=info.resident_bytes)


class Peer:
    """A kube-proxy of any 1.3x, as an operator runs it: a configuration file and nothing else."""

    who = PEER

    def __init__(self, cluster: Cluster, node: str, binary: Path, mode: str) -> None:
        self._cluster = cluster
        self.node = node
        self._binary = binary
        self._pid_file = cluster.state.path / "peer.pid"
        self._log = cluster.state.path / "peer.log"
        self._config = cluster.state.path / "peer.yaml"
        self._config.write_text(yaml.safe_dump(configuration(mode, node, cluster.state.internal_kubeconfig)))
        self._running: asyncio.Task[object] | None = None

    async def start(self) -> None:
        """Start the program in the node's namespace."""
        self._pid_file.unlink(missing_ok=True)
        script = 'echo $$ > "$1"; exec "$2" --config="$3" > "$4" 2>&1'
        files = (str(each) for each in (self._pid_file, self._binary, self._config, self._log))
        command = ["sh", "-c", script, "sh", *files]
        self._running = asyncio.create_task(self._cluster.execute(self.node, command, timeout_seconds=_RUN_SECONDS_MAX))
        async with asyncio.timeout(_START_SECONDS):
            while not self._pid():  # noqa: ASYNC110 - another process writes the file
                await asyncio.sleep(_POLL_SECONDS)

    def _pid(self) -> str:
        return self._pid_file.read_text().strip() if self._pid_file.exists() else ""

    async def stop(self) -> None:
        """End it in order."""
        if self._running is None:
            return
        if not self._running.done():
            await self._cluster.execute(self.node, ["kill", self._pid()])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await self._running
        self._running = None

    async def cost(self) -> Cost:
        """The program's and its children's.

        Raises:
            LabStartError: it has ended; the message quotes the end of its log.
        """
        result = await self._cluster.execute(self.node, ["cat", f"/proc/{self._pid()}/stat"])
        if result.code != 0 or self._running is None or self._running.done():
            raise LabStartError(f"{self._binary} ended: {self._log.read_text(errors='replace')[-2000:]}")
        return cost_of(result.stdout)


def cost_of(stat: str) -> Cost:
    """A process's cost by its /proc/PID/stat (proc(5): fields 14 to 17 are ticks, 24 is pages)."""
    fields = stat.rpartition(")")[2].split()
    ticks = sum(map(int, fields[11:15]))
    return Cost(
        cpu_seconds=ticks / os.sysconf("SC_CLK_TCK"), resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    )


def configuration(mode: str, node: str, kubeconfig: Path) -> dict[str, object]:
    """A KubeProxyConfiguration: tuned to sync at once, and told to leave the machine's conntrack limits alone."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode,
        "hostnameOverride": node,
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": ",".join(CLUSTER_CIDRS),
        "detectLocalMode": "ClusterCIDR",
        "conntrack": {"maxPerCore": 0, "min": 0},
        "iptables": {"minSyncPeriod": "1ms"},
        "nftables": {"minSyncPeriod": "1ms"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }
