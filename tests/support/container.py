# SPDX-License-Identifier: Apache-2.0
"""Runs the container of a rendered pod as its manifest says, without a container engine.

Its own mount namespace and root: the host's programs and the image's environment read-only, /proc/sys too, nothing
writable but the volumes that say so; user, groups, capabilities and no_new_privs by the securityContext; environment,
command and arguments of the manifest. The network is that of a namespace of the test, as with `hostNetwork` it is the
node's. What an engine adds beyond that (seccomp, cgroups, a PID namespace) is not there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support.image import PLACE
from support.image import variables as image_variables
from support.manifests import Manifest, container_of, pod_of
from support.netns import NetNs

BASE_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Where pods run: what the downward API, the resolver and the volumes of a node say."""

    name: str
    address: str
    hosts: Mapping[str, str]
    """Name -> address."""
    volumes: Mapping[str, Path]
    """By the name of the ConfigMap, Secret, hostPath or, for a projected volume, of the volume: a folder or file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One of the container's mounts."""

    source: str
    target: str
    is_read_only: bool


def start(
    namespace: NetNs, node: Node, workload: Manifest, *, environment: Path, root: Path
) -> subprocess.Popen[bytes]:
    """Start the container; its output goes to `root`/output. The caller ends it.

    Args:
        namespace: the network namespace.
        node: the node it runs on.
        workload: the rendered Deployment or DaemonSet.
        environment: what the image has in /opt/pointsman.
        root: an empty folder for the container's root.
    """
    container = container_of(workload)
    (root / "root").mkdir(parents=True)
    specification = {
        "root": str(root / "root"),
        "mounts": [[each.source, each.target, each.is_read_only] for each in _mounts(workload, node)],
        "environment": [str(environment), str(Path(sys.executable).resolve().parents[1])],
        "hosts": "".join(f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **node.hosts}.items()),
        "privileges": _privileges(workload),
        "command": [*container["command"], *container.get("args", ())],
    }
    (root / "specification.json").write_text(json.dumps(specification))
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "support.container_main"]
    image = {
        name: value.replace(PLACE, str(environment)).replace("$PATH", BASE_PATH)
        for name, value in image_variables(container["name"]).items()
    }
    variables = {**image, **_variables(container, node)}
    with (root / "output").open("ab") as output:
        return namespace.popen(
            *argv,
            str(root / "specification.json"),
            env={
                "PATH": BASE_PATH,
                "PYTHONPATH": str(Path(__file__).parents[1]),
                "CONTAINER_ENV": json.dumps(variables),
            },
            stdout=output,
            stderr=output,
        )


def _variables(container: Manifest, node: Node) -> dict[str, str]:
    fields = {
        "spec.nodeName": node.name,
        "status.hostIP": node.address,
        "status.podIP": node.address,
        "metadata.name": f"{container['name']}-0",
        "metadata.namespace": "pointsman-system",
        "metadata.uid": "uid-of-a-pod",
    }
    found: dict[str, str] = {}
    for each in container.get("env", ()):
        value = each["value"] if "value" in each else fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
        found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found.get(match[1], match[0]), value)
    return found


def _mounts(workload: Manifest, node: Node) -> Sequence[Mount]:
    volumes = {each["name"]: each for each in pod_of(workload).get("volumes", ())}
    found = []
    for mount in container_of(workload).get("volumeMounts", ()):
        volume = volumes[mount["name"]]
        name = (
            volume.get("configMap", {}).get("name")
            or volume.get("secret", {}).get("secretName")
            or volume.get("hostPath", {}).get("path")
            or mount["name"]
        )
        is_read_only = mount.get("readOnly", False) or "hostPath" not in volume
        found.append(Mount(source=str(node.volumes[name]), target=mount["mountPath"], is_read_only=is_read_only))
    account = node.volumes.get(pod_of(workload)["serviceAccountName"])
    if account is not None and pod_of(workload).get("automountServiceAccountToken", True):
        target = "/var/run/secrets/kubernetes.io/serviceaccount"
        found.append(Mount(source=str(account), target=target, is_read_only=True))
    return found


def _privileges(workload: Manifest) -> list[str]:
    """Arguments of setpriv."""
    context: dict[str, Any] = {**pod_of(workload)["securityContext"], **container_of(workload)["securityContext"]}
    assert context["capabilities"]["drop"] == ["ALL"]
    added = ",".join(f"+{name.lower()}" for name in context["capabilities"].get("add", ()))
    groups = [str(context[each]) for each in ("fsGroup",) if each in context]
    return [
        f"--reuid={context['runAsUser']}",
        f"--regid={context.get('runAsGroup', 0)}",
        f"--groups={','.join(groups)}" if groups else "--clear-groups",
        f"--bounding-set=-all{',' if added else ''}{added}",
        "--inh-caps=-all",
        *(["--no-new-privs"] if context["allowPrivilegeEscalation"] is False else []),
    ]


def give(folder: Path, *, group: int, mode: int = 0o440) -> Path:
    """Make the files of a volume readable as kubelets do it, by a group."""
    for each in folder.iterdir():
        os.chown(each, 0, group)
        each.chmod(mode)
    return folder
