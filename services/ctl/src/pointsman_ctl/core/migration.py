# SPDX-License-Identifier: Apache-2.0
"""From kube-proxy to Pointsman: what must hold first, and the steps, each of which can be taken back.

kube-proxy goes node by node. Its DaemonSet is made to keep off nodes that have a label; a node gets the label, and with
it loses its kube-proxy, whose rules stay. The node's enforcer, which runs there already or is brought by the same
label, has its own rules in place, finds that no kube-proxy runs, and removes those that it left. Taking the label away
brings kube-proxy back.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_ctl.core.node_view import state_word
from pointsman_ctl.core.verdict import Result, failed, passed, warning

LABEL: Final = "pointsman.io/proxy"
_TRUE: Final = "true"
CATEGORY: Final = "before the migration"
_LISTED_MAX: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change, by kubectl."""

    why: str
    arguments: tuple[str, ...]
    node: str = ""
    """The node that loses its kube-proxy with it."""

    @property
    def text(self) -> str:
        """As a line for a shell."""
        return shlex.join(("kubectl", *self.arguments))


def steps(nodes: Sequence[str], namespace: str, daemon_set: Mapping[str, Any]) -> list[Step]:
    """What to do for these nodes."""
    found = []
    if not _keeps_off(daemon_set):
        away = {"key": LABEL, "operator": "NotIn", "values": [_TRUE]}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [away]}]}
        affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
        found.append(
            Step(
                why=f"kube-proxy keeps off nodes with {LABEL}={_TRUE}; it restarts everywhere once, its rules stay",
                arguments=_patch(namespace, str(daemon_set["metadata"]["name"]), affinity),
            )
        )
    found += [
        Step(
            why=f"{node} loses its kube-proxy",
            arguments=("label", "--overwrite", "node", node, f"{LABEL}={_TRUE}"),
            node=node,
        )
        for node in nodes
    ]
    return found


def rollback_steps(nodes: Sequence[str], namespace: str, name: str) -> list[Step]:
    """How kube-proxy comes back, on these nodes, or on all when none is named."""
    if nodes:
        return [
            Step(why=f"{node} gets its kube-proxy back", arguments=("label", "node", node, f"{LABEL}-"))
            for node in nodes
        ]
    return [
        Step(why="every node gets its kube-proxy back", arguments=_patch(namespace, name, None)),
        Step(why="the label is of no more use", arguments=("label", "nodes", "--all", f"{LABEL}-")),
    ]


def judge_daemon_set(found: Mapping[str, Any] | None, name: str) -> Result:
    """Whether there is a kube-proxy to take over from, and it can be kept off nodes."""
    if found is None:
        hint = "name it with --daemonset and --daemonset-namespace; a kube-proxy that runs otherwise is ended otherwise"
        return failed(CATEGORY, "kube-proxy", f"there is no DaemonSet {name}", hint)
    if _affinity(found) and not _keeps_off(found):
        hint = f"add `{LABEL} NotIn [{_TRUE}]` to each of its nodeSelectorTerms by hand, then run this again"
        return failed(CATEGORY, "kube-proxy", f"DaemonSet {name} has a node affinity of its own", hint)
    count = (found.get("status") or {}).get("desiredNumberScheduled", 0)
    return passed(CATEGORY, "kube-proxy", f"DaemonSet {name} on {count} nodes")


def judge_coverage(
    nodes: Iterable[str], statuses: Iterable[pb.NodeStatus], enforcers: Mapping[str, Any] | None
) -> Result:
    """Whether every node that is to lose its kube-proxy has an enforcer whose kernel has everything, or gets one."""
    if enforcers is not None and LABEL in str(_affinity(enforcers)):
        return passed(CATEGORY, "enforcers", f"enforcers come to nodes with {LABEL}={_TRUE}")
    known = {status.name: status for status in statuses}
    wanted = sorted(nodes)
    unready = [
        f"{name} ({state_word(known[name].state)}: {known[name].reason})" if name in known else f"{name} (unknown)"
        for name in wanted
        if name not in known or known[name].state != pb.NodeStatus.STATE_SYNCED
    ]
    if unready:
        more = f"; and {len(unready) - _LISTED_MAX} more" if len(unready) > _LISTED_MAX else ""
        hint = "a node without kube-proxy and without a synced enforcer gets no changes: see `pointsmanctl status`"
        return failed(CATEGORY, "enforcers", f"not Synced: {'; '.join(unready[:_LISTED_MAX])}{more}", hint)
    return passed(CATEGORY, "enforcers", f"the kernels of all {len(wanted)} nodes have everything")


def judge_configuration(converted: Mapping[str, Any], present: Mapping[str, Any] | None) -> Result:
    """Whether enforcers are configured as kube-proxy is, as far as that can be converted."""
    hint = "`pointsmanctl config convert --from-cluster` says what kube-proxy's comes to, field by field"
    if present is None:
        return warning(CATEGORY, "configuration", "the enforcers' ConfigMap could not be read", hint)
    skipped = {"apiVersion", "kind", "plannerAddresses", "security"}
    differing = [
        f"{key}: {_short(value)} there, {_short(present[key]) if key in present else 'the default'} here"
        for key, value in converted.items()
        if key not in skipped and present.get(key) != value
    ]
    if differing:
        return warning(CATEGORY, "configuration", "; ".join(differing), hint)
    return passed(CATEGORY, "configuration", "enforcers are configured as kube-proxy is")


def laid_over(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Configurations laid over each other: mappings are merged, of anything else the last one counts."""
    made: dict[str, Any] = {}
    for document in documents:
        for key, value in document.items():
            is_deep = isinstance(value, Mapping) and isinstance(made.get(key), Mapping)
            made[key] = laid_over([made[key], value]) if is_deep else value
    return made


def _affinity(workload: Mapping[str, Any]) -> Any:
    pod = ((workload.get("spec") or {}).get("template") or {}).get("spec") or {}
    return (pod.get("affinity") or {}).get("nodeAffinity") or {}


def _keeps_off(daemon_set: Mapping[str, Any]) -> bool:
    return LABEL in str(_affinity(daemon_set))


def _patch(namespace: str, name: str, affinity: object) -> tuple[str, ...]:
    text = msgspec.json.encode({"spec": {"template": {"spec": {"affinity": affinity}}}}).decode()
    return ("patch", "daemonset", name, "-n", namespace, "--type", "merge", "-p", text)


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
