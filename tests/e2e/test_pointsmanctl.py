# SPDX-License-Identifier: Apache-2.0
"""`pointsmanctl` against a running cluster, typed as a user types it: every command, with what it says held true."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from pointsman_lab.apiserver.resources import SERVICES, by_plural
from support.lab_process import wait_synced

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster
    from support.lab_world import World

DAEMONSETS = by_plural("apps", "daemonsets")
pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run did."""

    status: int
    stdout: str
    stderr: str

    @property
    def data(self) -> Any:
        """The JSON of stdout."""
        return json.loads(self.stdout)


async def ctl(cluster: Cluster, *arguments: str, place: str = "control", stdin: str = "") -> Ran:
    """Run a command in a place of the lab, with the configuration that the lab wrote."""
    argv = ["env", f"POINTSMAN_CONFIG={cluster.state.ctl_config}", sys.executable, "-m", "pointsman_ctl", *arguments]
    done = await cluster.execute(place, argv, text=stdin, timeout_seconds=60)
    return Ran(done.code, done.stdout, done.stderr)


async def kube_proxy(world: World) -> None:
    """A DaemonSet of this name; nobody in the lab runs its pods."""
    labels = {"k8s-app": "kube-proxy"}
    pod = {"containers": [{"name": "kube-proxy", "image": "registry.example/kube-proxy:v1.36.2"}]}
    body = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": world.namespace},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }
    await world.cluster.api.create(DAEMONSETS, body, world.namespace)
    status = {"status": {"desiredNumberScheduled": 3, "currentNumberScheduled": 3, "numberMisscheduled": 0}}
    await world.cluster.api.patch(DAEMONSETS, "kube-proxy", status, world.namespace, subresource="status")


async def test_status_services_and_endpoints_tell_what_is_there(world: World) -> None:
    cluster, node = world.cluster, world.backends[0].node
    await world.service(internalTrafficPolicy="Local")
    await world.endpoints(world.backends)
    await wait_synced(cluster)
    nodes = (await ctl(cluster, "status", "-o", "json")).data["items"]
    assert [(each["name"], each["state"], each["isConverged"]) for each in nodes] == [
        (place.name, "Synced", True) for place in cluster.nodes
    ]
    listed = await ctl(cluster, "services", "-n", world.namespace, "--no-headers")
    assert listed.stdout.split()[:3] == [world.namespace, "web", "ClusterIP"]
    found = await ctl(cluster, "endpoints", f"svc/{world.namespace}/web", "--node", node, "-o", "json")
    (http,) = [port for port in found.data["endpoints"]["ports"] if (port["name"], port["family"]) == ("http", "IPv4")]
    sets = {each["facts"]["address"]: each["sets"] for each in http["endpoints"]}
    assert sets.pop(world.backends[0].ipv4) == ["Local"]
    assert list(sets.values()) == [[]] * (len(world.backends) - 1)
    table = await ctl(cluster, "endpoints", f"{world.namespace}/web", "--node", node)
    assert f"the endpoint is on node {world.backends[1].node}" in table.stdout


async def test_explain_answers_as_the_packet_does(world: World) -> None:
    cluster, client = world.cluster, world.backends[0]
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends[:2])
    await world.expect(client.place, vip, world.backends[:2])
    found = await ctl(cluster, "explain", client.ipv4, f"{vip}:80", "--node", client.node, "-o", "json")
    assert found.data["outcome"] == "Forward"
    assert {each["address"] for each in found.data["endpoints"]} == {each.ipv4 for each in world.backends[:2]}
    await world.endpoints([])
    waited = await ctl(cluster, "wait", "--for=converged", f"svc/{world.namespace}/web", "--timeout", "20s")
    assert waited.stdout == f"svc/{world.namespace}/web converged: 3 of 3 nodes have it\n"
    said = await ctl(cluster, "explain", client.ipv4, f"{vip}:80", "--node", client.node)
    assert said.stdout.startswith(f"{client.ipv4} -> {vip}:80/TCP on {client.node}: REJECT\n")


async def test_wait_names_a_node_that_is_behind_and_diff_says_which_services(world: World) -> None:
    cluster, node = world.cluster, world.backends[2].node
    await cluster.signal(f"enforcer-{node}", "STOP")
    try:
        service = await world.service()
        version = service["metadata"]["resourceVersion"]
        late = await ctl(
            cluster, "wait", f"svc/{world.namespace}/web", "--resource-version", version, "--timeout", "2s"
        )
        assert late.status == 3
        assert f"{node}: " in late.stderr
        assert "2 of 3 nodes have it" in late.stdout
        differing = await ctl(cluster, "diff", node, "-o", "json")
        assert (differing.status, differing.data["isEqual"], differing.data["isComplete"]) == (1, False, True)
        standings = {each["service"]: each["standing"] for each in differing.data["items"]}
        assert standings[f"{world.namespace}/web"] in ("Sent", "Waiting")
    finally:
        await cluster.signal(f"enforcer-{node}", "CONT")
    await wait_synced(cluster)
    equal = await ctl(cluster, "diff", node)
    assert equal.status == 0
    assert f"{node} is Synced: its kernel has what the planner wants, by digest." in equal.stdout


async def test_rules_and_plan_are_what_the_kernel_has(world: World) -> None:
    cluster, node = world.cluster, world.backends[0].node
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends[:1])
    await wait_synced(cluster)
    rules = (await ctl(cluster, "rules", node, f"{world.namespace}/web", "-o", "json")).data["items"]
    assert {(rule["frontend"], *rule["endpoints"]) for rule in rules if rule["kind"] == "ClusterIP"} == {
        (f"{vip}:80/TCP", f"{world.backends[0].ipv4}:8080"),
        (f"{vip}:53/UDP", f"{world.backends[0].ipv4}:5353"),
    }
    plan = await ctl(cluster, "plan", node, "-o", "name")
    assert f"svc/{world.namespace}/web" in plan.stdout.splitlines()
    kernel = await ctl(cluster, "rules", "--local", place=node)
    assert f"{vip} . tcp . 80" in kernel.stdout
    assert (await ctl(cluster, "rules", "--local")).stdout == "# nothing of Pointsman's in this kernel\n"


async def test_check_passes_on_a_cluster_that_is_well_and_fails_with_hints_on_one_that_is_not(world: World) -> None:
    cluster = world.cluster
    await wait_synced(cluster)
    well = await ctl(cluster, "check", "-o", "json")
    assert (well.status, well.data["passed"]) == (0, True), well.stdout
    assert well.data["summary"]["passed"] >= 20
    names = {item["name"] for item in well.data["items"]}
    assert {"shards", "converged", "conflicts", "kernels", "other proxies", "clock of the API server"} <= names
    await kube_proxy(world)
    await cluster.stop_process("redis")
    try:
        ill = await ctl(cluster, "check", "-o", "json")
        assert (ill.status, ill.data["passed"]) == (1, False)
        complaints = {item["name"]: item for item in ill.data["items"] if item["outcome"] in ("failed", "warning")}
        assert all(item["hint"] for item in complaints.values())
        assert complaints["other proxies"]["outcome"] == "failed"
        assert "pointsmanctl migrate" in complaints["other proxies"]["hint"]
        assert any(name.startswith("Redis (") for name in complaints)
    finally:
        await cluster.start_process("redis")
        await cluster.api.delete(DAEMONSETS, "kube-proxy", world.namespace)
    local = await ctl(cluster, "check", "--local", "--skip", "planners", "--skip", "cluster", place="node-1")
    assert "ok nftables: " in local.stdout
    assert "ok forwarding: on" in local.stdout


async def test_connectivity_test_dials_and_compares_with_the_plan(world: World, tmp_path: Path) -> None:
    cluster, node = world.cluster, world.backends[0].node
    await world.service(type="NodePort")
    await world.endpoints(world.backends)
    await world.service("empty")
    await wait_synced(cluster)
    report = tmp_path / "report.xml"
    ran = await ctl(
        cluster, "connectivity-test", f"{world.namespace}/web", f"{world.namespace}/empty", "--node", node,
        "--from", f"nsenter --net=/run/netns/pod.default.{world.backends[0].name} --", "--junit", str(report),
    )  # fmt: skip
    assert ran.status == 0, ran.stdout + ran.stderr
    suite = ET.fromstring(report.read_text())  # noqa: S314 - written by the command under test
    cases = {(case.get("classname", "").rpartition("/")[2], case.get("name", "").split()[0]) for case in suite}
    assert cases >= {("web", "ClusterIP"), ("web", "NodePort"), ("empty", "ClusterIP")}
    assert suite.get("failures") == "0"
    assert "3 connected, as planned" in ran.stdout
    assert "3 refused, as planned" in ran.stdout


async def test_connectivity_test_fails_where_packets_do_not_go_as_planned(world: World) -> None:
    cluster, node = world.cluster, world.backends[0].node
    await world.service(ports=[{"name": "http", "protocol": "TCP", "port": 81, "targetPort": 8080}])
    await world.endpoints(world.backends)
    await wait_synced(cluster)
    # Somebody's firewall, on the client's node.
    await cluster.node_exec(node, "nft", "add table ip firewall")
    await cluster.node_exec(node, "nft", "add chain ip firewall c { type filter hook output priority -300; }")
    await cluster.node_exec(node, "nft", "add rule ip firewall c tcp dport 81 drop")
    try:
        ran = await ctl(
            cluster, "connectivity-test", f"{world.namespace}/web", "--node", node, "--attempts", "1",
            "--timeout", "300ms", "-o", "json", place=node,
        )  # fmt: skip
    finally:
        await cluster.node_exec(node, "nft", "delete table ip firewall")
    assert ran.status == 1
    (failure,) = [item for item in ran.data["items"] if item["outcome"] == "failed"]
    assert failure["message"] == "planned: Forward (connected); seen: 1 timeout"
    assert "pointsmanctl explain" in failure["hint"]


async def test_sysdump_holds_what_helps_and_no_secret(world: World, tmp_path: Path) -> None:
    cluster = world.cluster
    await world.service()
    secret = "hunter2hunter2"  # noqa: S105 - what must not come out
    await cluster.api.patch(
        SERVICES, "web", {"metadata": {"annotations": {"example.com/password": secret}}}, world.namespace
    )
    await wait_synced(cluster)
    file = tmp_path / "dump.tar.gz"
    ran = await ctl(cluster, "sysdump", "-f", str(file))
    assert ran.status == 0, ran.stderr
    assert ran.stdout == f"{file}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(fileobj=io.BytesIO(file.read_bytes())) as archive:
        parts = {name.partition("/")[2]: archive.extractfile(name).read().decode() for name in archive.getnames()}  # type: ignore[union-attr] # files only
    for name in ("manifest.json", "check.json", "control/nodes.json", "plans/node-1.json", "cluster/services.json"):
        json.loads(parts[name])
    assert world.namespace in parts["cluster/services.json"]
    key = (cluster.state.pki / "admin.key").read_text().splitlines()[1]
    for name, text in parts.items():
        assert secret not in text, name
        assert key not in text, name
        assert "PRIVATE KEY" not in text, name
    statuses = json.loads(parts["planners/statusz.json"])
    assert [page["inSync"] for page in statuses.values()] == [True]


async def test_trace_shows_a_change_on_its_way_to_every_node(world: World, tmp_path: Path) -> None:
    cluster = world.cluster
    await world.endpoints(world.backends, slice_name="other")
    await wait_synced(cluster)
    await world.service()
    file = tmp_path / "traces.json"

    async def is_whole() -> bool:
        ids = await cluster.find_traces(attribute="object", value=f"service {world.namespace}/web")
        file.write_text(json.dumps(await cluster.jaeger(*ids)))
        spans = [span for each in ids for span in await cluster.trace(each)]
        return sum(span.name == "ack" for span in spans) >= 3

    await cluster.wait_until(is_whole, "the trace")
    ran = await ctl(cluster, "trace", "--file", str(file), "--service", f"{world.namespace}/web")
    assert ran.status == 0, ran.stderr
    first, *lines = ran.stdout.splitlines()
    assert first.startswith(f"service {world.namespace}/web   trace ")
    assert sum("|" in line for line in lines) >= 10
    table = lines[lines.index("") + 1 :]
    assert table[0].split() == ["NODE", "SENT", "IN", "KERNEL", "ACKED", "ERROR"]
    assert [row.split()[0] for row in table[1:]] == [node.name for node in cluster.nodes]


async def test_an_override_is_in_every_kernel_when_the_command_returns(world: World) -> None:
    cluster = world.cluster
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends[:2])
    await world.expect_everywhere(vip, world.backends[:2])
    drained = await ctl(
        cluster, "override", "drain", "d", f"address={world.backends[0].ipv4}", "--service", f"{world.namespace}/web",
        "--owner", "e2e", "--ttl", "5m", "--wait", "20s",
    )  # fmt: skip
    assert drained.status == 0, drained.stderr
    assert drained.stderr == "all 3 nodes have it\n"
    await world.expect_everywhere(vip, world.backends[1:2])
    listed = await ctl(cluster, "override", "list", "-n", world.namespace, "-o", "name")
    assert listed.stdout == f"override/{world.namespace}/d\n"
    deleted = await ctl(cluster, "override", "delete", "d", "-n", world.namespace, "--owner", "e2e", "--wait", "20s")
    assert deleted.status == 0, deleted.stderr
    await world.expect_everywhere(vip, world.backends[:2])


async def test_migrate_looks_first_prints_its_steps_and_takes_them_when_told(world: World) -> None:
    cluster = world.cluster
    await wait_synced(cluster)
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
        "data": {"config.conf": "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"},
    }
    where = ("--daemonset-namespace", world.namespace)
    missing = await ctl(cluster, "migrate", *where)
    assert missing.status == 1
    assert f"there is no DaemonSet {world.namespace}/kube-proxy" in missing.stdout
    await kube_proxy(world)
    await cluster.apply_text(json.dumps(config))
    try:
        shown = await ctl(cluster, "migrate", *where)
        assert shown.status == 0, shown.stdout + shown.stderr
        commands = [line for line in shown.stdout.splitlines() if line.startswith("kubectl ")]
        assert len(commands) == 1 + len(cluster.nodes)
        before = await cluster.api.get(DAEMONSETS, "kube-proxy", world.namespace)
        assert "affinity" not in before["spec"]["template"]["spec"]
        done = await ctl(cluster, "migrate", *where, "--node", "node-1", "--execute")
        assert done.stdout.endswith("done: 2 steps\n"), done.stderr
        after = await cluster.api.get(DAEMONSETS, "kube-proxy", world.namespace)
        assert "pointsman.io/proxy" in json.dumps(after["spec"]["template"]["spec"]["affinity"])
        back = await ctl(cluster, "migrate", *where, "--rollback", "--execute")
        assert back.stdout == "done: 2 steps\n", back.stderr
    finally:
        await cluster.api.delete(DAEMONSETS, "kube-proxy", world.namespace)
        await cluster.delete_text(json.dumps(config))


async def test_a_kube_proxy_configuration_is_converted_by_the_enforcer_itself(cluster: Cluster) -> None:
    head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
    text = f"{head}mode: ipvs\nclusterCIDR: 10.1.0.0/16\n"
    ran = await ctl(cluster, "config", "convert", "-", stdin=text)
    assert ran.status == 0, ran.stderr
    assert "clusterCIDR: 10.1.0.0/16" in ran.stdout
    assert "mode" in ran.stderr
    wrong = await ctl(cluster, "config", "convert", "-", stdin=text + "clusterCIRD: x\n")
    assert wrong.status == 2
    assert "did you mean clusterCIDR?" in wrong.stderr


async def test_status_watch_tells_of_a_node_that_goes(world: World, tmp_path: Path) -> None:
    cluster = world.cluster
    await wait_synced(cluster)
    log = tmp_path / "watch.txt"
    command = f"timeout -s INT 30 {sys.executable} -m pointsman_ctl status --watch > {log}"
    environment = f"POINTSMAN_CONFIG={cluster.state.ctl_config}"
    watching = asyncio.create_task(
        cluster.execute("control", ["env", environment, "sh", "-c", command], timeout_seconds=60)
    )

    async def has(text: str) -> bool:
        lines = log.read_text().splitlines() if log.exists() else []
        return any(line.startswith("node-2") and text in line for line in lines)

    await cluster.wait_until(lambda: has("Synced"), "the first picture")
    await cluster.signal("enforcer-node-2", "KILL")
    await cluster.wait_until(lambda: has("Disconnected"), "the node is gone")
    await cluster.wait_process_ready("enforcer-node-2")
    watching.cancel()
