# SPDX-License-Identifier: Apache-2.0
"""Labs for tests: a name and a state directory of their own, so that test processes do not meet."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pointsman_lab.cluster import Cluster
from pointsman_lab.settings import LabSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ALL_SERVICES = ("redis", "otlp", "watcher", "planner", "enforcer")


@contextlib.asynccontextmanager
async def lab(**settings: Any) -> AsyncIterator[Cluster]:
    """A running lab with the given settings; without Pointsman's services, and one of each, unless asked for."""
    # Not below pytest's directories: a Unix socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="lab-") as root:
        wanted = msgspec.structs.replace(
            LabSettings(name="test", root=root, services=(), watchers=1, planners=1), **settings
        )
        async with Cluster(wanted) as cluster:
            yield cluster


def host_processes_with(text: str) -> list[int]:
    """Host process ids whose command line contains `text`, this process left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def workload(name: str = "web", *, replicas: int = 3, annotations: dict[str, str] | None = None, **service: Any) -> str:
    """YAML of a Deployment with TCP and UDP ports and of a Service in front of it."""
    labels = {"app": name}
    ports = [
        {"name": "http", "containerPort": 8080},
        {"name": "dns", "containerPort": 5353, "protocol": "UDP"},
    ]
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations or {}},
                "spec": {"containers": [{"name": "server", "image": "example.org/server:1", "ports": ports}]},
            },
        },
    }
    front = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": labels,
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http"},
                {"name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP"},
            ],
            **service,
        },
    }
    return "\n---\n".join(msgspec.json.encode(obj).decode() for obj in (deployment, front))
