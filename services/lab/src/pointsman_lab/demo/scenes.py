# SPDX-License-Identifier: Apache-2.0
"""The demo's scenes: what is shown, in order. Each takes the cluster and the story, and checks what it says."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pointsman_lab.apiserver.resources import DEPLOYMENTS
from pointsman_lab.demo.observe import endpoint_clock
from pointsman_lab.nodes import are_synced, planner_of, wait_synced
from pointsman_lab.probe.outcome import Outcome, count_by_pod

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman_lab.cluster import Cluster
    from pointsman_lab.demo.story import Story
    from pointsman_lab.otlp.store import Span

CLIENT = "default/client"
OUTSIDE = "outside"
_CONVERGED_SECONDS = 10.0


async def first_sync(cluster: Cluster, story: Story) -> None:
    """Every node has acknowledged what is in its kernel."""
    story.chapter("1. First sync: which node has what?")
    nodes = await wait_synced(cluster)
    for node in nodes:
        story.say(f"{node['name']}: {node['state']} at revision {node['revision']}, by {node['planner']}")
    story.check(f"{len(nodes)} nodes have everything in the kernel, proven by digest", holds=are_synced(cluster, nodes))
    stats = await cluster.api.request("GET", "/lab/v1/stats")
    watches = sum(stats["openWatches"].values())
    story.say(f"watches at the API server, for any number of nodes: {watches}, the lab's own controllers included")


async def who_answers(cluster: Cluster, story: Story) -> None:
    """Which pod answered how often."""
    story.chapter("2. Who answers? 300 new connections each")
    frontend = await cluster.service("shop", "frontend")
    vip, node = frontend["spec"]["clusterIP"], cluster.nodes[0].address.ipv4
    dns = (await cluster.service("kube-system", "dns"))["spec"]["clusterIP"]
    gateway = (await cluster.service("edge", "gateway"))["status"]["loadBalancer"]["ingress"][0]["ip"]
    dual = await cluster.service("default", "dual")
    v6 = next(ip for ip in dual["spec"]["clusterIPs"] if ":" in ip)
    asks = {
        "shop/frontend by cluster IP, from a pod": (CLIENT, vip, 80, "TCP"),
        "shop/frontend by node port, from outside": (OUTSIDE, node, 30080, "TCP"),
        "kube-system/dns over UDP, from a pod": (CLIENT, dns, 53, "UDP"),
        "kube-system/dns over TCP, from a pod": (CLIENT, dns, 53, "TCP"),
        "edge/gateway by load balancer IP, from a pod": (CLIENT, gateway, 80, "TCP"),
        "default/dual by IPv6 cluster IP, from a pod": (CLIENT, v6, 80, "TCP"),
    }
    rows: dict[str, dict[str, int]] = {}
    for asked, (place, ip, port, protocol) in asks.items():
        rows[asked] = dict(count_by_pod(await cluster.probe(place, ip, port, protocol, count=300, concurrency=32)))
    story.table(rows)
    for asked, counts in rows.items():
        expected = set(await ready_pods(cluster, asked.split(" ", 1)[0]))
        story.check(f"{asked}: every pod answers, and nobody else", holds=set(counts) == expected, found=counts)


async def policies(cluster: Cluster, story: Story) -> None:
    """Verdicts other than "any endpoint"."""
    story.chapter("3. Policies: local endpoints, refused, dropped")
    gateway = (await cluster.service("edge", "gateway"))["status"]["loadBalancer"]["ingress"][0]["ip"]
    if story.mode.hides_clients:
        story.declare("endpoints see the node's address, not the client's")
    for node in cluster.nodes:
        await cluster.route_outside(gateway, node.name)
        local = {
            pod["metadata"]["name"] for pod in await cluster.pods("edge") if pod["spec"].get("nodeName") == node.name
        }
        probes = await cluster.probe(OUTSIDE, gateway, 80, count=16, timeout_seconds=0.5)
        seen = set(count_by_pod(probes))
        clients = {probe.answer.peer for probe in probes if probe.answer}
        if local:
            whose = "node" if story.mode.hides_clients else "client"
            addresses = [*node.address] if story.mode.hides_clients else _client_addresses(cluster)
            story.check(
                f"edge/gateway through {node.name}: only its own pods answer, and see the {whose}'s address",
                holds=seen == local and clients <= set(addresses),
                found=(seen, clients),
            )
        else:
            story.check(
                f"edge/gateway through {node.name}, which has none of its pods: dropped, not refused",
                holds=seen == {f"({Outcome.TIMEOUT})"},
                found=seen,
            )
    empty = (await cluster.service("default", "empty"))["spec"]["clusterIP"]
    refused = await cluster.connect(CLIENT, empty, 80)
    story.check("a service without endpoints refuses at once", holds=refused.outcome is Outcome.REFUSED, found=refused)


async def scale(cluster: Cluster, story: Story) -> None:
    """How long from the API to the packet."""
    story.chapter("4. Scale up and down under traffic")
    vip = (await cluster.service("shop", "frontend"))["spec"]["clusterIP"]
    before = set(await ready_pods(cluster, "shop/frontend"))
    async with (
        endpoint_clock(cluster, "shop", "frontend") as clock,
        cluster.traffic(CLIENT, vip, 80, workers=4, interval_seconds=0.0005) as traffic,
    ):
        asked = time.monotonic()
        await cluster.scale("shop", "frontend", len(before) + 1)
        await cluster.wait_deployed("shop", "frontend")
        (new,) = set(await ready_pods(cluster, "shop/frontend")) - before
        answered = await traffic.wait_answer_of(new)
        story.say(
            f"kubectl scale -> pod started and ready: {(clock.ready[new] - asked) * 1e3:.1f} ms (the lab's kubelet)"
        )
        story.say(f"endpoint ready at the API -> first packet there: {(answered - clock.ready[new]) * 1e3:5.1f} ms")
        await cluster.scale("shop", "frontend", len(before))
        await cluster.wait_deployed("shop", "frontend")
        gone = ({*before, new} - set(await ready_pods(cluster, "shop/frontend"))).pop()
        report = await traffic.stop()
        last = max(0.0, report.last_seen[gone] - clock.left[gone])
        story.say(f"endpoint leaves at the API -> last new connection there: {last * 1e3:5.1f} ms")
    story.check(
        f"{report.attempts} new connections meanwhile, none failed", holds=report.failed == 0, found=report.failures[:3]
    )


async def rolling_update(cluster: Cluster, story: Story) -> None:
    """No request fails while every pod is replaced."""
    story.chapter("5. Rolling update under traffic")
    vip = (await cluster.service("shop", "catalog"))["spec"]["clusterIP"]
    old = set(await ready_pods(cluster, "shop/catalog"))
    async with cluster.traffic(CLIENT, vip, 80, workers=4, interval_seconds=0.001) as traffic:
        stamp: dict[str, Any] = {"spec": {"template": {"metadata": {"annotations": {"demo/revision": "2"}}}}}
        await cluster.api.patch(DEPLOYMENTS, "catalog", stamp, "shop")
        await cluster.wait_deployed("shop", "catalog")
        new = set(await ready_pods(cluster, "shop/catalog"))
        report = await traffic.stop()
    story.check(f"all {len(old)} pods were replaced", holds=not old & new and len(new) == len(old), found=(old, new))
    story.check(
        f"{report.attempts} new connections meanwhile, none failed", holds=report.failed == 0, found=report.failures[:3]
    )


async def explain(cluster: Cluster, story: Story) -> None:
    """Where does this packet go, and why?"""
    story.chapter("7. Explain a packet")
    vip = (await cluster.service("shop", "catalog"))["spec"]["clusterIP"]
    client = next(pod for pod in await cluster.pods("default") if pod["metadata"]["name"] == "client")
    node = client["spec"]["nodeName"]
    # Its own planner knows the settings of its enforcer.
    planner = await planner_of(cluster, node)
    lines = await cluster.ask_planner("explain", node, client["status"]["podIP"], vip, "80", planner=planner)
    story.text(lines)
    seen = count_by_pod(await cluster.probe(CLIENT, vip, 80, count=128))
    addresses = {pod["metadata"]["name"]: pod["status"].get("podIP") for pod in await cluster.pods("shop")}
    promised = {line.split()[1] for line in lines if line.startswith("  -> ")}
    story.check(
        "128 packets went exactly where the explanation says",
        holds={str(addresses.get(pod)) for pod in seen} == promised,
        found=(dict(seen), promised),
    )


async def trace(cluster: Cluster, story: Story) -> None:
    """One change as one trace."""
    story.chapter("8. A change is a trace")
    before = set(await cluster.find_traces(name="dataplane.apply", limit=50))
    replicas = len(await ready_pods(cluster, "shop/cart"))
    await cluster.scale("shop", "cart", replicas + 1)
    await cluster.wait_deployed("shop", "cart")
    found: list[str] = []
    nodes = {node.name for node in cluster.nodes}

    async def is_exported() -> bool:
        """Whether a new trace has arrived whole, with the commit and the acknowledgement of every node."""
        for trace_id in await cluster.find_traces(name="dataplane.apply", limit=50):
            spans = await cluster.trace(trace_id)
            acks = sum(span.name == "ack" for span in spans)
            if trace_id not in before and acks >= len(cluster.nodes) and _committed(spans) >= nodes:
                found.append(trace_id)
                return True
        return False

    await cluster.wait_until(is_exported, "a trace with the spans of all services", timeout_seconds=_CONVERGED_SECONDS)
    story.text((await cluster.waterfall(found[0])).splitlines())
    spans = await cluster.trace(found[0])
    names = {span.name for span in spans}
    wanted = {"watch.event", "plan.compute", "plan.send", "dataplane.render", "dataplane.apply", "ack"}
    story.check(
        "one trace from the API event to the kernel commit on every node",
        holds=names >= wanted and _committed(spans) == nodes,
        found=(names, _committed(spans)),
    )


def _committed(spans: Iterable[Span]) -> set[str]:
    """The nodes whose kernel took the change."""
    return {span.host for span in spans if span.name == "dataplane.apply"}


async def ready_pods(cluster: Cluster, service: str) -> list[str]:
    """The pods that are ready by the EndpointSlices of a service, given as `namespace/name`."""
    namespace, name = service.split("/")
    found: set[str] = set()
    for item in await cluster.endpoint_slices(namespace, name):
        for endpoint in item.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready", True):
                found.add(endpoint["targetRef"]["name"])
    return sorted(found)


def _client_addresses(cluster: Cluster) -> list[str]:
    topology = cluster.topology
    return [*topology.outside_address, *(ip for client in topology.client_addresses for ip in client)]
