# SPDX-License-Identifier: Apache-2.0
"""The manifests of the lossless report: a Deployment behind a Service for each scenario, another that stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import yaml

HELD_NODE_PORT: Final = {"TCP": 30900, "UDP": 30901}
_NODE_PORT_FIRST: Final = 30800
_READINESS: Final = "lab.pointsman.io/fail-readiness-on-termination"
_GRACE_SECONDS: Final = 60


def manifests(namespace: str, services: Sequence[str], *, replicas: int) -> str:
    """YAML of the namespace, the client pod, the Deployments `web` and `steady`, and the Services.

    A pod of `web` that is asked to end says at once that it does not serve and goes on serving until nobody asks, so
    the API server's events tell exactly from when on no endpoint is available.
    """
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        _client(namespace),
        _deployment(namespace, "web", replicas),
        _deployment(namespace, "steady", 2),
        _service(namespace, "steady", "steady", dict(HELD_NODE_PORT)),
        *(_service(namespace, name, "web", {"TCP": _NODE_PORT_FIRST + number}) for number, name in enumerate(services)),
    ]
    return yaml.safe_dump_all(objects)


def _client(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client", "namespace": namespace},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "node-1"},
            "containers": [{"name": "client", "image": "client", "args": ["pause"]}],
        },
    }


def _deployment(namespace: str, name: str, replicas: int) -> dict[str, Any]:
    ports = [{"containerPort": 8080, "protocol": protocol} for protocol in ("TCP", "UDP")]
    template = {
        "metadata": {"labels": {"app": name}, "annotations": {_READINESS: "true"}},
        "spec": {
            "terminationGracePeriodSeconds": _GRACE_SECONDS,
            "containers": [{"name": "server", "image": "server", "ports": ports}],
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": template,
        },
    }


def _service(namespace: str, name: str, app: str, node_ports: dict[str, int]) -> dict[str, Any]:
    ports = [
        {"name": protocol.lower(), "port": 80, "targetPort": 8080, "protocol": protocol, "nodePort": node_port}
        for protocol, node_port in node_ports.items()
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": "NodePort", "selector": {"app": app}, "ports": ports},
    }
