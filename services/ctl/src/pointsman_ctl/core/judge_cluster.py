# SPDX-License-Identifier: Apache-2.0
"""Judges what the API server says: who else programs Services, what nodes run, who may do what, whose clock is off."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pointsman_ctl.core.verdict import Result, failed, passed, skipped, warning

CLUSTER: Final = "cluster"
_NFTABLES_KERNEL: Final = (5, 13)
_SERVER_MINOR_MIN: Final = 33
"""From it on, ServiceCIDRs are networking.k8s.io/v1."""
_CLOCK_WARNING_SECONDS: Final = 1.0
_CLOCK_FAILURE_SECONDS: Final = 30.0
_PROXIES: Final = ("kube-proxy", "kube-router", "cilium", "antrea-agent")
_LISTED_MAX: Final = 5
Object = Mapping[str, Any]


def judge_server_version(version: Object) -> Result:
    """Whether the API server is of a version that is known to do."""
    found = version.get("serverVersion") or {}
    minor = re.match(r"\d+", str(found.get("minor", "")))
    text = str(found.get("gitVersion", "unknown"))
    if minor is None or int(minor[0]) < _SERVER_MINOR_MIN:
        hint = "ServiceCIDRs are v1 from Kubernetes 1.33 on; before it, addresses that no Service has are not dropped"
        return warning(CLUSTER, "API server", f"version {text}", hint)
    return passed(CLUSTER, "API server", f"version {text} answers")


def judge_kernels(nodes: Sequence[Object]) -> Result:
    """Whether the nodes' kernels can do the nftables mode."""
    old = [
        f"{node['metadata']['name']} {_kernel(node)}"
        for node in nodes
        if (version := _version(_kernel(node))) is not None and version < _NFTABLES_KERNEL
    ]
    foreign = [node["metadata"]["name"] for node in nodes if _info(node).get("operatingSystem", "linux") != "linux"]
    if old:
        hint = "the nftables mode needs 5.13; give these nodes `mode: iptables` or `mode: ipvs`"
        return warning(CLUSTER, "kernels", f"older than 5.13: {_some(old)}", hint)
    if foreign:
        return warning(CLUSTER, "kernels", f"not Linux: {_some(foreign)}", "Pointsman serves Linux nodes only")
    return passed(CLUSTER, "kernels", f"{len(nodes)} nodes can do the nftables mode")


def judge_foreign_proxies(sets: Iterable[Object], *, is_before: bool) -> Result:
    """Whether another service proxy runs. Before an installation it is to be expected."""
    found = []
    for each in sets:
        metadata, count = each["metadata"], (each.get("status") or {}).get("desiredNumberScheduled", 0)
        images = [str(c.get("image", "")) for c in _containers(each)]
        name = next(
            (proxy for proxy in _PROXIES if metadata["name"] == proxy or any(f"/{proxy}:" in i for i in images)), None
        )
        if name is not None and count:
            found.append((name, f"{metadata['namespace']}/{metadata['name']} on {count} nodes"))
    if not found:
        return passed(CLUSTER, "other proxies", "no other service proxy runs")
    listed = _some([where for _, where in found])
    if any(name == "cilium" for name, _ in found) and len(found) == 1:
        hint = "harmless with kubeProxyReplacement off; with it on, Cilium and Pointsman must not run together"
        return warning(CLUSTER, "other proxies", listed, hint)
    hint = (
        "`pointsmanctl migrate` takes over from kube-proxy without a break; others are removed as they were installed"
    )
    return (warning if is_before else failed)(CLUSTER, "other proxies", listed, hint)


def judge_workloads(sets: Iterable[Object], namespace: str) -> list[Result]:
    """Whether Pointsman's own pods run."""
    results = []
    for each in sets:
        status, kind = each.get("status") or {}, str(each.get("kind", ""))
        name = f"{kind.lower()}/{each['metadata']['name']}"
        is_daemon = kind == "DaemonSet"
        wanted = status.get("desiredNumberScheduled", 0) if is_daemon else (each.get("spec") or {}).get("replicas", 1)
        ready = status.get("numberReady" if is_daemon else "readyReplicas", 0)
        text = f"{ready} of {wanted} pods are ready"
        if ready >= wanted:
            results.append(passed(CLUSTER, name, text))
        else:
            hint = f"kubectl -n {namespace} describe {name}; kubectl -n {namespace} logs {name}"
            results.append(failed(CLUSTER, name, text, hint))
    return results or [skipped(CLUSTER, "pods", f"no pods of Pointsman in namespace {namespace}")]


def judge_rights(who: str, missing: Sequence[str], total: int, hint: str) -> Result:
    """Whether somebody may do what he must."""
    if missing:
        return failed(CLUSTER, f"rights of {who}", f"missing: {', '.join(missing)}", hint)
    return passed(CLUSTER, f"rights of {who}", f"all {total} that are needed")


def judge_clock(category: str, name: str, skew_seconds: float) -> Result:
    """How far a clock is from ours; positive: it is ahead."""
    text = f"{abs(skew_seconds):.1f} s {'ahead of' if skew_seconds > 0 else 'behind'} this machine's"
    hint = "run a time service on both; certificates and tokens are refused when clocks differ by much"
    if abs(skew_seconds) >= _CLOCK_FAILURE_SECONDS:
        return failed(category, name, text, hint)
    if abs(skew_seconds) >= _CLOCK_WARNING_SECONDS:
        return warning(category, name, text, hint)
    return passed(category, name, "agrees with this machine's within a second")


def _containers(workload: Object) -> list[Object]:
    return list((((workload.get("spec") or {}).get("template") or {}).get("spec") or {}).get("containers") or [])


def _info(node: Object) -> Object:
    found: Object = (node.get("status") or {}).get("nodeInfo") or {}
    return found


def _kernel(node: Object) -> str:
    return str(_info(node).get("kernelVersion", ""))


def _version(text: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _LISTED_MAX
    return "; ".join(texts[:_LISTED_MAX]) + (f"; and {more} more" if more > 0 else "")
