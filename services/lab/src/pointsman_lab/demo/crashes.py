# SPDX-License-Identifier: Apache-2.0
"""The demo's crashes: parts are killed under traffic while the cluster changes.

What there is several of is not missed: the change arrives while one is away. Without its enforcer a node waits for its
changes, and loses no packet; but where the enforcer itself is the proxy, new connections are refused meanwhile.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pointsman_lab.demo.scenes import CLIENT, ready_pods
from pointsman_lab.errors import NotConvergedError
from pointsman_lab.nodes import are_synced, planner_of, wait_synced
from pointsman_lab.probe.outcome import Outcome, count_by_pod

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster
    from pointsman_lab.demo.story import Story
    from pointsman_lab.probe.calls import RunningTraffic
    from pointsman_lab.probe.outcome import TrafficReport

_ATTEMPTS_MEANWHILE = 1000
_ARRIVES_SECONDS = 10.0


async def crashes(cluster: Cluster, story: Story) -> None:
    """The parts die; packets do not notice."""
    story.chapter("6. kill -9 under traffic")
    client_node = next(
        pod["spec"]["nodeName"] for pod in await cluster.pods("default") if pod["metadata"]["name"] == "client"
    )
    planner = await planner_of(cluster, client_node)
    for process in (planner, cluster.topology.watchers[0].name, cluster.topology.redis.name):
        await _kill(cluster, story, process, client_node, is_missed=False)
    await _kill(cluster, story, f"enforcer-{client_node}", client_node, is_missed=True)


async def _kill(cluster: Cluster, story: Story, process: str, client_node: str, *, is_missed: bool) -> None:
    """Kill -9 a process under traffic, change the cluster meanwhile, and see the change arrive."""
    vip = (await cluster.service("shop", "frontend"))["spec"]["clusterIP"]
    replicas = len(await ready_pods(cluster, "shop/frontend"))
    async with cluster.traffic(CLIENT, vip, 80, workers=4, interval_seconds=0.004) as traffic:
        killed = time.monotonic()
        await cluster.signal(process, "KILL", restart=False)
        await cluster.scale("shop", "frontend", replicas + 1)
        await cluster.wait_deployed("shop", "frontend")
        has_arrived = not is_missed and await _arrives(cluster, vip)
        planner = await _planner_besides(cluster, client_node, process)
        await _asked_meanwhile(cluster, traffic)
        down = time.monotonic() - killed
        await cluster.start_process(process)
        nodes = await wait_synced(cluster)
        is_felt = is_missed and story.mode.serves_in_process
        at_return = await traffic.report()
        if is_felt:
            await _asked_meanwhile(cluster, traffic)
        report = await traffic.stop()
    with_planner = "" if is_missed else f", {client_node} was with {planner}"
    story.say(f"{process} was away for {down * 1e3:.0f} ms{with_planner}; a pod was added meanwhile")
    if is_felt:
        _check_refusals(story, process, at_return, report)
    else:
        story.check(
            f"{process} killed: {report.attempts} new connections, none failed",
            holds=report.failed == 0,
            found=report.failures[:3],
        )
    if not is_missed:
        story.check("the new pod took its share while it was away", holds=has_arrived and bool(planner), found=planner)
    story.check("afterwards every node has the change, proven by digest", holds=are_synced(cluster, nodes), found=nodes)
    if is_missed:
        story.check("and the new pod takes its share", holds=await _arrives(cluster, vip))


def _check_refusals(story: Story, process: str, at_return: TrafficReport, at_end: TrafficReport) -> None:
    """What is declared in place of "none failed": refused or cut off at once while away, and served ever after."""
    story.declare("new connections are refused while a killed enforcer is away")
    outcomes = {failure.outcome for failure in at_end.failures}
    story.check(
        f"{process} killed: {at_return.failed} of {at_return.attempts} new connections failed, "
        f"the {len(at_end.failures)} looked at refused or reset",
        holds=at_return.failed > 0 and outcomes <= {Outcome.REFUSED, Outcome.RESET},
        found=at_end.failures[:3],
    )
    story.check(
        f"{process} is back: {at_end.attempts - at_return.attempts} new connections, none failed",
        holds=at_end.failed == at_return.failed,
        found=at_end.failed - at_return.failed,
    )


async def _planner_besides(cluster: Cluster, node: str, process: str) -> str:
    """The planner that is soon said to have a node's stream and is not this process; empty when none is."""
    found: list[str] = []

    async def is_found() -> bool:
        found[:] = [await planner_of(cluster, node)]
        return found[0] not in {"", process}

    try:
        await cluster.wait_until(is_found, f"{node} is with another planner", timeout_seconds=_ARRIVES_SECONDS)
    except NotConvergedError:
        return ""
    return found[0]


async def _arrives(cluster: Cluster, vip: str) -> bool:
    """Whether all ready pods, and nobody else, answer the client soon."""

    async def is_so() -> bool:
        counts = count_by_pod(await cluster.probe(CLIENT, vip, 80, count=128))
        return set(counts) == set(await ready_pods(cluster, "shop/frontend"))

    try:
        await cluster.wait_until(is_so, "the new pod answers", timeout_seconds=_ARRIVES_SECONDS)
    except NotConvergedError:
        return False
    return True


async def _asked_meanwhile(cluster: Cluster, traffic: RunningTraffic) -> None:
    """Wait until so many more connections were opened that a failure would show."""
    enough = (await traffic.report()).attempts + _ATTEMPTS_MEANWHILE

    async def are_enough() -> bool:
        return (await traffic.report()).attempts >= enough

    await cluster.wait_until(are_enough, f"{_ATTEMPTS_MEANWHILE} connections")
