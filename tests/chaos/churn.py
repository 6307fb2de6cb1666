# SPDX-License-Identifier: Apache-2.0
"""The cluster changes all the time: Services of all kinds come, change and go, endpoints flap, pods are scaled, nodes
are relabelled.

Endpoints are pods that stay for the whole run, and some addresses that nobody has. The *steady* services always have a
ready endpoint, and whatever any node ever knew of them still answers: so no request to them has an excuse to fail.
"""

from __future__ import annotations

import contextlib
from random import Random
from typing import TYPE_CHECKING, Any

from pointsman_lab.apiserver.errors import ApiError
from pointsman_lab.apiserver.resources import ENDPOINTSLICES, NAMESPACES, NODES, SERVICES
from support.lab_cluster import workload

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster
    from support.lab_world import Backend

NAMESPACE = "chaos"
STEADY = ("steady", "steady-affine")
_PASSING = tuple(f"passing-{index}" for index in range(8))
_ZONE = "topology.kubernetes.io/zone"
_ZONES = ("zone-a", "zone-b")
_DEPLOYMENT = "web"
_REPLICAS_MAX = 4
_PORTS = (
    {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080},
    {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353},
)
_SLICE_PORTS = tuple({"name": p["name"], "protocol": p["protocol"], "port": p["targetPort"]} for p in _PORTS)
_NOBODY = ("10.244.1.250", "10.244.2.251")


class Churn:
    """Changes objects; knows which exist."""

    def __init__(self, cluster: Cluster, backends: tuple[Backend, ...], random: Random) -> None:
        """Follow with `begin`."""
        self._cluster = cluster
        self._backends = backends
        self._random = random
        self._existing: set[str] = set()
        self.changes = 0

    async def begin(self) -> dict[str, dict[str, Any]]:
        """Create what is steady, and a Deployment; the steady Services by name."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        await self._cluster.api.create(NAMESPACES, body)
        await self._cluster.apply_text(workload(_DEPLOYMENT, replicas=2))
        affinities = {"steady": "None", "steady-affine": "ClientIP"}
        found = {}
        for name in STEADY:
            spec = {"type": "NodePort", "sessionAffinity": affinities[name], "ports": list(_PORTS)}
            found[name] = await self._cluster.api.create(SERVICES, _service(name, spec), NAMESPACE)
            await self._cluster.api.create(ENDPOINTSLICES, self._slice(name), NAMESPACE)
        await self._cluster.wait_deployed("default", _DEPLOYMENT)
        return found

    async def step(self) -> None:
        """One change. An API server that refuses or hangs is its own matter."""
        self.changes += 1
        draw = self._random.random()
        with contextlib.suppress(ApiError, OSError, TimeoutError):
            if draw < 0.35:
                await self._replace(ENDPOINTSLICES, self._slice(self._random.choice(STEADY)))
            elif draw < 0.85:
                await self._pass(self._random.choice(_PASSING))
            elif draw < 0.93:
                replicas = self._random.randint(0, _REPLICAS_MAX)
                await self._cluster.scale("default", _DEPLOYMENT, replicas)
            else:
                node = self._random.choice(self._cluster.nodes).name
                labels = {"metadata": {"labels": {_ZONE: self._random.choice(_ZONES)}}}
                await self._cluster.api.patch(NODES, node, labels)

    async def _pass(self, name: str) -> None:
        """A passing service comes, changes or goes."""
        draw = self._random.random()
        slice_ = self._slice(name)
        if name not in self._existing:
            service = _service(name, self._spec())
            self._existing.add(name)
            await self._cluster.api.create(SERVICES, service, NAMESPACE)
            await self._cluster.api.create(ENDPOINTSLICES, slice_, NAMESPACE)
        elif draw < 0.25:
            self._existing.discard(name)
            await self._cluster.api.delete(SERVICES, name, NAMESPACE)
            await self._cluster.api.delete(ENDPOINTSLICES, f"{name}-a", NAMESPACE)
        elif draw < 0.45:
            policies = {"internalTrafficPolicy": self._policy(), "sessionAffinity": self._affinity()}
            await self._cluster.api.patch(SERVICES, name, {"spec": policies}, NAMESPACE)
        else:
            await self._replace(ENDPOINTSLICES, slice_)

    async def _replace(self, resource: Any, body: dict[str, Any]) -> None:
        await self._cluster.api.patch(resource, body["metadata"]["name"], {"endpoints": body["endpoints"]}, NAMESPACE)

    def _spec(self) -> dict[str, Any]:
        kind = self._random.choice(["ClusterIP", "NodePort", "LoadBalancer"])
        spec: dict[str, Any] = {
            "type": kind,
            "internalTrafficPolicy": self._policy(),
            "sessionAffinity": self._affinity(),
            "ports": list(_PORTS[: self._random.randint(1, 2)]),
        }
        if kind != "ClusterIP":
            spec["externalTrafficPolicy"] = self._policy()
        return spec

    def _policy(self) -> str:
        return self._random.choice(["Cluster", "Local"])

    def _affinity(self) -> str:
        return self._random.choice(["None", "None", "ClientIP"])

    def _slice(self, service: str) -> dict[str, Any]:
        """Any state of a slice; of a steady service always with a ready pod, and with pods only."""
        pods = self._random.sample(self._backends, self._random.randint(1, len(self._backends)))
        endpoints = [self._endpoint(pod.ipv4, pod.node) for pod in pods]
        if service in STEADY:
            endpoints[0]["conditions"] = {"ready": True, "serving": True, "terminating": False}
        else:
            endpoints = endpoints[self._random.randint(0, 1) :]
            endpoints += [self._endpoint(ip, f"node-{index}") for index, ip in enumerate(_NOBODY, 1)][
                : self._random.randint(0, 2)
            ]
        if self._random.random() < 0.3:
            for endpoint in endpoints:
                endpoint["hints"] = {"forZones": [{"name": self._random.choice(_ZONES)}]}
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{service}-a",
                "namespace": NAMESPACE,
                "labels": {
                    "kubernetes.io/service-name": service,
                    "endpointslice.kubernetes.io/managed-by": "chaos",
                },
            },
            "addressType": "IPv4",
            "ports": list(_SLICE_PORTS),
            "endpoints": endpoints,
        }

    def _endpoint(self, ip: str, node: str) -> dict[str, Any]:
        is_ready = self._random.random() < 0.7
        is_terminating = not is_ready and self._random.random() < 0.5
        return {
            "addresses": [ip],
            "nodeName": node,
            "conditions": {
                "ready": is_ready,
                "serving": is_ready or self._random.random() < 0.5,
                "terminating": is_terminating,
            },
        }


def _service(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
