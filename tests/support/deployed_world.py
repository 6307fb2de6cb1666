# SPDX-License-Identifier: Apache-2.0
"""One node on which rendered manifests run: an API server, Redis, a container for each service; one network for all."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from pointsman_lab.apiserver.identities import API_AUDIENCE, account_holder, web_token
from pointsman_lab.supervise.redis import find_redis
from support.certificates import Authority
from support.container import Node, give, start
from support.deployed_cluster_main import NODE
from support.manifests import ROOT, SERVICES, Manifest, config_layers, container_of, pod_of, workloads
from support.netns import NetNs

ADDRESS: Final = "10.0.0.10"
DEADLINE_SECONDS: Final = 40.0


class DeployedNode:
    """The node; `processes` by service, each started as its manifest says."""

    def __init__(self, namespace: NetNs, directory: Path, manifests: tuple[Manifest, ...]) -> None:
        self.namespace, self.directory, self.manifests = namespace, directory, manifests
        self.workloads = workloads(manifests)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.state = self._folder("state")
        self._node = Node(name=NODE, address=ADDRESS, hosts=self._hosts(), volumes=self._volumes())

    def start(self, service: str, environment: Path, *, workload: Manifest | None = None) -> None:
        """Run a service's container, of these manifests or of another rendering of them."""
        root = self._folder(f"container-{service}-{time.monotonic_ns()}")
        workload = workload or self.workloads[service]
        self.processes[service] = start(self.namespace, self._node, workload, environment=environment, root=root)

    def stop(self, service: str, *, within_seconds: float = DEADLINE_SECONDS) -> int:
        """End it as a kubelet does; its exit status."""
        process = self.processes.pop(service)
        process.terminate()
        return process.wait(timeout=within_seconds)

    def probe(self, service: str, kind: str) -> int:
        """HTTP status of one of its probes as the manifest has it; 0 = nobody answers."""
        container = container_of(self.workloads[service])
        probe = container[kind]["httpGet"]
        [port] = [each["containerPort"] for each in container["ports"] if each["name"] == probe["port"]]
        return self.namespace.call(lambda: _status(f"http://{ADDRESS}:{port}{probe['path']}"))

    def is_ready(self) -> bool:
        """Whether all services that run are."""
        return all(self.probe(service, "readinessProbe") == 200 for service in self.processes)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until it holds; a process that ends meanwhile, or the deadline, fails with everybody's output."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            assert not ended, f"{ended} ended\n{self.output()}"
            assert time.monotonic() < deadline, f"{what}\n{self.output()}"
            time.sleep(0.05)

    def output(self, service: str = "") -> str:
        """What the containers wrote."""
        return "\n".join(path.read_text() for path in self.directory.glob(f"container-{service}*/output"))

    def _folder(self, name: str) -> Path:
        made = self.directory / name
        made.mkdir(exist_ok=True)
        return made

    def _hosts(self) -> Mapping[str, str]:
        names = ("pointsman-redis.pointsman-redis.svc", "pointsman-watcher.pointsman-system.svc")
        return {NODE: ADDRESS} | {f"{name}.cluster.local": "127.0.0.1" for name in names}

    def _volumes(self) -> Mapping[str, Path]:
        tokens = json.loads((self.directory / "tokens.json").read_text())
        by_account = {each["account"]: token for token, each in tokens.items()}
        found = {"/var/lib/pointsman": self.state, "/run/xtables.lock": self.directory / "xtables.lock"}
        found["/proc/sys/net"] = Path("/proc/sys/net")
        found["/run/xtables.lock"].touch()
        certificates = _certificates(self._folder("authority"))
        for service in SERVICES:
            config = self._folder(f"config-{service}")
            for name, text in config_layers(self.manifests, service).items():
                (config / name).write_text(text)
            volumes = pod_of(self.workloads[service])["volumes"]
            [name] = [each["configMap"]["name"] for each in volumes if "configMap" in each]
            found[name] = config
            account = self._folder(f"account-{service}")
            (account / "token").write_text(by_account[f"pointsman-system/pointsman-{service}"])
            (account / "ca.crt").write_bytes((self.directory / f"{ADDRESS}.ca.pem").read_bytes())
            found[f"pointsman-{service}"] = give(account, group=65532, mode=0o444)
        for secret in ("pointsman-watcher-tls", "pointsman-planner-tls"):
            found[secret] = self._files(secret, certificates[secret])
        token = {"token": by_account["pointsman-system/pointsman-enforcer"]}
        found["identity"] = self._files("identity", {**certificates["pointsman-ca"], **token})
        return found

    def _files(self, name: str, files: Mapping[str, str]) -> Path:
        folder = self._folder(f"volume-{name}")
        for file, content in files.items():
            (folder / file).write_text(content)
        return give(folder, group=65532)


@contextmanager
def deployed_node(directory: Path, manifests: tuple[Manifest, ...]) -> Iterator[DeployedNode]:
    """The node with an API server and Redis, and no service started yet; ends what was started."""
    accounts = {"watcher": API_AUDIENCE, "planner": API_AUDIENCE, "enforcer": "pointsman-planner"}
    tokens = {}
    for service, audience in accounts.items():
        holder = account_holder("pointsman-system", f"pointsman-{service}", audience=audience, node=NODE)
        account = f"pointsman-system/pointsman-{service}"
        tokens[web_token(holder)] = {"account": account, "audience": audience, "node": NODE}
    directory.mkdir(exist_ok=True)
    (directory / "tokens.json").write_text(json.dumps(tokens))
    Authority("cluster").issue(directory, ADDRESS)
    with ExitStack() as stack:
        namespace = stack.enter_context(NetNs("deployed"))
        namespace.address("lo", f"{ADDRESS}/32")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        argv = (sys.executable, "-m", "support.deployed_cluster_main", ADDRESS, str(directory))
        stack.enter_context(_running(namespace, *argv, environment=environment, log=directory / "container-api"))
        redis = container_of(workloads(manifests)["redis"])
        arguments = redis["args"]
        log = directory / "container-redis"
        stack.enter_context(_running(namespace, find_redis(), *arguments, environment=environment, log=log))
        node = DeployedNode(namespace, directory, manifests)
        node.wait((directory / "ready").exists, "the API server")
        try:
            yield node
        finally:
            for process in node.processes.values():
                process.kill()
                process.wait()


@contextmanager
def _running(namespace: NetNs, *argv: str, environment: Mapping[str, str], log: Path) -> Iterator[None]:
    log.mkdir()
    with (log / "output").open("ab") as output:
        process = namespace.popen(*argv, env=environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _certificates(directory: Path) -> dict[str, dict[str, str]]:
    """Object name -> file name -> content, of what deploy/certificates.sh prints."""
    script = ROOT / "deploy/certificates.sh"
    printed = subprocess.run([str(script), str(directory)], capture_output=True, text=True, check=True).stdout
    found: dict[str, dict[str, Any]] = {}
    for each in yaml.safe_load_all(printed):
        is_secret = each["kind"] == "Secret"
        data = each["data"]
        found[each["metadata"]["name"]] = {
            name: base64.b64decode(value).decode() if is_secret else value for name, value in data.items()
        }
    return found


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - an address of the test's own
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
