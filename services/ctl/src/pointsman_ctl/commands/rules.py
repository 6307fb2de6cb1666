# SPDX-License-Identifier: Apache-2.0
"""`rules`: what a node's kernel should do, rule by rule; or what it has, in the words of its own tools."""

from __future__ import annotations

from collections.abc import Iterable

import click

from pointsman_ctl import console
from pointsman_ctl.commands.plan import chosen_services
from pointsman_ctl.core.plan_view import RULE_COLUMNS, Rule, service_text
from pointsman_ctl.core.plan_view import rules as rules_of
from pointsman_ctl.errors import CtlError, UsageError
from pointsman_ctl.local import kernel_rules
from pointsman_ctl.output import Format, View, show
from pointsman_ctl.run import Run, finish, with_output, with_run


@click.command()
@click.argument("node", required=False, default="")
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@click.option("--kernel", is_flag=True, help="What the node's kernel has, by `kubectl exec` in its enforcer.")
@click.option("--local", is_flag=True, help="What this machine's kernel has; needs root, and no planner.")
@with_output()
@with_run
def rules(run: Run, shown: Format, node: str, services: tuple[str, ...], kernel: bool, local: bool) -> None:
    """What a node's kernel should do, or does.

    A line for each frontend and class of senders: the node's plan, spelled out. It is the same for every proxy mode,
    since modes only translate. `--kernel` and `--local` show what the kernel has, as `nft`, `iptables-save` and
    `ipvsadm` list it. What would change on the node is printed there by `pointsman-enforcer --dry-run`.
    """
    if local:
        console.say(_listed(kernel_rules()))
        return
    if not node:
        raise UsageError("name a node, or give --local for this machine")
    if kernel:
        console.say(_listed(kernel_rules(run.kubectl.command(*enforcer_exec(run, node)))))
        return
    finish(_rules(run, shown, node, services))


def enforcer_exec(run: Run, node: str) -> list[str]:
    """Arguments of kubectl that run a command in the enforcer of a node.

    Raises:
        KubectlError: kubectl cannot be asked.
        CtlError: there is no enforcer on that node.
    """
    namespace = run.context.system_namespace
    chosen = ["-l", "app.kubernetes.io/component=enforcer", "--field-selector", f"spec.nodeName={node}"]
    pods = run.kubectl.get("pods", "-n", namespace, *chosen)["items"]
    if not pods:
        raise CtlError(
            f"no enforcer of {node} in namespace {namespace}; `systemNamespace` of the context names another, "
            "and on the node itself `pointsmanctl rules --local` needs no cluster"
        )
    return ["exec", "-n", namespace, "-c", "enforcer", pods[0]["metadata"]["name"], "--"]


def _listed(lines: Iterable[str]) -> list[str]:
    return list(lines) or ["# nothing of Pointsman's in this kernel"]


async def _rules(run: Run, shown: Format, node: str, services: tuple[str, ...]) -> None:
    wanted = chosen_services(services)
    async with run.planner() as planner:
        whole = await planner.node_plan(node)
    view = View(
        rows=list(rules_of(each for each in whole.services if not wanted or service_text(each) in wanted)),
        columns=RULE_COLUMNS,
        name=lambda rule: f"{rule.frontend} {'/'.join(rule.senders)}",
        data=Rule.data,
        about={"node": node, "digest": f"{whole.digest:016x}"},
        none=f"the plan of {node} has no such Service",
    )
    show(view, shown)
