# SPDX-License-Identifier: Apache-2.0
"""What happens to a proxy in the lossless report: updates, policies, crashes, and others who remove its table."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pointsman_lab.apiserver.resources import DEPLOYMENTS, SERVICES
from pointsman_lab.bench.availability import Window
from pointsman_lab.bench.kernel import KernelCommits, kernel_commits
from pointsman_lab.cluster import Cluster
from pointsman_lab.errors import NotConvergedError
from pointsman_lab.nodes import are_synced, wait_synced
from pointsman_lab.supervise.services import enforcer_name

NAMESPACE: Final = "lossless"
REMOVE_TABLE: Final = "pointsman_lab.bench.remove_table"
REPLICAS: Final = 4
_FLIPS: Final = 40
_FLIP_SECONDS: Final = 0.1
_KILLS: Final = 3
_REPAIR_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Something that happens under traffic; `play` gives the windows in which it made success impossible."""

    name: str
    service: str
    play: Callable[[World], Awaitable[Sequence[Window]]]
    is_from_outside: bool = False


class World:
    """A lab with everything deployed, and what scenarios do to it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.node = cluster.nodes[0].name
        self.enforcer = enforcer_name(self.node)
        self.revision = 0
        self.note = ""

    async def address(self, service: str, *, is_from_outside: bool) -> tuple[str, int]:
        """Where clients find a Service: its cluster IP, or its node port on the first node."""
        found = await self.cluster.service(NAMESPACE, service)
        if is_from_outside:
            return self.cluster.nodes[0].address.ipv4, int(found["spec"]["ports"][0]["nodePort"])
        return str(found["spec"]["clusterIP"]), 80

    async def scale(self, replicas: int) -> None:
        """Set the number of pods behind the scenarios' Services and wait for it."""
        await self.cluster.scale(NAMESPACE, "web", replicas)
        await self.cluster.wait_deployed(NAMESPACE, "web", timeout_seconds=60)

    async def begin_rollout(self) -> None:
        """Ask for all pods to be replaced."""
        self.revision += 1
        annotations = {"bench/revision": str(self.revision)}
        stamp: dict[str, Any] = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
        await self.cluster.api.patch(DEPLOYMENTS, "web", stamp, NAMESPACE)

    async def wait_new_pods(self) -> None:
        """Wait until every new pod is ready, whether the old ones are gone or not."""

        async def are_ready() -> bool:
            found = await self.cluster.api.get(DEPLOYMENTS, "web", NAMESPACE)
            status = found.get("status") or {}
            is_seen = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
            counts = (status.get("updatedReplicas", 0), status.get("readyReplicas", 0))
            return bool(is_seen) and counts == (REPLICAS, REPLICAS)

        await self.cluster.wait_until(are_ready, "the new pods are ready", timeout_seconds=60)

    async def settle(self) -> None:
        """Wait until every node has everything.

        Raises:
            NotConvergedError: not in time.
        """
        if not are_synced(self.cluster, await wait_synced(self.cluster)):
            raise NotConvergedError("the nodes are not in sync")


async def _rolling_update(world: World) -> Sequence[Window]:
    await world.begin_rollout()
    await world.cluster.wait_deployed(NAMESPACE, "web", timeout_seconds=60)
    return ()


async def _to_zero_and_back(world: World) -> Sequence[Window]:
    await world.scale(0)
    await world.scale(REPLICAS)
    return ()


def _flips(field: str, service: str) -> Callable[[World], Awaitable[Sequence[Window]]]:
    async def play(world: World) -> Sequence[Window]:
        pods = await world.cluster.pods(NAMESPACE, app="web")
        if not any(pod["spec"].get("nodeName") == world.node for pod in pods):
            raise NotConvergedError(f"no pod of web is on {world.node}")
        for number in range(_FLIPS):
            policy = "Local" if number % 2 == 0 else "Cluster"
            await world.cluster.api.patch(SERVICES, service, {"spec": {field: policy}}, NAMESPACE)
            await asyncio.sleep(_FLIP_SECONDS)
        return ()

    return play


async def _enforcer_killed(world: World) -> Sequence[Window]:
    for _ in range(_KILLS):
        await world.cluster.signal(world.enforcer, "KILL")
        await world.cluster.wait_process_ready(world.enforcer)
        await world.settle()
    return ()


async def _enforcer_away(world: World) -> Sequence[Window]:
    await world.cluster.signal(world.enforcer, "KILL", restart=False)
    await world.begin_rollout()
    await world.wait_new_pods()
    await world.cluster.start_process(world.enforcer)
    await world.settle()
    await world.cluster.wait_deployed(NAMESPACE, "web", timeout_seconds=60)
    return ()


async def _planner_killed(world: World) -> Sequence[Window]:
    for _ in range(_KILLS):
        await world.cluster.signal("planner", "KILL")
        await world.begin_rollout()
        await world.cluster.wait_process_ready("planner")
        await world.settle()
        await world.cluster.wait_deployed(NAMESPACE, "web", timeout_seconds=60)
    return ()


def _removed_by_another(service: str, *table: str) -> Callable[[World], Awaitable[Sequence[Window]]]:
    """A third party takes our table away; the window is from then until the kernel has this Service again.

    It begins when the deletion is sent, see `remove_table`: its announcement comes when packets have missed the table
    for some time.
    """

    async def play(world: World) -> Sequence[Window]:
        address, port = await world.address(service, is_from_outside=False)
        async with kernel_commits(world.cluster, world.node, "events") as commits:
            result = await world.cluster.execute(world.node, [sys.executable, "-m", REMOVE_TABLE, *table])
            if result.code != 0:
                raise NotConvergedError(f"the table was not removed: {result.stderr.strip()}")
            removed = float(result.stdout)
            await commits.wait_after(removed)
            ended = await _wait_repaired(world, commits, f"{{ {address} . tcp . {port} }}")
            await world.settle()
        world.note = f"missing for {(ended - removed) * 1e3:.0f} ms" + world.note
        return (Window(removed, ended),)

    return play


async def _wait_repaired(world: World, commits: KernelCommits, key: str) -> float:
    """The instant of the commit that brought the key back; after five seconds the enforcer is started anew for it."""
    question = ["nft", "get", "element", "ip", "pointsman", "service_ips", key]
    deadline = time.monotonic() + _REPAIR_SECONDS
    while (await world.cluster.execute(world.node, question)).code != 0:
        if time.monotonic() > deadline:
            if world.note:
                raise NotConvergedError("the table did not come back with a new enforcer either")
            world.note = f"; NOT repaired within {_REPAIR_SECONDS:g} s, the enforcer was restarted"
            await world.cluster.signal(world.enforcer, "KILL")
            await world.cluster.wait_process_ready(world.enforcer)
            deadline += 2 * _REPAIR_SECONDS
        await asyncio.sleep(_POLL_SECONDS)
    return commits.instants[-1]


SCENARIOS: Final = (
    Scenario(name="rolling update: every pod replaced", service="rolling", play=_rolling_update),
    Scenario(name="scale to zero and back", service="zero", play=_to_zero_and_back),
    Scenario(
        name=f"internal traffic policy flipped {_FLIPS} times",
        service="internal",
        play=_flips("internalTrafficPolicy", "internal"),
    ),
    Scenario(
        name=f"external traffic policy flipped {_FLIPS} times",
        service="external",
        play=_flips("externalTrafficPolicy", "external"),
        is_from_outside=True,
    ),
    Scenario(name=f"enforcer killed {_KILLS} times", service="killed", play=_enforcer_killed),
    Scenario(name="enforcer away while every pod is replaced", service="away", play=_enforcer_away),
    Scenario(
        name=f"planner killed {_KILLS} times while every pod is replaced", service="planner", play=_planner_killed
    ),
    Scenario(
        name="nft delete table by a third party",
        service="deleted",
        play=_removed_by_another("deleted", "ip", "pointsman"),
    ),
    Scenario(
        name="nft flush ruleset by a third party",
        service="flushed",
        play=_removed_by_another("flushed"),
    ),
)
