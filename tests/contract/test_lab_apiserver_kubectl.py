# SPDX-License-Identifier: Apache-2.0
"""A stock kubectl works against the lab's API server, without flags that switch anything off."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from pointsman_lab.apiserver import ApiServer, ClusterOptions, DeleteOptions, Patch, new_cluster
from pointsman_lab.apiserver.patches import MERGE_PATCH
from pointsman_lab.apiserver.resources import CORE_EVENTS, DEPLOYMENTS, ENDPOINTSLICES, NODES, PODS, REPLICASETS

DEADLINE_SECONDS = 60.0
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [{"name": "web", "image": "echo", "ports": [{"containerPort": 8080, "name": "http"}]}]
            },
        },
    },
}
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
}
DNS = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "dns"},
    "spec": {
        "selector": {"app": "dns"},
        "ports": [{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53, "protocol": "TCP"}],
    },
}


class Kubectl:
    """Runs kubectl against one server, with a home of its own."""

    def __init__(self, cluster: dict[str, Any], home: Path, user: dict[str, Any] | None = None) -> None:
        program = shutil.which("kubectl")
        if program is None:
            pytest.skip("no kubectl on PATH; install one to run these tests")
        self._program = program
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "users": [{"name": "lab", "user": user or {}}],
            "current-context": "lab",
        }
        kubeconfig = home / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config))
        self._environment = {**os.environ, "HOME": str(home), "KUBECONFIG": str(kubeconfig)}

    async def start(self, *words: str, **environment: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        environment = {**self._environment, **environment}
        return await asyncio.create_subprocess_exec(
            self._program, *words, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
        )

    async def __call__(self, *words: str, stdin: Any = None, status: int = 0, **environment: str) -> str:
        process = await self.start(*words, **environment)
        text = yaml.safe_dump_all(stdin).encode() if stdin else b""
        out, err = await asyncio.wait_for(process.communicate(text), DEADLINE_SECONDS)
        assert process.returncode == status, err.decode()
        assert "Warning" not in err.decode()
        return out.decode() + (err.decode() if status else "")

    async def json(self, *words: str) -> Any:
        return json.loads(await self(*words, "-o", "json"))


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ApiServer]:
    registry = new_cluster(ClusterOptions(seed=7))
    api = ApiServer(registry)
    await api.start()
    yield api
    await api.stop()


@pytest.fixture
def kubectl(server: ApiServer, tmp_path: Path) -> Kubectl:
    return Kubectl({"server": server.url}, tmp_path)


def merge(server: ApiServer, resource: Any, name: str, document: Any, subresource: str = "") -> None:
    patch = Patch(media_type=MERGE_PATCH, document=document)
    server.registry.patch(resource, patch, "default" if resource.namespaced else "", name, subresource)


def populate(server: ApiServer) -> None:
    """Write what controllers would: a ready node, a pod on it, a slice of a service, an event."""
    registry = server.registry
    node = {
        "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "a"}},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.2"},
        },
    }
    registry.create(NODES, node)
    registry.create(REPLICASETS, {**DEPLOYMENT, "kind": "ReplicaSet", "metadata": {"name": "web-1"}}, "default")
    pod = {
        "metadata": {"name": "web-1-a", "labels": {"app": "web"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "web", "image": "echo"}]},
    }
    uid = registry.create(PODS, pod, "default").decode()["metadata"]["uid"]
    status = {
        "phase": "Running",
        "podIP": "10.244.0.5",
        "podIPs": [{"ip": "10.244.0.5"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "web", "ready": True, "restartCount": 0, "image": "echo", "imageID": ""}],
    }
    merge(server, PODS, "web-1-a", {"status": status}, "status")
    endpoint_slice = {
        "metadata": {"name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.0.5"], "conditions": {"ready": True}, "nodeName": "node-1"}],
        "ports": [{"name": "http", "port": 8080}],
    }
    registry.create(ENDPOINTSLICES, endpoint_slice, "default")
    about = {"kind": "Pod", "name": "web-1-a", "namespace": "default", "uid": uid}
    event = {
        "metadata": {"name": "e1"},
        "involvedObject": about,
        "reason": "Started",
        "message": "it runs",
        "type": "Normal",
    }
    registry.create(CORE_EVENTS, event, "default")


async def test_apply_creates_then_finds_unchanged_then_configures(kubectl: Kubectl) -> None:
    manifests = [DEPLOYMENT, SERVICE, DNS]
    assert (await kubectl("apply", "-f", "-", stdin=manifests)).count(" created") == 3
    assert (await kubectl("apply", "-f", "-", stdin=manifests)).count(" unchanged") == 3
    changed = json.loads(json.dumps(DEPLOYMENT))
    changed["spec"]["replicas"] = 4
    changed["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "1"}]
    assert await kubectl("apply", "-f", "-", stdin=[changed]) == "deployment.apps/web configured\n"
    live = await kubectl.json("get", "deploy", "web")
    assert (live["spec"]["replicas"], live["metadata"]["generation"]) == (4, 2)
    assert live["spec"]["template"]["spec"]["containers"][0]["image"] == "echo"
    dns = await kubectl.json("get", "service", "dns")
    assert [port["protocol"] for port in dns["spec"]["ports"]] == ["UDP", "TCP"]


async def test_server_side_apply_and_diff(kubectl: Kubectl) -> None:
    assert "serverside-applied" in await kubectl("apply", "--server-side", "-f", "-", stdin=[SERVICE])
    assert "serverside-applied" in await kubectl("apply", "--server-side", "-f", "-", stdin=[SERVICE])
    other = {**SERVICE, "spec": {**SERVICE["spec"], "selector": {"app": "other"}}}
    refused = await kubectl("apply", "--server-side", "--field-manager=someone", "-f", "-", stdin=[other], status=1)
    assert 'conflict with "kubectl"' in refused
    difference = await kubectl("diff", "--server-side", "-f", "-", stdin=[other], status=1)
    assert "+    app: other" in difference
    assert (await kubectl.json("get", "svc", "web"))["spec"]["selector"] == {"app": "web"}


async def test_get_prints_the_usual_tables(server: ApiServer, kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=[DEPLOYMENT, SERVICE])
    populate(server)
    for words, columns, cells in (
        (["svc", "web"], "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE", "web ClusterIP"),
        (
            ["pods", "-o", "wide"],
            "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES",
            "1/1 Running 0",
        ),
        (["nodes"], "NAME STATUS ROLES AGE VERSION", "node-1 Ready <none>"),
        (["deploy", "-o", "wide"], "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR", "web 0/2 0 0"),
        (["endpointslices"], "NAME ADDRESSTYPE PORTS ENDPOINTS AGE", "web-x IPv4 8080 10.244.0.5"),
        (["ns"], "NAME STATUS AGE", "default Active"),
        (["events"], "LAST SEEN TYPE REASON OBJECT MESSAGE", "Normal Started pod/web-1-a it runs"),
        (["servicecidrs"], "NAME CIDRS AGE", "kubernetes 10.96.0.0/12,fd00:10:96::/112"),
        (["sa", "-A"], "", ""),
    ):
        printed = " ".join((await kubectl("get", *words)).split())
        assert printed.startswith(columns), words
        assert cells in printed, words
    everything = await kubectl("get", "all", "-A")
    assert "service/web" in everything
    assert "deployment.apps/web" in everything


async def test_describe_shows_objects_with_what_belongs_to_them(server: ApiServer, kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=[DEPLOYMENT, SERVICE])
    populate(server)
    assert "10.244.0.5:8080" in await kubectl("describe", "service", "web")
    assert "it runs" in await kubectl("describe", "pod", "web-1-a")
    assert "2 desired" in await kubectl("describe", "deployment", "web")
    assert "10.244.0.5" in await kubectl("describe", "endpointslice", "web-x")
    assert "web-1-a" in await kubectl("describe", "node", "node-1")


async def test_imperative_commands_change_what_they_name(kubectl: Kubectl) -> None:
    await kubectl("create", "namespace", "shop")
    await kubectl("create", "deployment", "web", "--image=echo", "-n", "shop")
    await kubectl("expose", "deployment", "web", "--port=80", "-n", "shop")
    await kubectl("scale", "deployment", "web", "--replicas=3", "-n", "shop")
    await kubectl("set", "image", "deployment/web", "echo=echo:2", "-n", "shop")
    live = await kubectl.json("get", "deployment", "web", "-n", "shop")
    assert (live["spec"]["replicas"], live["spec"]["template"]["spec"]["containers"][0]["image"]) == (3, "echo:2")
    await kubectl("label", "service", "web", "tier=front", "-n", "shop")
    await kubectl("annotate", "service", "web", "note=x", "-n", "shop")
    await kubectl("patch", "service", "web", "-n", "shop", "-p", '{"spec":{"type":"NodePort"}}')
    operations = '[{"op":"replace","path":"/spec/ports/0/port","value":81}]'
    await kubectl("patch", "service", "web", "-n", "shop", "--type=json", "-p", operations)
    service = await kubectl.json("get", "service", "-n", "shop", "-l", "tier=front")
    assert [port["port"] for port in service["items"][0]["spec"]["ports"]] == [81]
    assert service["items"][0]["spec"]["ports"][0]["nodePort"] in range(30000, 32768)
    await kubectl("delete", "namespace", "shop")
    assert "not found" in await kubectl("get", "namespace", "shop", status=1)


async def test_edit_sends_a_patch_of_the_edited_object(kubectl: Kubectl, tmp_path: Path) -> None:
    await kubectl("apply", "-f", "-", stdin=[SERVICE])
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/targetPort: http/targetPort: 9090/" "$1"\n')
    editor.chmod(0o755)
    await kubectl("edit", "service", "web", KUBE_EDITOR=str(editor))
    assert (await kubectl.json("get", "service", "web"))["spec"]["ports"][0]["targetPort"] == 9090


async def test_replace_refuses_a_stale_object(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=[SERVICE])
    old = await kubectl.json("get", "service", "web")
    await kubectl("label", "service", "web", "a=b")
    assert "Conflict" in await kubectl("replace", "-f", "-", stdin=[old], status=1)


async def test_refusals_read_as_usual(kubectl: Kubectl) -> None:
    bad = {**SERVICE, "spec": {"ports": [{"port": 70000}]}}
    assert "spec.ports[0].port: Invalid value: 70000" in await kubectl("apply", "-f", "-", stdin=[bad], status=1)
    assert 'services "none" not found' in await kubectl("get", "service", "none", status=1)
    assert "already exists" in await kubectl("create", "namespace", "default", status=1)
    away = {**SERVICE, "metadata": {"name": "web", "namespace": "nowhere"}}
    assert 'namespaces "nowhere" not found' in await kubectl("apply", "-f", "-", stdin=[away], status=1)


async def test_watch_prints_each_change_as_a_row(server: ApiServer, kubectl: Kubectl) -> None:
    process = await kubectl.start("get", "services", "-w")
    assert process.stdout is not None
    try:
        rows: list[str] = []
        applied = False
        while not any("NodePort" in row for row in rows):
            rows.append((await asyncio.wait_for(process.stdout.readline(), DEADLINE_SECONDS)).decode())
            if len(rows) == 2:
                await kubectl("apply", "-f", "-", stdin=[SERVICE])
                applied = True
            if applied and len(rows) == 3:
                await kubectl("patch", "service", "web", "-p", '{"spec":{"type":"NodePort"}}')
        assert rows[0].split()[:3] == ["NAME", "TYPE", "CLUSTER-IP"]
        assert [row.split()[:2] for row in rows[1:]] == [
            ["kubernetes", "ClusterIP"],
            ["web", "ClusterIP"],
            ["web", "NodePort"],
        ]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_wait_and_rollout_status_end_when_the_status_says_so(server: ApiServer, kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=[DEPLOYMENT])
    waits = asyncio.gather(
        kubectl("wait", "deployment/web", "--for=condition=Available", "--timeout=30s"),
        kubectl("rollout", "status", "deployment/web", "--timeout=30s"),
    )
    while server.stats.open_watches["deployments"] < 2:
        assert not waits.done()
        await asyncio.sleep(0.01)
    status = {
        "observedGeneration": 1,
        "replicas": 2,
        "updatedReplicas": 2,
        "readyReplicas": 2,
        "availableReplicas": 2,
        "conditions": [{"type": "Available", "status": "True"}],
    }
    merge(server, DEPLOYMENTS, "web", {"status": status}, "status")
    waited, rolled = await waits
    assert "condition met" in waited
    assert "successfully rolled out" in rolled


async def test_delete_of_a_running_pod_waits_until_it_is_gone(server: ApiServer, kubectl: Kubectl) -> None:
    populate(server)
    deleting = asyncio.create_task(kubectl("delete", "pod", "web-1-a"))
    while b"deletionTimestamp" not in server.registry.get(PODS, "default", "web-1-a").encoded:
        assert not deleting.done()
        await asyncio.sleep(0.01)
    assert "Terminating" in await kubectl("get", "pods")
    server.registry.delete(PODS, "default", "web-1-a", DeleteOptions(grace_period_seconds=0))
    assert "deleted" in await deleting


async def test_api_resources_and_version_are_told(kubectl: Kubectl) -> None:
    printed = await kubectl("api-resources", "-o", "name")
    assert {"services", "endpointslices.discovery.k8s.io", "servicecidrs.networking.k8s.io"} <= set(printed.split())
    assert "v1.36" in (await kubectl.json("version"))["serverVersion"]["gitVersion"]
    assert (await kubectl("auth", "can-i", "create", "pods")).strip() == "yes"
