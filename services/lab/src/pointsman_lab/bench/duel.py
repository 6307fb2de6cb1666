# SPDX-License-Identifier: Apache-2.0
"""The same lab, the same objects, the same measurements: ours, then a kube-proxy given as a program, mode by mode.

Everything is observed from outside: the kernel's own notifications say when something was programmed, /proc what it
cost, the API server what it was asked for, and a client on the node what a connection takes. Figures of both have the
same names, so that the report puts them in ratio.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver.resources import ENDPOINTSLICES, SERVICES
from pointsman_lab.bench.kernel import KernelCommits, kernel_commits
from pointsman_lab.bench.load import ENDPOINTS, NAMESPACE, addresses, endpoint_slice, load, name
from pointsman_lab.bench.report import Figure, percentiles
from pointsman_lab.bench.subjects import Ours, Peer, Subject
from pointsman_lab.cluster import Cluster
from pointsman_lab.errors import LabStartError
from pointsman_lab.nodes import wait_synced
from pointsman_lab.settings import LabSettings
from pointsman_lab.supervise.services import enforcer_name

if TYPE_CHECKING:
    from pointsman_lab.control.methods import ExecResult

MODES: Final = ("nftables", "iptables")
_SETTLED_SECONDS: Final = 2.0
_COLD_SECONDS_MAX: Final = 900.0
_LOOK_SECONDS: Final = 2.0
_CHANGE_SECONDS_MAX: Final = 60.0
_BURST: Final = 1000
_WRITERS: Final = 16
_PORT: Final = 8080
_CONNECTS: Final = 300
_BYTES: Final = 256 << 20
_PATH_SECONDS_MAX: Final = 120.0


async def compare(binary: Path, mode: str, size: int, changes: int, say: Callable[[str], None]) -> list[Figure]:
    """All figures of both in one mode at one size.

    Raises:
        LabError: the lab or the program does not start.
    """
    settings = LabSettings(
        name="duel",
        nodes=2,
        zones=1,
        watchers=1,
        planners=1,
        controllers=False,
        services=("redis", "watcher", "planner", "enforcer"),
        mode=mode,
        enforcer_config={"iptables": {"variant": "nft"}} if mode == "iptables" else {},
    )
    figures: list[Figure] = []
    async with Cluster(settings, on_step=say) as cluster:
        first, second = (node.name for node in cluster.nodes)
        await cluster.signal(enforcer_name(second), "KILL", restart=False)
        await cluster.execute(second, ["sh", "-c", "nft delete table ip pointsman; nft delete table ip6 pointsman"])
        await load(cluster.api, 0, size)
        await wait_synced(cluster)
        ours, peer = Ours(cluster, first), Peer(cluster, second, binary, mode)
        await ours.stop()
        for subject in (ours, peer):
            turn = Turn(cluster, subject, mode, size)
            figures += await turn.play(changes)
            say(f"{subject.who} in {mode} mode at {size:,} services is measured")
            if subject is ours:
                await ours.leave()
        await peer.stop()
    return figures


class Turn:
    """One subject's turn."""

    def __init__(self, cluster: Cluster, subject: Subject, mode: str, size: int) -> None:
        self._cluster = cluster
        self._subject = subject
        self._mode = mode
        self._size = size

    async def play(self, changes: int) -> list[Figure]:
        """Cold start, single changes, a burst, connections, and what all of it cost."""
        return [
            *await self._cold_start(),
            *await self._changes(changes),
            *await self._burst(),
            *await self._path(),
            self._figure("resident memory in the end", (await self._subject.cost()).resident_bytes / 1e6, "MB", 1),
        ]

    async def _cold_start(self) -> list[Figure]:
        before = await self._api_use()
        async with kernel_commits(self._cluster, self._subject.node, "generation") as commits:
            started = time.monotonic()
            await self._subject.start()
            await self._first_commit(commits, started)
            await self._settled(commits)
            took = commits.instants[-1] - started
        cost, after = await self._subject.cost(), await self._api_use()
        return [
            self._figure("cold start", took, "s", 1),
            self._figure("CPU of a cold start on the node", cost.cpu_seconds, "s", 1),
            self._figure("API server: watches that a node adds", after[0] - before[0], "watches", 0),
            self._figure("API server: bytes that the start of a node reads", after[1] - before[1], "bytes", 1),
        ]

    async def _first_commit(self, commits: KernelCommits, started: float) -> None:
        """Wait for it, as long as the program runs."""
        while True:
            with contextlib.suppress(TimeoutError):
                await commits.wait_after(started, timeout_seconds=_LOOK_SECONDS)
                return
            await self._subject.cost()
            if time.monotonic() - started > _COLD_SECONDS_MAX:
                raise LabStartError(f"{self._subject.who} programmed nothing within {_COLD_SECONDS_MAX:g} s")

    async def _changes(self, changes: int) -> list[Figure]:
        took: list[float] = []
        before, use = await self._subject.cost(), await self._api_use()
        async with kernel_commits(self._cluster, self._subject.node, "events") as commits:
            for number in range(1, changes + 1):
                index = (number * 7919) % self._size
                sent = time.monotonic()
                await self._put(index, addresses(index, version=number % 5 + 1))
                took.append((await commits.wait_after(sent, timeout_seconds=_CHANGE_SECONDS_MAX) - sent) * 1e3)
        after, used = await self._subject.cost(), await self._api_use()
        cpu = (after.cpu_seconds - before.cpu_seconds) / changes * 1e3
        title = self._title("one endpoint change: API write sent -> kernel commit")
        return [
            *percentiles(title, self._size, "ms", took, may_grow=0, who=self._subject.who),
            self._figure("one endpoint change: CPU on the node", cpu, "ms", 0),
            self._figure("one endpoint change: bytes from the API server", (used[1] - use[1]) / changes, "bytes", 0),
        ]

    async def _burst(self) -> list[Figure]:
        count = min(_BURST, self._size)
        before = await self._subject.cost()
        async with kernel_commits(self._cluster, self._subject.node, "generation") as commits:
            pending = iter(range(count))

            async def write() -> None:
                for index in pending:
                    await self._put(index, addresses(index, version=6, count=ENDPOINTS))

            await asyncio.gather(*(write() for _ in range(_WRITERS)))
            answered = time.monotonic()
            await self._settled(commits)
            late = max(0.0, commits.instants[-1] - answered)
        cpu = (await self._subject.cost()).cpu_seconds - before.cpu_seconds
        return [
            self._figure(f"burst of {count} slices: last API answer -> all in the kernel", late, "s", 0),
            self._figure(f"burst of {count} slices: CPU on the node", cpu, "s", 0),
        ]

    async def _path(self) -> list[Figure]:
        """What a connection takes, to a server on the node itself: direct and through three of the services."""
        address = next(each.address.ipv4 for each in self._cluster.nodes if each.name == self._subject.node)
        targets = {"no service": [str(address), _PORT]}
        for which, index in (("first", 0), ("middle", self._size // 2), ("last", self._size - 1)):
            found = await self._cluster.api.get(SERVICES, name(index), NAMESPACE)
            targets[f"the {which} service"] = [found["spec"]["clusterIP"], 80]
            await self._put(index, [str(address)])
        spec = {"listen": _PORT, "targets": targets, "connects": _CONNECTS, "bytes": _BYTES}
        result = await self._probe({**spec, "timeout_seconds": _PATH_SECONDS_MAX})
        figures = []
        for target, found in json.loads(result.stdout).items():
            title = self._title(f"connect, with the first packet, to {target}")
            figures += percentiles(title, self._size, "us", found["connect_us"], may_grow=0, who=self._subject.who)
            seconds = 8 / found["gigabits"]
            figures.append(self._figure(f"a gigabyte through {target}", seconds, "s", 0))
        return figures

    async def _probe(self, spec: dict[str, object]) -> ExecResult:
        command = [sys.executable, "-m", "pointsman_lab.bench.path_probe", json.dumps(spec)]
        result = await self._cluster.execute(self._subject.node, command, timeout_seconds=2 * _PATH_SECONDS_MAX)
        if result.code != 0:
            raise LabStartError(f"{self._subject.who}: {result.stderr.strip()}")
        return result

    async def _put(self, index: int, endpoints: list[str]) -> None:
        await self._cluster.api.update(ENDPOINTSLICES, endpoint_slice(index, endpoints))

    async def _settled(self, commits: KernelCommits) -> None:
        """Wait until the kernel committed nothing for a while, which is longer than a sync of anyone takes to begin."""
        while True:
            count = len(commits.instants)
            await asyncio.sleep(_SETTLED_SECONDS)
            if count and len(commits.instants) == count:
                return

    async def _api_use(self) -> tuple[int, int]:
        """Open watches, and bytes answered so far to lists and watches."""
        stats = await self._cluster.api.request("GET", "/lab/v1/stats")
        size = sum(stats["listBytes"].values()) + sum(stats["watchBytes"].values())
        return sum(stats["openWatches"].values()), size

    def _title(self, what: str) -> str:
        return f"{self._mode}: {what}"

    def _figure(self, what: str, value: float, unit: str, may_grow: float) -> Figure:
        return Figure(
            name=self._title(what),
            size=self._size,
            value=round(value, 4),
            unit=unit,
            who=self._subject.who,
            may_grow=may_grow,
        )
