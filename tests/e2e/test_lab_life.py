# SPDX-License-Identifier: Apache-2.0
"""`pointsman-lab up` beside another lab, killed without a chance: nothing of it is left, and the other goes on."""

from __future__ import annotations

import re
import secrets
import signal
import sys
from asyncio import StreamReader, create_subprocess_exec, subprocess, timeout
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman_lab.cluster import Cluster
from pointsman_lab.statedir import DEFAULT_ROOT
from support.lab_cluster import host_processes_with
from support.lab_process import wait_synced

if TYPE_CHECKING:
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

SAMPLES = Path(__file__).parents[2] / "deploy" / "samples"
UP_SECONDS = 60.0


def children_of_namespace(init_pid: int) -> set[int]:
    """Host process ids of everything in the PID namespace of a lab's PID 1."""
    wanted = Path(f"/proc/{init_pid}/ns/pid").readlink()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "ns/pid").readlink() == wanted:
                    found.add(int(entry.name))
            except OSError:
                continue  # it ended
    return found


def host_view() -> tuple[list[str], list[str], str]:
    """Interfaces, mounts that name a lab, and the host's nf_tables as far as /proc shows them."""
    interfaces = sorted(entry.name for entry in Path("/sys/class/net").iterdir())
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "pointsman" in line]
    return interfaces, mounts, Path("/proc/net/route").read_text()


def what_is_left(name: str, processes: set[int]) -> set[str]:
    """Processes and files of a lab."""
    alive = {f"process {pid}" for pid in processes if Path(f"/proc/{pid}").exists()}
    named = {f"process {pid}" for pid in host_processes_with(name)}
    return alive | named | {str(path) for path in (DEFAULT_ROOT / name,) if path.exists()}


async def read_until(lines: StreamReader, pattern: str) -> str:
    """The text up to the first line that matches."""
    seen = ""
    async with timeout(UP_SECONDS):
        while line := (await lines.readline()).decode():
            seen += line
            if re.search(pattern, line):
                return seen
    raise AssertionError(f"ended without {pattern!r}:\n{seen}")


async def nodes_by_ctl(name: str) -> list[str]:
    """What `pointsman-lab ctl` says, called by its path from a shell that knows of no virtual environment."""
    command = (sys.executable, "-m", "pointsman_lab", "ctl", "--name", name, "--", "status", "-o", "name")
    asked = await create_subprocess_exec(*command, env={"PATH": "/usr/sbin:/usr/bin"}, stdout=subprocess.PIPE)
    told, _ = await asked.communicate()
    return [line.removeprefix("node/") for line in told.decode().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_a_lab_with_all_its_services_ends_with_its_starter_and_harms_no_other(
    world: World, number: signal.Signals
) -> None:
    name = f"e2e-{secrets.token_hex(4)}"
    before = host_view()
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends)
    await world.expect_everywhere(vip, world.backends)
    async with world.cluster.traffic(world.clients[0], vip, 80, workers=2) as traffic:
        command = (sys.executable, "-m", "pointsman_lab", "up", "--name", name, "--nodes", "2", "-f", str(SAMPLES))
        starter = await create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert starter.stdout is not None
        try:
            assert f"KUBECONFIG={DEFAULT_ROOT / name}" in await read_until(starter.stdout, "KUBECONFIG")
            async with Cluster.attach(DEFAULT_ROOT, name) as other:
                await wait_synced(other)
                address = (await other.service("shop", "frontend"))["spec"]["clusterIP"]
                assert (await other.connect("default/client", address, 80)).answer is not None
                processes = await other.processes()
                assert {info.state for info in processes.values()} == {"running"}
                inside = children_of_namespace(other.state.read().init_pid)
                assert len(inside) > len(processes)
                assert await nodes_by_ctl(name) == [node.name for node in other.nodes]
            assert host_view() == before
        finally:
            starter.send_signal(number)
            await starter.wait()

        async def is_gone() -> bool:
            return not what_is_left(name, inside)

        await world.cluster.wait_until(is_gone, f"nothing is left of {name}")
        assert host_view() == before
        report = await traffic.stop()
    assert report.failed == 0, report.failures[:3]
    await world.expect_everywhere(vip, world.backends)
