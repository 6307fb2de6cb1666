# SPDX-License-Identifier: Apache-2.0
"""A lab with pods that stay, and a namespace of its own for each test.

Tests write Services without selector and their EndpointSlices by hand, over the pods that stay. So a test decides each
state of a Service, and costs no pods.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pointsman_lab.apiserver.resources import ENDPOINTSLICES, NAMESPACES, SERVICES
from pointsman_lab.probe.outcome import Outcome, count_by_pod
from support.lab_cluster import workload
from support.lab_kernel import endpoints_by_api, endpoints_in_kernel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pointsman_lab.cluster import Cluster
    from pointsman_lab.probe.calls import RunningTraffic

OUTSIDE = "outside"
PORTS = (
    {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080},
    {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353},
)
_SLICE_PORTS = (
    {"name": "http", "protocol": "TCP", "port": 8080},
    {"name": "dns", "protocol": "UDP", "port": 5353},
)
_PROBES = 24
_SILENT_PROBES = 4
_ANSWER_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A pod that stays, and answers on TCP 8080 and UDP 5353."""

    name: str
    node: str
    ipv4: str
    ipv6: str

    @property
    def place(self) -> str:
        """For probes from this pod."""
        return f"default/{self.name}"


class World:
    """A cluster, its pods, and one namespace that a test has for itself."""

    def __init__(self, cluster: Cluster, backends: tuple[Backend, ...], namespace: str) -> None:
        """Made by `start_backends` and `fresh_namespace`."""
        self.cluster = cluster
        self.backends = backends
        self.namespace = namespace

    # --- objects -------------------------------------------------------------------------------------------------

    async def service(self, name: str = "web", **spec: Any) -> dict[str, Any]:
        """Create a Service without selector, on TCP 80 and UDP 53 unless told otherwise."""
        body = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"ports": list(PORTS), **spec},
        }
        return await self.cluster.api.create(SERVICES, body, self.namespace)

    async def endpoints(
        self, backends: Iterable[Backend], service: str = "web", *, slice_name: str = "", family: str = "IPv4",
        **conditions: bool,
    ) -> None:  # fmt: skip
        """Create or replace an EndpointSlice of a Service with the given pods."""
        slice_name = slice_name or f"{service}-{family.lower()}"
        listed = [
            {
                "addresses": [backend.ipv6 if family == "IPv6" else backend.ipv4],
                "conditions": {"ready": True, **conditions},
                "nodeName": backend.node,
            }
            for backend in backends
        ]
        known = {item["metadata"]["name"] for item in await self.cluster.endpoint_slices(self.namespace, service)}
        if slice_name in known:
            await self.cluster.api.patch(ENDPOINTSLICES, slice_name, {"endpoints": listed}, self.namespace)
            return
        labels = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "e2e"}
        body = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": slice_name, "namespace": self.namespace, "labels": labels},
            "addressType": family,
            "ports": list(_SLICE_PORTS),
            "endpoints": listed,
        }
        await self.cluster.api.create(ENDPOINTSLICES, body, self.namespace)

    async def patch_service(self, spec: dict[str, Any], name: str = "web") -> dict[str, Any]:
        """Merge-patch the spec of a Service."""
        return await self.cluster.api.patch(SERVICES, name, {"spec": spec}, self.namespace)

    async def delete_service(self, name: str = "web") -> None:
        """Delete a Service; its slices stay."""
        await self.cluster.api.delete(SERVICES, name, self.namespace)

    async def delete_slice(self, name: str) -> None:
        """Delete an EndpointSlice."""
        await self.cluster.api.delete(ENDPOINTSLICES, name, self.namespace)

    # --- packets -------------------------------------------------------------------------------------------------

    def client(self, node: str) -> str:
        """A pod of a node, as a place for probes."""
        return next(backend.place for backend in self.backends if backend.node == node)

    @property
    def clients(self) -> tuple[str, ...]:
        """A pod of each node."""
        return tuple(self.client(node.name) for node in self.cluster.nodes)

    async def expect(
        self, place: str, ip: str, wanted: Iterable[Backend] | Outcome, port: int = 80, protocol: str = "TCP"
    ) -> None:
        """Wait until new connections from a place are answered by exactly these pods, or all end in this way.

        Raises:
            NotConvergedError: not in time; the message says who answered last.
        """
        names = {f"({wanted})"} if isinstance(wanted, Outcome) else {backend.name for backend in wanted}
        seen: dict[str, int] = {}
        seconds, count = (0.2, _SILENT_PROBES) if wanted is Outcome.TIMEOUT else (_ANSWER_SECONDS, _PROBES)

        async def is_so() -> bool:
            probes = await self.cluster.probe(place, ip, port, protocol, count=count, timeout_seconds=seconds)
            seen.clear()
            seen.update(count_by_pod(probes))
            return set(seen) == names

        try:
            await self.cluster.wait_until(is_so, "packets", timeout_seconds=10)
        except Exception as error:
            raise AssertionError(f"{place} -> {ip} {port}/{protocol}: {seen}, expected {sorted(names)}") from error

    async def expect_everywhere(
        self, ip: str, wanted: Iterable[Backend] | Outcome, port: int = 80, protocol: str = "TCP"
    ) -> None:
        """`expect` from a pod of each node and from each node itself."""
        chosen = wanted if isinstance(wanted, Outcome) else tuple(wanted)
        for place in self.clients:
            await self.expect(place, ip, chosen, port, protocol)
        if isinstance(chosen, Outcome) and protocol == "UDP":
            chosen = Outcome.UNREACHABLE  # EPERM: what the output hook stops never leaves send()
        for node in self.cluster.nodes:
            await self.expect(node.name, ip, chosen, port, protocol)

    async def kernels_follow_the_api(self) -> None:
        """Wait until every node's kernel holds exactly the endpoints that the API server has.

        Raises:
            AssertionError: not in time; shows the node and what differs.
        """
        differing: dict[str, Any] = {}

        async def is_equal() -> bool:
            wanted = await endpoints_by_api(self.cluster)
            differing.clear()
            for node in self.cluster.nodes:
                found = await endpoints_in_kernel(self.cluster, node.name)
                if found != wanted:
                    keys = found.keys() | wanted.keys()
                    differing[node.name] = {
                        key: (found.get(key), wanted.get(key)) for key in keys if found.get(key) != wanted.get(key)
                    }
            return not differing

        try:
            await self.cluster.wait_until(is_equal, "kernels", timeout_seconds=15)
        except Exception as error:
            raise AssertionError(f"in the kernel, by the API: {differing}") from error

    async def kernels_hold(
        self, ip: str, endpoints: set[tuple[str, int]], port: int = 80, protocol: str = "tcp"
    ) -> None:
        """Wait until every node's kernel chooses from exactly these endpoints for an address and port."""

        async def is_so() -> bool:
            held = [await endpoints_in_kernel(self.cluster, node.name) for node in self.cluster.nodes]
            return all(found.get((ip, "tcp", port), frozenset()) == endpoints for found in held)

        await self.cluster.wait_until(is_so, f"{ip} {port}/TCP has {len(endpoints)} endpoints everywhere")


class Flows:
    """Continuous traffic of several kinds at once."""

    def __init__(self, cluster: Cluster, flows: dict[str, RunningTraffic]) -> None:
        """Made by `traffic_everywhere`."""
        self._cluster = cluster
        self._flows = flows

    async def enough(self, attempts: int = 100) -> None:
        """Wait until each flow has asked so often once more."""
        goal = {name: (await flow.report()).attempts + attempts for name, flow in self._flows.items()}

        async def are_enough() -> bool:
            return all([(await flow.report()).attempts >= goal[name] for name, flow in self._flows.items()])

        await self._cluster.wait_until(are_enough, f"{attempts} requests of each flow", timeout_seconds=60)

    async def check(self) -> None:
        """Every request was answered."""
        for name, flow in self._flows.items():
            report = await flow.stop()
            assert report.failed == 0, (name, report.failures[:3])
            assert report.answered == report.attempts > 0, name


@contextlib.asynccontextmanager
async def traffic_everywhere(world: World, service: dict[str, Any]) -> AsyncIterator[Flows]:
    """New TCP connections from a pod of each node, UDP, a connection that stays, and outside by node port.

    After the body, no request may have failed.
    """
    cluster, vip = world.cluster, service["spec"]["clusterIP"]
    node_port = next(port["nodePort"] for port in service["spec"]["ports"] if port["name"] == "http")
    pace: dict[str, Any] = {"workers": 2, "interval_seconds": 0.01}
    async with contextlib.AsyncExitStack() as stack:
        flows = {
            f"TCP from {place}": await stack.enter_async_context(cluster.traffic(place, vip, 80, **pace))
            for place in world.clients
        }
        first = world.clients[0]
        flows["UDP"] = await stack.enter_async_context(cluster.traffic(first, vip, 53, "UDP", **pace))
        flows["connections that stay"] = await stack.enter_async_context(
            cluster.traffic(first, vip, 80, persistent=True, **pace)
        )
        flows["outside by node port"] = await stack.enter_async_context(
            cluster.traffic(OUTSIDE, cluster.nodes[0].address.ipv4, node_port, **pace)
        )
        found = Flows(cluster, flows)
        await found.enough(20)
        yield found
        await found.check()


async def start_backends(cluster: Cluster) -> tuple[Backend, ...]:
    """Start one pod on each node; by node."""
    await cluster.apply_text(workload("backend", replicas=len(cluster.nodes)))
    await cluster.wait_deployed("default", "backend")
    found = [
        Backend(
            name=pod["metadata"]["name"],
            node=pod["spec"]["nodeName"],
            ipv4=pod["status"]["podIPs"][0]["ip"],
            ipv6=pod["status"]["podIPs"][1]["ip"],
        )
        for pod in await cluster.pods("default", app="backend")
    ]
    assert {backend.node for backend in found} == {node.name for node in cluster.nodes}
    return tuple(sorted(found, key=lambda backend: backend.node))


@contextlib.asynccontextmanager
async def fresh_namespace(cluster: Cluster, backends: tuple[Backend, ...], name: str) -> AsyncIterator[World]:
    """A namespace as long as the body runs; after it, no kernel knows anything of it."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await cluster.api.create(NAMESPACES, body)
    world = World(cluster, backends, name)
    try:
        yield world
    finally:
        for resource in (SERVICES, ENDPOINTSLICES):
            for item in (await cluster.api.list(resource, name))["items"]:
                await cluster.api.delete(resource, item["metadata"]["name"], name)
        await cluster.api.delete(NAMESPACES, name)
    await world.kernels_follow_the_api()
