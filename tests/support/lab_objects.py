# SPDX-License-Identifier: Apache-2.0
"""API objects as the lab's controllers see them, with only what a test wants to say about them."""

from typing import Any

Object = dict[str, Any]


def pod(
    name: str = "web-1",
    *,
    ips: tuple[str, ...] = ("10.244.1.2",),
    node: str = "node-1",
    ready: bool = True,
    terminating: bool = False,
    labels: dict[str, str] | None = None,
    ports: list[Object] | None = None,
    owner: str = "",
) -> Object:
    """A pod of namespace default; its uid is made of its name."""
    metadata: Object = {"namespace": "default", "name": name, "uid": f"uid-{name}", "labels": labels or {"app": "web"}}
    if terminating:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    if owner:
        metadata["ownerReferences"] = [{"kind": "Deployment", "name": owner, "uid": f"uid-{owner}", "controller": True}]
    return {
        "metadata": metadata,
        "spec": {
            "nodeName": node,
            "containers": [{"name": "c", "ports": ports or [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {
            "phase": "Running",
            "podIP": ips[0] if ips else "",
            "podIPs": [{"ip": ip} for ip in ips],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def service(name: str = "web", **spec: Any) -> Object:
    """A Service of namespace default that selects app=web on port 80 -> http."""
    return {
        "metadata": {"namespace": "default", "name": name, "uid": f"uid-{name}"},
        "spec": {
            "selector": {"app": "web"},
            "clusterIP": "10.96.0.10",
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
            **spec,
        },
    }


def node(name: str, zone: str = "zone-a", *, ready: bool = True, **spec: Any) -> Object:
    """A Node in a zone."""
    return {
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def deployment(name: str = "web", *, replicas: int = 3, image: str = "v1", **strategy: Any) -> Object:
    """A Deployment of namespace default."""
    return {
        "metadata": {"namespace": "default", "name": name, "uid": f"uid-{name}", "generation": 1},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": strategy,
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image}]},
            },
        },
    }
