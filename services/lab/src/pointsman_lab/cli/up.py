# SPDX-License-Identifier: Apache-2.0
"""`pointsman-lab up`: start, apply, say what to try, stay."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pointsman_lab.cluster import Cluster
from pointsman_lab.errors import LabUsageError
from pointsman_lab.launch import end, launch
from pointsman_lab.manifests import load_manifests
from pointsman_lab.settings import LabSettings


async def stay_up(settings: LabSettings, manifests: Sequence[Path]) -> None:
    """Starts a lab and keeps it until SIGINT or SIGTERM."""
    objects = load_manifests(manifests)
    _require_root()
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    work = asyncio.create_task(_up(settings, manifests if objects else (), asked))
    stop = asyncio.create_task(asked.wait())
    await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        print("\nending the lab ...", file=sys.stderr)
        work.cancel()
    stop.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def _up(settings: LabSettings, manifests: Sequence[Path], asked: asyncio.Event) -> None:
    async with Cluster(settings, on_step=_say) as cluster:
        await _apply(cluster, manifests)
        print_help(cluster, detached=False)
        await asked.wait()
        print("\nending the lab ...", file=sys.stderr)


async def up_detached(settings: LabSettings, manifests: Sequence[Path]) -> None:
    """Starts a lab that outlives this command."""
    load_manifests(manifests)
    _require_root()
    launched = await launch(settings, detached=True, on_step=_say)
    try:
        async with Cluster.attach(settings.root_path, settings.name) as cluster:
            await _apply(cluster, manifests)
            print_help(cluster, detached=True)
    except BaseException:
        await end(launched)
        raise


async def _apply(cluster: Cluster, manifests: Sequence[Path]) -> None:
    if manifests:
        objects = await cluster.apply(*manifests)
        _say(f"{len(objects)} objects applied; waiting for pods")
        await cluster.wait_all_deployed()


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabUsageError("the lab makes network namespaces and needs root: run it with sudo")


def _say(step: str) -> None:
    print(f"... {step}", file=sys.stderr, flush=True)


def print_help(cluster: Cluster, *, detached: bool) -> None:
    """Says what to do with a lab that is up."""
    name = cluster.settings.name
    option = "" if name == "default" else f" --name {name}"
    node = cluster.nodes[0].name
    ending = f"pointsman-lab down{option}" if detached else "Ctrl-C"
    print(
        f"""
The lab is up: {len(cluster.nodes)} nodes in {cluster.settings.zones} zones, {cluster.settings.watchers} watchers, \
{cluster.settings.planners} planners. End it with {ending}.

  export KUBECONFIG={cluster.kubeconfig}
  kubectl get nodes,pods,services -A -o wide
  kubectl get endpointslices -A -w

  pointsman-lab status{option}
  pointsman-lab nodes{option}
  pointsman-lab explain{option} {node} SOURCE DESTINATION PORT
  pointsman-lab exec{option} {node} -- nft list ruleset
  pointsman-lab exec{option} outside -- curl -s http://{cluster.nodes[0].address.ipv4}:NODEPORT
  pointsman-lab fault --help
  pointsman-lab logs{option} {cluster.topology.planners[0].name}
  pointsman-lab trace{option}
""",
        flush=True,
    )
