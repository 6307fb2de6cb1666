# SPDX-License-Identifier: Apache-2.0
"""Looks at the cluster, by kubectl."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec

from pointsman_ctl.checks.look import Look
from pointsman_ctl.core import judge_cluster
from pointsman_ctl.core.verdict import Result, skipped
from pointsman_ctl.kubectl import Kubectl
from pointsman_ctl.run import Run

_CLUSTER: Final = judge_cluster.CLUSTER
_WATCHER: Final = tuple(
    (verb, resource)
    for resource in ("services", "nodes", "endpointslices.discovery.k8s.io", "servicecidrs.networking.k8s.io")
    for verb in ("get", "list", "watch")
)
_PLANNER: Final = (("create", "tokenreviews.authentication.k8s.io"),)
_INSTALLER: Final = tuple(
    ("create", resource)
    for resource in (
        "namespaces",
        "serviceaccounts",
        "configmaps",
        "secrets",
        "deployments.apps",
        "daemonsets.apps",
        "clusterroles.rbac.authorization.k8s.io",
        "clusterrolebindings.rbac.authorization.k8s.io",
    )
)
_APPLY: Final = "apply `deploy/` again, or the rbac.yaml of the component"


def cluster_looks(run: Run, *, is_before: bool) -> list[Look]:
    """Everything about the cluster; `is_before` an installation."""
    kubectl, namespace = run.kubectl, run.context.system_namespace
    seen: list[tuple[str, Callable[[], Sequence[Result]]]] = [
        ("API server", lambda: [judge_cluster.judge_server_version(_version(kubectl))]),
        ("clock of the API server", lambda: [_clock(kubectl)]),
        ("kernels", lambda: [judge_cluster.judge_kernels(kubectl.get("nodes")["items"])]),
        ("other proxies", lambda: [_foreign(kubectl, is_before=is_before)]),
    ]
    if is_before:
        seen.append(("rights to install", lambda: [_my_rights(kubectl)]))
    else:
        for component, needed in (("watcher", _WATCHER), ("planner", _PLANNER)):
            seen.append(
                (f"rights of the {component}", partial(_component_rights, kubectl, namespace, component, needed))
            )
        seen.append(("pods", lambda: _workloads(kubectl, namespace)))
    hint = "kubectl must reach the cluster: --kubeconfig, --kubectl-context; --skip cluster leaves these checks out"
    return [Look(category=_CLUSTER, name=name, see=_threaded(see), hint=hint) for name, see in seen]


def _threaded(see: Callable[[], Sequence[Result]]) -> Any:
    return lambda: asyncio.to_thread(see)


def _version(kubectl: Kubectl) -> dict[str, Any]:
    return msgspec.json.decode(kubectl.run("version", "-o", "json"), type=dict[str, Any])


def _clock(kubectl: Kubectl) -> Result:
    """By the time that the server writes into an object of which nothing remains."""
    before = time.time()
    text = kubectl.run("auth", "whoami", "-o", "json")
    written = (msgspec.json.decode(text, type=dict[str, Any]).get("metadata") or {}).get("creationTimestamp")
    if not written:
        return skipped(_CLUSTER, "clock of the API server", "it does not say")
    # The server cuts to whole seconds.
    skew = datetime.fromisoformat(written).timestamp() + 0.5 - (before + time.time()) / 2
    return judge_cluster.judge_clock(_CLUSTER, "clock of the API server", skew if abs(skew) > 1 else 0.0)


def _foreign(kubectl: Kubectl, *, is_before: bool) -> Result:
    return judge_cluster.judge_foreign_proxies(kubectl.get("daemonsets", "-A")["items"], is_before=is_before)


def _workloads(kubectl: Kubectl, namespace: str) -> list[Result]:
    label = "app.kubernetes.io/component in (watcher, planner, enforcer)"
    found = [
        item | {"kind": kind}
        for resource, kind in (("deployments", "Deployment"), ("daemonsets", "DaemonSet"))
        for item in kubectl.get(resource, "-n", namespace, "-l", label)["items"]
    ]
    return judge_cluster.judge_workloads(found, namespace)


def _component_rights(
    kubectl: Kubectl, namespace: str, component: str, needed: Sequence[tuple[str, str]]
) -> list[Result]:
    account = f"system:serviceaccount:{namespace}:pointsman-{component}"
    missing = [f"{verb} {what}" for verb, what in needed if not _can(kubectl, verb, what, "--as", account)]
    return [judge_cluster.judge_rights(f"the {component}", missing, len(needed), _APPLY)]


def _my_rights(kubectl: Kubectl) -> Result:
    missing = [f"{verb} {what}" for verb, what in _INSTALLER if not _can(kubectl, verb, what)]
    hint = "let an administrator of the cluster install Pointsman"
    return judge_cluster.judge_rights("whoever installs", missing, len(_INSTALLER), hint)


def _can(kubectl: Kubectl, verb: str, resource: str, *more: str) -> bool:
    return kubectl.run("auth", "can-i", verb, resource, "-A", *more, accepts=(0, 1)).strip().startswith("yes")
