# SPDX-License-Identifier: Apache-2.0
"""However a lab ends, nothing of it stays on the host; and two labs do not see each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pointsman_lab.errors import LabStartError, LabUsageError
from support.lab_cluster import host_processes_with, lab, workload

pytestmark = [pytest.mark.root, pytest.mark.lab]

# A background job of a shell starts with SIGINT ignored, and hands that on.
OWNER = """
import asyncio, signal, sys
from pointsman_lab.cluster import Cluster
from pointsman_lab.settings import LabSettings

async def main():
    async with Cluster(LabSettings(name="owned", root=sys.argv[1], nodes=2, zones=1, services=("redis",))):
        print("up", flush=True)
        await asyncio.Event().wait()

signal.signal(signal.SIGINT, signal.default_int_handler)
asyncio.run(main())
"""


def host_view() -> tuple[str, str, str]:
    """What the host shows: interfaces, named network namespaces, mounts."""
    interfaces = "\n".join(sorted(entry.name for entry in Path("/sys/class/net").iterdir()))
    mounts = "\n".join(line for line in Path("/proc/mounts").read_text().splitlines() if "pointsman" in line)
    directory = Path("/run/netns")
    names = "\n".join(sorted(e.name for e in directory.iterdir() if "node-" in e.name)) if directory.exists() else ""
    return interfaces, names, mounts


def wait_until_gone(text: str) -> None:
    deadline = time.monotonic() + 10
    while host_processes_with(text):
        assert time.monotonic() < deadline, host_processes_with(text)
        time.sleep(0.02)


def is_left(root: str, name: str) -> bool:
    return Path(root, name).exists()


async def test_leaving_the_context_leaves_no_process_directory_or_link() -> None:
    before = host_view()
    async with lab(nodes=2, zones=1) as cluster:
        await cluster.apply_text(workload(replicas=2))
        await cluster.wait_deployed("default", "web")
        root = cluster.settings.root
        assert host_processes_with(root)
        assert host_view() == before
    assert host_view() == before
    assert not host_processes_with(root)
    assert not is_left(root, "test")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_lab_ends_with_its_owner_however_that_ends(number: signal.Signals) -> None:
    before = host_view()
    with tempfile.TemporaryDirectory(prefix="lab-") as root:
        owner = subprocess.Popen([sys.executable, "-c", OWNER, root], stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        assert len(host_processes_with(root)) > 2
        owner.send_signal(number)
        owner.wait(10)
        owner.stdout.close()
        wait_until_gone(root)
        assert not is_left(root, "owned")
    assert host_view() == before


async def test_killing_the_guard_ends_the_lab_too() -> None:
    async with lab(nodes=1, zones=1) as cluster:
        root = cluster.settings.root
        os.kill(cluster.state.read().guard_pid, signal.SIGKILL)
        wait_until_gone(root)


async def test_two_labs_run_side_by_side_with_the_same_addresses() -> None:
    async with lab(nodes=1, zones=1) as one, lab(nodes=1, zones=1) as other:
        await one.apply_text(workload(replicas=1))
        await one.wait_deployed("default", "web")
        await other.apply_text(workload("other", replicas=1))
        await other.wait_deployed("default", "other")
        (pod,) = await one.pods("default")
        (twin,) = await other.pods("default")
        assert pod["status"]["podIP"] == twin["status"]["podIP"]
        assert (await one.connect("node-1", pod["status"]["podIP"], 8080)).pod == pod["metadata"]["name"]
        assert (await other.connect("node-1", pod["status"]["podIP"], 8080)).pod == twin["metadata"]["name"]


async def test_a_part_that_does_not_start_is_named_and_nothing_is_left() -> None:
    with tempfile.TemporaryDirectory(prefix="lab-") as root:
        with pytest.raises(LabStartError, match="watcher keeps ending"):
            async with lab(
                nodes=1,
                zones=1,
                root=root,
                services=("watcher",),
                watcher_command=("false",),
            ):
                pass
        assert not host_processes_with(root)
        assert not is_left(root, "test")


async def test_a_second_lab_of_the_same_name_is_refused() -> None:
    async with lab(nodes=1, zones=1) as cluster:
        with pytest.raises(LabUsageError, match="is running"):
            async with lab(nodes=1, zones=1, root=cluster.settings.root):
                pass
        assert (await cluster.processes())["apiserver"].state == "running"
