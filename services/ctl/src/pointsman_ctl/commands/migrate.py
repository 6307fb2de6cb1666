# SPDX-License-Identifier: Apache-2.0
"""`migrate`: the cluster's side of the take-over from kube-proxy."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_chassis.duration import Duration
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import parse_yaml
from pointsman_ctl import console
from pointsman_ctl.commands.config import convert_config, kube_proxy_config
from pointsman_ctl.core import migration
from pointsman_ctl.core.migration import Step
from pointsman_ctl.core.verdict import Result, failed, is_failure, report
from pointsman_ctl.errors import CtlError, KubectlError, WaitTimeoutError
from pointsman_ctl.kubectl import Kubectl
from pointsman_ctl.run import Run, finish, with_run
from pointsman_ctl.types import DurationType

_POLL_SECONDS: Final = 1.0
_ENFORCER: Final = "pointsman-enforcer"


@click.command()
@click.option("--node", "nodes", multiple=True, help="Only these nodes, to begin with some; may be repeated.")
@click.option("--execute", is_flag=True, help="Take the steps; without it they are printed.")
@click.option("--rollback", is_flag=True, help="The other way: kube-proxy comes back.")
@click.option("--daemonset", default="kube-proxy", show_default=True, help="kube-proxy's DaemonSet.")
@click.option("--daemonset-namespace", default="kube-system", show_default=True, help="Its namespace.")
@click.option("--timeout", type=DurationType(), default="2m", show_default=True, help="How long each node may take.")
@with_run
def migrate(run: Run, nodes: tuple[str, ...], execute: bool, rollback: bool, **options: Any) -> None:
    """Take over from kube-proxy, node by node, without a break.

    Checks first that every node's enforcer has everything in the kernel, or comes with the same step, and is configured
    as kube-proxy is. Then kube-proxy goes from one node after the other, by a label that its DaemonSet keeps off; the
    node's enforcer removes the rules that it leaves. Without --execute nothing is changed: the steps are printed, as a
    script that you can read, keep, and run yourself. docs/operating/migrate-from-kube-proxy.md has the whole way.
    """
    namespace, name = options["daemonset_namespace"], options["daemonset"]
    daemon_set = _daemon_set(run.kubectl, namespace, name)
    if rollback:
        _carry_out(run, migration.rollback_steps(nodes, namespace, name), is_executed=execute)
        return
    chosen = list(nodes) or _linux_nodes(run.kubectl)
    results = _preconditions(run, chosen, daemon_set, f"{namespace}/{name}")
    console.say(report(results, colours=console.has_colours()))
    if is_failure(results) or daemon_set is None:
        raise CtlError("the cluster is not ready for it; nothing was changed")
    steps = migration.steps(chosen, namespace, daemon_set)
    watched = _Watched(run, _selector(daemon_set), namespace, options["timeout"])
    _carry_out(run, steps, is_executed=execute, watched=watched)


class _Watched:
    """Waits, after a node's step, for its kube-proxy to be gone and its kernel to have everything still."""

    def __init__(self, run: Run, selector: str, namespace: str, patience: Duration) -> None:
        self._run, self._selector, self._namespace, self._patience = run, selector, namespace, patience

    def wait(self, node: str) -> None:
        """Returns when it is so.

        Raises:
            WaitTimeoutError: it is not so in time.
        """
        deadline = time.monotonic() + self._patience
        back = f"`pointsmanctl migrate --rollback --node {node} --execute` brings kube-proxy back there"
        chosen = ("-n", self._namespace, "-l", self._selector, "--field-selector", f"spec.nodeName={node}")
        while self._run.kubectl.get("pods", *chosen)["items"]:
            if time.monotonic() > deadline:
                raise WaitTimeoutError(
                    f"{node} still has its kube-proxy after {self._patience}; no more nodes were touched\n"
                    f"  hint: kubectl describe pods {' '.join(chosen)}; {back}"
                )
            time.sleep(_POLL_SECONDS)
        while (status := finish(_status(self._run, node))).state != pb.NodeStatus.STATE_SYNCED:
            if time.monotonic() > deadline:
                raise WaitTimeoutError(
                    f"{node} is not Synced after {self._patience}: {status.reason}; no more nodes were touched\n"
                    f"  hint: {back}; its kernel keeps the rules it had"
                )
            time.sleep(_POLL_SECONDS)


def _carry_out(run: Run, steps: Sequence[Step], *, is_executed: bool, watched: _Watched | None = None) -> None:
    if not is_executed:
        console.say(line for step in steps for line in (f"# {step.why}", step.text))
        console.note("nothing was changed; --execute takes these steps and looks after each node")
        return
    for step in steps:
        console.note(f"{step.why} ...")
        run.kubectl.run(*step.arguments)
        if step.node and watched is not None:
            watched.wait(step.node)
    console.say([f"done: {len(steps)} steps"])
    if watched is None:
        console.note(
            "what enforcers programmed stays until it is removed: docs/operating/uninstall.md, for one node or all"
        )


def _preconditions(run: Run, nodes: Sequence[str], daemon_set: Mapping[str, Any] | None, name: str) -> list[Result]:
    results = [migration.judge_daemon_set(daemon_set, name)]
    statuses = finish(_statuses(run))
    enforcers = _daemon_set(run.kubectl, run.context.system_namespace, _ENFORCER)
    results.append(migration.judge_coverage(nodes, statuses, enforcers))
    try:
        made, _ = convert_config(run, kube_proxy_config(run), nodes[0] if nodes else "")
        converted = parse_yaml(made, source="the conversion")[0]
        results.append(migration.judge_configuration(converted, _enforcer_config(run, enforcers)))
    except (CtlError, ConfigError) as error:
        hint = "convert it by hand and compare: `pointsmanctl config convert FILE`; --help says what it needs"
        results.append(failed(migration.CATEGORY, "configuration", str(error), hint))
    return results


async def _statuses(run: Run) -> list[pb.NodeStatus]:
    async with run.planner() as planner:
        return await planner.nodes()


async def _status(run: Run, node: str) -> pb.NodeStatus:
    async with run.planner() as planner:
        return (await planner.ask(planner.control.GetNode, pb.GetNodeRequest(node_name=node))).status


def _daemon_set(kubectl: Kubectl, namespace: str, name: str) -> dict[str, Any] | None:
    found = kubectl.get("daemonsets", "-n", namespace)["items"]
    return next((each for each in found if each["metadata"]["name"] == name), None)


def _selector(daemon_set: Mapping[str, Any] | None) -> str:
    labels = (((daemon_set or {}).get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    return ",".join(f"{key}={value}" for key, value in labels.items())


def _linux_nodes(kubectl: Kubectl) -> list[str]:
    items = kubectl.get("nodes")["items"]
    return [
        str(node["metadata"]["name"])
        for node in items
        if ((node.get("status") or {}).get("nodeInfo") or {}).get("operatingSystem", "linux") == "linux"
    ]


def _enforcer_config(run: Run, enforcers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The configuration that the enforcers' DaemonSet mounts: its files laid over each other in the order of names."""
    pod = (((enforcers or {}).get("spec") or {}).get("template") or {}).get("spec") or {}
    names = [each["configMap"]["name"] for each in pod.get("volumes") or [] if each.get("name") == "config"]
    if not names:
        return None
    try:
        found = run.kubectl.get("configmap", names[0], "-n", run.context.system_namespace).get("data") or {}
    except KubectlError:
        return None
    documents = [parse_yaml(found[name], source=f"ConfigMap {names[0]}, {name}") for name in sorted(found)]
    return migration.laid_over(each for document in documents for each in document if isinstance(each, dict))
