# SPDX-License-Identifier: Apache-2.0
"""Does a client meet the same pod whichever node it comes to? Real connections from outside to a node port.

Half of the clients are known to their first node only, so what other nodes do for them after endpoints were added is
what was shared. Endpoints are written by hand over pods that stay: each step is one change, of which all is known.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import yaml

from pointsman_lab.apiserver.resources import ENDPOINTSLICES
from pointsman_lab.bench.affinity_report import Seen, Step, judge
from pointsman_lab.cluster import Cluster
from pointsman_lab.errors import NotConvergedError
from pointsman_lab.net.topology import OUTSIDE, NodePlace
from pointsman_lab.settings import LabSettings
from pointsman_lab.supervise.services import METRICS_PORT, enforcer_name
from pointsman_model.affinity import pick
from pointsman_model.names import parse_address
from pointsman_model.plan import PlanEndpoint

NODES: Final = 3
CLIENTS: Final = 120
NODE_PORT: Final = 30700
_NETWORK: Final = "203.0.113"
_FIRST: Final = 10
_TAKEN: Final = frozenset({130})
"""A client address that the lab has anyway."""
_PODS: Final = 6
_CONCURRENT: Final = 16
_PORT: Final = 8080
_SHARED_SECONDS_MAX: Final = 10.0
_LIST: Final = ("nft", "list", "map", "ip", "pointsman")
_ANY_ADDRESS: Final = re.compile(r"\d+\.\d+\.\d+\.\d+")
_ADDRESS: Final = re.compile(rf"{re.escape(_NETWORK)}\.\d+")
Pod = tuple[str, str]
"""Name and address."""


async def measure(say: Callable[[str], None]) -> list[Step]:
    """All steps in a lab of three nodes and two planners; LabError when it does not start."""
    settings = LabSettings(
        name="affinity",
        nodes=NODES,
        zones=1,
        watchers=1,
        planners=2,
        services=("redis", "watcher", "planner", "enforcer"),
        start_timeout_seconds=60,
    )
    async with Cluster(settings, on_step=say) as cluster:
        return await play(cluster, "affinity", say=say)


async def play(
    cluster: Cluster, namespace: str, *, clients: int = CLIENTS, say: Callable[[str], None] = lambda _: None
) -> list[Step]:
    """All steps in a running lab, in a namespace that is made for it and stays."""
    story = _Story(cluster, namespace)
    await story.begin()
    steps = []
    for step in (
        story.first_picks(clients),
        story.endpoints_added(),
        story.endpoint_removed(),
        story.node_anew(),
        story.store_away(clients),
    ):
        done = await step
        say(f"{done.name}: {done.clients} clients, {done.moved} moved, {done.wrong} wrong. {done.note}")
        steps.append(done)
    return steps


class _Story:
    """The steps, in their order."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._pods: list[Pod] = []
        self._left: list[Pod] = []
        """Without the one that was removed."""
        self._had: dict[str, str] = {}
        """The pod of each client."""
        self._homes: dict[str, NodePlace] = {}
        """The node that each client came to first."""
        self._at_home: list[str] = []
        """Clients that were on no other node."""

    async def begin(self) -> None:
        """Pods, a Service, and clients."""
        await self._cluster.apply_text(manifests(self._namespace))
        await self._cluster.wait_all_deployed(timeout_seconds=60)
        found = await self._cluster.pods(self._namespace, app="web")
        self._pods = sorted((pod["metadata"]["name"], str(pod["status"]["podIP"])) for pod in found)
        route = f"ip route replace local {_NETWORK}.0/24 dev lo"
        await self._cluster.node_exec(OUTSIDE, *route.split())
        await self._cluster.api.create(ENDPOINTSLICES, self._slice(self._pods[:-2]), self._namespace)
        await self._settle(self._pods[:-2])

    async def first_picks(self, count: int) -> Step:
        """Each client comes to one node, every other one then to the others, too."""
        nodes = self._cluster.nodes
        for index, client in enumerate(_clients(count)):
            self._homes[client] = nodes[index // 2 % len(nodes)]
        first = await self._ask((client, node) for client, node in self._homes.items())
        self._had = {each.client: each.pod for each in first}
        self._at_home = list(self._homes)[::2]
        others = await self._ask_elsewhere([client for client in self._homes if client not in set(self._at_home)])
        return judge("first picks", first + others, had=self._had)

    async def endpoints_added(self) -> Step:
        """Those whose pick is another now are exceptions, which the other nodes must know before they come there."""
        exceptions = self._exceptions(self._pods[:-2], self._pods)
        before = await self._counted()
        started = time.monotonic()
        await self._set(self._pods)
        seconds = await self._wait_shared(exceptions, started, self._cluster.nodes)
        counted = {name: value - before[name] for name, value in (await self._counted()).items()}
        seen = await self._ask_elsewhere(self._at_home) + await self._ask(self._homes.items())
        note = (
            f"{len(exceptions)} exceptions of clients known to one node only were in all kernels after "
            f"{seconds * 1000:.0f} ms, {counted['told']:.0f} reported, {counted['seeded']:.0f} added to kernels"
        )
        return judge("two endpoints added", seen, had=self._had, note=note)

    async def endpoint_removed(self) -> Step:
        """Its clients get another pod, the same on all nodes; nobody else does."""
        gone = self._had[self._at_home[0]]
        self._left = [pod for pod in self._pods if pod[0] != gone]
        await self._set(self._left)
        await self._settle(self._left)
        seen = await self._ask(self._homes.items()) + await self._ask_elsewhere(list(self._homes))
        step = judge(
            "an endpoint removed",
            seen,
            had=self._had,
            gone={gone},
            note=f"it had {list(self._had.values()).count(gone)} clients",
        )
        self._had |= {each.client: each.pod for each in seen}
        return step

    async def node_anew(self) -> Step:
        """A node that lost everything, its kernel's memory too, is told of all exceptions, whoever reported them."""
        node = self._cluster.nodes[0]
        process = enforcer_name(node.name)
        await self._cluster.signal(process, "KILL", restart=False)
        for family in ("ip", "ip6"):
            await self._cluster.node_exec(node.name, "nft", "delete", "table", family, "pointsman")
        exceptions = {client for client, pod in self._had.items() if pod != self._name(_picked(client, self._left))}
        await self._cluster.start_process(process)
        started = time.monotonic()
        await self._settle(self._left)
        seconds = await self._wait_shared(exceptions, started, [node])
        seen = await self._ask((client, node) for client in self._homes)
        note = f"it had {len(exceptions)} exceptions in its kernel {seconds * 1000:.0f} ms after its enforcer was ready"
        return judge("a node begins anew, its kernel empty", seen, had=self._had, note=note)

    async def store_away(self, count: int) -> Step:
        """Without Redis those who are known stay where they are, and new ones get the same pick on every node."""
        await self._cluster.stop_process("redis")
        try:
            await self._set(self._pods)
            await self._settle(self._pods)
            new = [client for client in _clients(count + count // 2) if client not in self._homes]
            everywhere = [(client, node) for client in new for node in self._cluster.nodes]
            seen = await self._ask(everywhere) + await self._ask(self._homes.items())
            seen += await self._ask_elsewhere(list(self._homes))
        finally:
            await self._cluster.start_process("redis")
        return judge("Redis killed, an endpoint added", seen, had=self._had, note=f"{len(new)} of the clients are new")

    # -- what there is -----------------------------------------------------------------------------------------------

    def _exceptions(self, before: Sequence[Pod], after: Sequence[Pod]) -> set[str]:
        """Clients known to one node only whose pick these endpoints change."""
        return {client for client in self._at_home if _picked(client, before) != _picked(client, after)}

    def _name(self, address: bytes) -> str:
        """The pod with this address."""
        return next(name for name, text in self._pods if parse_address(text) == address)

    async def _wait_shared(self, clients: set[str], started: float, nodes: Sequence[NodePlace]) -> float:
        """Seconds until the kernels of these nodes remember these clients."""
        while True:
            known = await asyncio.gather(*(self._remembered(node) for node in nodes))
            seconds = time.monotonic() - started
            if all(clients <= each for each in known):
                return seconds
            if seconds > _SHARED_SECONDS_MAX:
                missing = [len(clients - each) for each in known]
                raise NotConvergedError(f"after {seconds:.1f} s nodes miss {missing} of {len(clients)} clients")

    async def _remembered(self, node: NodePlace) -> set[str]:
        """Addresses that a node's kernel remembers."""
        listing = await self._cluster.node_exec(node.name, *_LIST, "affinity")
        return set(_ADDRESS.findall(listing))

    async def _counted(self) -> dict[str, float]:
        """What the enforcers have counted so far, all together."""
        url = f"http://127.0.0.1:{METRICS_PORT}/metrics"
        script = f"import urllib.request as u; print(u.urlopen('{url}').read().decode())"
        names = {"seeded": "seeded_total", "told": "exceptions_told_total"}
        counted = dict.fromkeys(names, 0.0)
        for node in self._cluster.nodes:
            for line in (await self._cluster.node_exec(node.name, "python3", "-c", script)).splitlines():
                for what, name in names.items():
                    if line.startswith(f"pointsman_enforcer_affinity_{name} "):
                        counted[what] += float(line.split()[-1])
        return counted

    async def _ask(self, pairs: Iterable[tuple[str, NodePlace]]) -> list[Seen]:
        """One connection of each client through each node named."""
        room = asyncio.Semaphore(_CONCURRENT)

        async def ask(client: str, node: NodePlace) -> Seen:
            async with room:
                found = await self._cluster.connect(
                    OUTSIDE, node.address.ipv4, NODE_PORT, source=client, timeout_seconds=5.0
                )
                return Seen(client, node.name, found.pod or "")

        return list(await asyncio.gather(*(ask(client, node) for client, node in pairs)))

    async def _ask_elsewhere(self, clients: Iterable[str]) -> list[Seen]:
        """One connection of each client through each node that it did not come to first."""
        nodes = self._cluster.nodes
        return await self._ask([(each, node) for each in clients for node in nodes if node != self._homes[each]])

    async def _set(self, pods: Sequence[Pod]) -> None:
        """Make these pods the endpoints."""
        await self._cluster.api.patch(
            ENDPOINTSLICES, "web-1", {"endpoints": self._slice(pods)["endpoints"]}, self._namespace
        )

    async def _settle(self, pods: Sequence[Pod]) -> None:
        """Wait until the kernel of every node has exactly these endpoints; planners without Redis know of no others."""
        wanted = {address for _, address in pods}

        async def are_programmed() -> bool:
            found = await asyncio.gather(*(self._endpoints(node) for node in self._cluster.nodes))
            return all(each == wanted for each in found)

        await self._cluster.wait_until(are_programmed, f"every node has {len(pods)} endpoints", timeout_seconds=15)

    async def _endpoints(self, node: NodePlace) -> set[str]:
        """Addresses of our pods that a node's kernel may choose."""
        listing = await self._cluster.node_exec(node.name, *_LIST, "affinity_endpoints")
        return set(_ANY_ADDRESS.findall(listing)) & {address for _, address in self._pods}

    def _slice(self, pods: Sequence[Pod]) -> dict[str, Any]:
        labels = {"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "bench"}
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "web-1", "namespace": self._namespace, "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": "", "protocol": "TCP", "port": _PORT}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for _, address in pods],
        }


def _clients(count: int) -> list[str]:
    """Client addresses, always the same ones first."""
    numbers = [number for number in range(_FIRST, 255) if number not in _TAKEN]
    return [f"{_NETWORK}.{number}" for number in numbers[:count]]


def _picked(client: str, pods: Iterable[Pod]) -> bytes:
    """The address of the pod that a client without memory gets."""
    endpoints = sorted(PlanEndpoint(parse_address(address), _PORT) for _, address in pods)
    return pick(parse_address(client), endpoints).address


def manifests(namespace: str) -> str:
    """YAML of the namespace, pods that stay, and a Service with session affinity without selector."""
    labels = {"app": "web"}
    container = {"name": "server", "image": "server", "ports": [{"containerPort": _PORT}]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    objects: list[Mapping[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {"replicas": _PODS, "selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {
                "type": "NodePort",
                "sessionAffinity": "ClientIP",
                "ports": [{"port": 80, "targetPort": _PORT, "nodePort": NODE_PORT}],
            },
        },
    ]
    return yaml.safe_dump_all(objects)
