# SPDX-License-Identifier: Apache-2.0
"""`sysdump`: everything that helps to find out what is wrong, in one archive, without secrets."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import click
import msgspec

from pointsman.control.v1 import override_service_pb2 as override_pb
from pointsman_ctl import console
from pointsman_ctl.checks.cluster_looks import cluster_looks
from pointsman_ctl.checks.look import look
from pointsman_ctl.checks.planner_looks import planner_looks
from pointsman_ctl.core.node_view import node_data
from pointsman_ctl.core.plain import plain
from pointsman_ctl.core.verdict import report_data
from pointsman_ctl.dump import Dump
from pointsman_ctl.errors import CtlError
from pointsman_ctl.kubectl import Kubectl
from pointsman_ctl.local import kernel_rules
from pointsman_ctl.pages import planner_pages
from pointsman_ctl.planner import PAGE_SIZE
from pointsman_ctl.run import Run, finish, with_run

_PAGES: Final = ("statusz", "configz", "metrics")
_OBJECTS: Final = (
    "nodes",
    "services",
    "endpointslices.discovery.k8s.io",
    "servicecidrs.networking.k8s.io",
    "daemonsets",
)
_OWN: Final = ("pods", "deployments", "daemonsets", "events")
_LOG_LINES: Final = 5000
_ALWAYS: Final = ("check.json", "manifest.json")
_LABEL: Final = "app.kubernetes.io/component in (watcher, planner, enforcer)"


@click.command()
@click.option("-f", "--file", "file", metavar="FILE", default="", help="The archive; without it, a name with the time.")
@click.option("--node", "nodes", multiple=True, help="Plans of these nodes; may be repeated.")
@click.option("--plans", type=click.IntRange(0, 5000), default=10, show_default=True, help="Else of so many nodes.")
@click.option("--local", is_flag=True, help="Also what this machine's kernel has of Pointsman.")
@click.option("--skip-cluster", is_flag=True, help="Leave out what kubectl would be asked for.")
@with_run
def sysdump(run: Run, file: str, nodes: tuple[str, ...], plans: int, local: bool, skip_cluster: bool) -> None:
    """Collect everything that helps in a tar.gz, without secrets.

    Status, plans, overrides, planners' pages, logs, objects, checks, and with --local this node's rules.

    Secrets and ConfigMaps are not read. Tokens, keys, passwords, environment values and foreign annotations are taken
    out of everything else; `manifest.json` in the archive says how often, and what could not be had and why. Look into
    it before you hand it on: names and addresses of your cluster are in it.
    """
    now = datetime.now(UTC)
    name = f"pointsman-sysdump-{now:%Y%m%dT%H%M%SZ}"
    path = file or f"{name}.tar.gz"
    dump = Dump(path, name)
    finish(_collect(run, dump, nodes, plans, is_local=local, has_cluster=not skip_cluster))
    dump.close({"time": now.isoformat(), "client": version("pointsman-ctl"), "python": platform.python_version()})
    console.progress("")
    missing = [part for part in dump.parts if "error" in part]
    for part in missing:
        console.note(f"not collected: {part['name']}: {part['error'].partition(chr(10))[0]}")
    console.say([path])
    console.note(f"{len(dump.parts) - len(missing)} parts, {len(missing)} could not be had")
    if len(dump.parts) - len(missing) <= len(_ALWAYS):
        raise CtlError("neither planners nor the cluster could be asked; the archive says why")


async def _collect(
    run: Run, dump: Dump, nodes: tuple[str, ...], plans: int, *, is_local: bool, has_cluster: bool
) -> None:
    for name, get in _control_parts(run):
        await dump.collect(f"control/{name}.json", get)
    for node in nodes or await _first_nodes(run, dump, plans):
        await dump.collect(f"plans/{node}.json", partial(_plan, run, node))
    for page in _PAGES:
        await dump.collect(f"planners/{page}.json", partial(_pages, run, page))
    if has_cluster:
        for name, read in _cluster_parts(run.kubectl, run.context.system_namespace):
            await dump.collect(f"cluster/{name}", partial(asyncio.to_thread, read))
    if is_local:
        await dump.collect("local/rules.txt", partial(asyncio.to_thread, _local_rules))
    looks = planner_looks(run) + (cluster_looks(run, is_before=False) if has_cluster else [])
    rounds = await asyncio.gather(*(look(each) for each in looks))
    dump.add("check.json", report_data([result for each in rounds for result in each]))


def _control_parts(run: Run) -> list[tuple[str, Callable[[], Awaitable[Any]]]]:
    async def nodes() -> Any:
        async with run.planner() as planner:
            return [node_data(node) for node in await planner.nodes()]

    async def services() -> Any:
        async with run.planner() as planner:
            return [plain(service) for service in await planner.services()]

    async def overrides() -> Any:
        found: list[Any] = []
        request = override_pb.ListOverridesRequest(page_size=PAGE_SIZE)
        async with run.planner() as planner:
            while True:
                page = await planner.ask(planner.overrides.ListOverrides, request)
                found += [plain(each) for each in page.overrides]
                request.page_token = page.next_page_token
                if not request.page_token:
                    return found

    return [("nodes", nodes), ("services", services), ("overrides", overrides)]


async def _first_nodes(run: Run, dump: Dump, count: int) -> list[str]:
    names: list[str] = []

    async def list_names() -> Any:
        async with run.planner() as planner:
            names.extend(node.name for node in await planner.nodes())
        return names

    await dump.collect("plans/nodes.json", list_names)
    return names[:count]


async def _plan(run: Run, node: str) -> Any:
    async with run.planner() as planner:
        return plain(await planner.node_plan(node))


async def _pages(run: Run, page: str) -> Any:
    return {source: _decoded(body) for source, body in (await planner_pages(run, page)).items()}


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body.decode(errors="replace").splitlines()


def _cluster_parts(kubectl: Kubectl, namespace: str) -> list[tuple[str, Callable[[], Any]]]:
    parts: list[tuple[str, Callable[[], Any]]] = [
        ("version.json", lambda: msgspec.json.decode(kubectl.run("version", "-o", "json")))
    ]
    parts += [(f"{name.partition('.')[0]}.json", partial(kubectl.get, name, "-A")) for name in _OBJECTS]
    parts += [(f"own-{name}.json", partial(kubectl.get, name, "-n", namespace)) for name in _OWN]
    logs = ("logs", "-n", namespace, "-l", _LABEL, "--all-containers", "--prefix", f"--tail={_LOG_LINES}")
    parts.append(("logs.txt", partial(kubectl.run, *logs, "--max-log-requests=100")))
    return parts


def _local_rules() -> str:
    return "\n".join(kernel_rules()) + "\n"
