# SPDX-License-Identifier: Apache-2.0
"""One node under traffic that changes its mode: the configuration is changed and the enforcer's process restarted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mode_switch.load import Counts, Load, Target

from pointsman_model.names import Family, Protocol, parse_address, parse_prefix
from pointsman_model.plan import Action, Frontend, FrontendKind, NodeFacts, ServicePlan, ServicePortPlan, Verdict
from support.enforcer_plans import cluster_ip, endpoints, key
from support.enforcer_process import EnforcerNode
from support.nft_world import World

NODE_PORT = 30080
_DEADLINE_SECONDS = 300.0
_STOP_SECONDS = 120.0
_AFTER_SECONDS = 0.3
Config = Mapping[str, object]

_DRAIN = {"drainTimeout": "1s"}
ON_HOST: Mapping[str, Config] = {
    "nftables": {"mode": "nftables"},
    "iptables-legacy": {"mode": "iptables", "iptables": {"variant": "legacy"}},
    "iptables-nft": {"mode": "iptables", "iptables": {"variant": "nft"}},
    "userspace": {"mode": "userspace", "userspace": _DRAIN},
}
"""By the name that the report has."""
IN_GUEST: Mapping[str, Config] = {
    "ipvs": {"mode": "ipvs", "iptables": {"variant": "legacy"}},
    "iptables-legacy": ON_HOST["iptables-legacy"],
    "userspace-legacy": {
        "mode": "userspace",
        "userspace": {"redirect": "iptables"},
        "iptables": {"variant": "legacy"},
    },
}
_KINDS = {"userspace": "nftables", "userspace-legacy": "iptables-legacy"}
MODES: Mapping[str, Config] = {**ON_HOST, **IN_GUEST, "auto": {"mode": "auto"}}


class Scene:
    """A world with a node whose plan is on disk, as if its planner had just gone."""

    def __init__(self, world: World, directory: Path) -> None:
        facts = NodeFacts(
            name="node-1",
            addresses=(parse_address(world.at.node),),
            service_cidrs=(parse_prefix(world.at.service_cidr),),
        )
        self.world = world
        self.node = EnforcerNode(world.node, directory, facts)

    def switch(self, before: str, after: str) -> Counts:
        """From one mode to another under traffic; what came of it.

        Raises:
            AssertionError: the enforcer ended, or was not done in time, or leftovers are still there.
        """
        try:
            with self.running(before) as process:
                with Load(self._targets()) as load:
                    process.terminate()
                    process.wait(_STOP_SECONDS)
                    with self.running(after):
                        time.sleep(_AFTER_SECONDS)
                        load.stop()
                expected = {self.kind_of(after)} | ({"ipvs"} if before == "ipvs" else set())
                assert self.kinds() <= expected, self.kinds()  # IPVS goes with its last connection
        finally:
            self.node.command("--cleanup")
        assert self.kinds() == set()
        return load.counts

    def kinds(self) -> set[str]:
        """Whose rules of ours are in the kernel."""
        run = self.world.node.run
        found = set()
        if "table ip pointsman {" in run("nft", "list", "ruleset", check=False):
            found.add("nftables")
        for variant in ("legacy", "nft"):
            saved = run(f"iptables-{variant}-save", check=False)
            chains = {line.split()[0] for line in saved.splitlines() if line.startswith(":POINTSMAN-")}
            if any(chain.startswith(":POINTSMAN-IPVS-") for chain in chains):
                found.add("ipvs")
            if any(not chain.startswith(":POINTSMAN-IPVS-") for chain in chains):
                found.add(f"iptables-{variant}")
        return found

    def kind_of(self, mode: str) -> str:
        """Whose rules a mode has."""
        return _KINDS.get(mode, mode)

    def _targets(self) -> list[Target]:
        at = self.world.at
        return [
            Target(client=self.world.pod, address=at.cluster_ip, port=80),
            Target(client=self.world.client, address=at.node, port=NODE_PORT),
        ]

    def configure(self, mode: str) -> None:
        """What the next enforcer reads."""
        self.node.configure(clusterCIDR=self.world.at.pods, **MODES[mode])

    @contextmanager
    def running(self, mode: str, by: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
        """An enforcer in this mode that has programmed everything, and left no leftover that can go.

        `by` is a program that runs it.
        """
        self.configure(mode)
        if not (self.node.directory / "plan.log").exists():
            self.node.write_plan({key(1): _service(self.world), key(2): _node_port(self.world)})
        log = self.node.directory / f"log-{mode}"
        argv = (*by, sys.executable, "-m", "pointsman_enforcer", "--config", str(self.node.config_file))
        with log.open("wb") as output:
            process = self.world.node.popen(*argv, stderr=output, stdout=output)
        try:
            _wait(lambda: self._is_done(process), log)
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(_STOP_SECONDS)

    def _is_done(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, "the enforcer ended"
        body = self.world.node.run("curl", "-s", "http://127.0.0.1:10249/statusz", check=False)
        if not body:
            return False
        leftovers = json.loads(body)["leftovers"]
        waiting = [each for each in leftovers["found"].values() if each["waiting"]]
        return leftovers["state"] == "gone" or bool(waiting)


def _service(world: World) -> ServicePlan:
    chosen = endpoints(world.at.pod1, world.at.pod2)
    return ServicePlan(
        ports=tuple(cluster_ip(world.at.cluster_ip, 80, chosen, each) for each in (Protocol.TCP, Protocol.UDP))
    )


def _node_port(world: World) -> ServicePlan:
    verdict = Verdict(Action.FORWARD, 0, masquerade=True)
    frontend = Frontend(FrontendKind.NODE_PORT, b"", NODE_PORT, verdict, verdict, verdict)
    return ServicePlan(
        ports=tuple(
            ServicePortPlan(
                name="",
                protocol=protocol,
                family=Family.IPV4,
                frontends=(frontend,),
                endpoint_sets=(endpoints(world.at.pod1, world.at.pod2),),
            )
            for protocol in (Protocol.TCP, Protocol.UDP)
        )
    )


def _wait(holds: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except AssertionError as error:
            raise AssertionError(f"{error}: {log.read_text()}") from error
        time.sleep(0.02)
    raise AssertionError(log.read_text())
