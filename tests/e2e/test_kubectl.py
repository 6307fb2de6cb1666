# SPDX-License-Identifier: Apache-2.0
"""A stock kubectl changes where packets go: the samples as a user applies them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman_lab.probe.outcome import Outcome
from support.lab_process import wait_synced

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster
    from support.lab_world import World

pytestmark = [
    pytest.mark.root,
    pytest.mark.lab,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]

SAMPLES = Path(__file__).parents[2] / "deploy" / "samples"
LINE_SECONDS = 20.0


async def kubectl(cluster: Cluster, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "kubectl",
        "--kubeconfig",
        str(cluster.kubeconfig),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@asynccontextmanager
async def kubectl_lines(cluster: Cluster, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """The lines of a kubectl that goes on until the body ends."""
    process = await asyncio.create_subprocess_exec(
        "kubectl", "--kubeconfig", str(cluster.kubeconfig), *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.terminate()
        await process.wait()


async def read_until(lines: asyncio.StreamReader, *words: str) -> str:
    """The first line that holds all the words."""
    async with asyncio.timeout(LINE_SECONDS):
        while line := (await lines.readline()).decode():
            if all(word in line for word in words):
                return line
    raise AssertionError(f"kubectl ended without a line with {words}")


async def answering(cluster: Cluster, place: str, ip: str, port: int = 80, protocol: str = "TCP") -> set[str]:
    probes = await cluster.probe(place, ip, port, protocol, count=60)
    return {probe.pod or f"({probe.outcome})" for probe in probes}


async def ready_pods(cluster: Cluster, namespace: str, **selector: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in await cluster.pods(namespace, **selector)}


async def test_the_samples_work_from_apply_to_delete(world: World) -> None:
    cluster, client = world.cluster, "default/client"
    applied = await kubectl(cluster, "apply", "-f", str(SAMPLES))
    assert "service/frontend created" in applied
    try:
        await cluster.wait_all_deployed()
        vip = await kubectl(cluster, "-n", "shop", "get", "service", "frontend", "-o", "jsonpath={.spec.clusterIP}")
        name = {"app.kubernetes.io/name": "frontend"}
        pods = await ready_pods(cluster, "shop", **name)

        async def all_answer() -> bool:
            return await answering(cluster, client, vip) == pods

        await cluster.wait_until(all_answer, f"{pods} answer at {vip}")
        dns = await kubectl(cluster, "-n", "kube-system", "get", "service", "dns", "-o", "jsonpath={.spec.clusterIP}")
        for protocol in ("UDP", "TCP"):
            assert len(await answering(cluster, client, dns, 53, protocol)) == 2
        empty = await kubectl(cluster, "get", "service", "empty", "-o", "jsonpath={.spec.clusterIP}")
        assert await answering(cluster, client, empty) == {f"({Outcome.REFUSED})"}
        again = await kubectl(cluster, "apply", "-f", str(SAMPLES))
        assert "service/frontend unchanged" in again

        async with kubectl_lines(cluster, "-n", "shop", "get", "deployment", "frontend", "-w") as lines:
            await read_until(lines, "frontend", f"{len(pods)}/{len(pods)}")
            await kubectl(cluster, "-n", "shop", "scale", "deployment", "frontend", "--replicas=5")
            await read_until(lines, "frontend", "5/5")
        pods = await ready_pods(cluster, "shop", **name)
        assert len(pods) == 5
        await cluster.wait_until(all_answer, f"{pods} answer at {vip}")
        await wait_synced(cluster)
    finally:
        await kubectl(cluster, "delete", "-f", str(SAMPLES))
    await world.expect_everywhere(vip, Outcome.TIMEOUT)
    await world.kernels_follow_the_api()
    await wait_synced(cluster)


async def test_a_patch_and_a_replaced_slice_by_kubectl_move_packets(world: World) -> None:
    cluster, namespace = world.cluster, world.namespace
    one, two, _ = world.backends
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints([one])
    await world.expect_everywhere(vip, [one])
    patch = f'[{{"op": "replace", "path": "/endpoints/0/addresses/0", "value": "{two.ipv4}"}}]'
    arguments = ("-n", namespace, "patch", "endpointslice", "web-ipv4", "--type=json", "-p", patch)
    assert "patched" in await kubectl(cluster, *arguments)
    await world.expect_everywhere(vip, [two])
    async with kubectl_lines(cluster, "-n", namespace, "get", "service", "web", "-w") as lines:
        await read_until(lines, "web", vip)
        await kubectl(cluster, "-n", namespace, "patch", "service", "web", "-p", '{"spec": {"type": "NodePort"}}')
        shown = await read_until(lines, "web", "NodePort")
    service = await cluster.service(namespace, "web")
    port = service["spec"]["ports"][0]["nodePort"]
    assert f"80:{port}/TCP" in shown
    for node in cluster.nodes:
        await world.expect("outside", node.address.ipv4, [two], port)
    assert "Endpoints" in await kubectl(cluster, "-n", namespace, "describe", "service", "web")
    await kubectl(cluster, "-n", namespace, "delete", "service", "web")
    await world.expect_everywhere(vip, Outcome.TIMEOUT)
