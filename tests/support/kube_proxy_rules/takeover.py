# SPDX-License-Identifier: Apache-2.0
"""One takeover, start to end, and what it came to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

from pointsman_enforcer.dataplane.kube_proxy.pace import TakeoverState
from pointsman_enforcer.dataplane.kube_proxy.takeover import kube_proxy_leftovers
from support.enforcer_process import EnforcerNode
from support.kube_proxy_rules.plan import node_plan
from support.kube_proxy_rules.planner import planner_of
from support.kube_proxy_rules.traffic import KubeTraffic
from support.kube_proxy_rules.world import KubeProxyWorld

OURS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "nftables": {"mode": "nftables"},
        "iptables-legacy": {"mode": "iptables", "iptables": {"variant": "legacy"}},
        "iptables-nft": {"mode": "iptables", "iptables": {"variant": "nft"}},
        "userspace": {"mode": "userspace"},
        "ipvs": {"mode": "ipvs", "iptables": {"variant": "legacy"}},
    }
)
"""Our modes, as configured."""
_OVER = (TakeoverState.REMOVED.value, TakeoverState.DRAINING.value)
_WAIT_SECONDS = 180.0
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """The report."""

    theirs: str
    ours: str
    opened: int
    slow: int
    slow_before: int
    """Those of them that were slow before our enforcer was started."""
    failed: list[str]
    reset: list[str]
    removed: int
    waited_for: int
    """Looks at which something was still kept for its connections."""
    left: list[str]
    """What is found of kube-proxy afterwards."""
    others_before: str
    others_after: str
    seconds: float
    """From the start of our enforcer until all is removed that carries no connection."""

    @property
    def is_good(self) -> bool:
        return not (self.failed or self.reset or self.left) and self.others_before == self.others_after


def take_over(theirs: str, ours: str, *, pause_seconds: float = 0.005) -> Takeover:
    """A kube-proxy's rules under traffic; an enforcer starts, and removes them once its own are verified."""
    variant = "legacy" if theirs in ("iptables-legacy", "ipvs") else "nft"
    with KubeProxyWorld(variant) as world:
        before = world.others()
        world.install(theirs)
        with Node(world) as node, KubeTraffic(world, pause_seconds=pause_seconds) as traffic:
            traffic.settle()
            slow, started = traffic.slow, time.monotonic()
            with node.running(ours):
                removed = node.wait_removed()
                seconds = time.monotonic() - started
                traffic.settle()
                traffic.stop()
        more, looks = world.node.call(lambda: asyncio.run(remove(until_gone=True)))
        left = world.node.call(lambda: asyncio.run(find()))
        after = world.others()
        return Takeover(
            theirs=theirs, ours=ours, opened=traffic.opened, slow=traffic.slow, slow_before=slow, failed=traffic.failed,
            reset=traffic.reset, removed=removed + more, waited_for=looks, left=left,
            others_before=before, others_after=after, seconds=seconds,
        )  # fmt: skip


class Node:
    """Enforcers on a world's node, and the planner that they follow; a context manager."""

    def __init__(self, world: KubeProxyWorld) -> None:
        self._world = world
        self._plan = node_plan(world.clusters)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-takeover-")))
            self._planner = stack.enter_context(planner_of(self._world.node, self._plan))
            self._node = EnforcerNode(self._world.node, self.directory, self._plan.facts)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @contextmanager
    def running(self, mode: str) -> Iterator[None]:
        """An enforcer, which is asked to end at the end."""
        pods = ",".join(each.at.pods for each in self._world.clusters)
        self._node.configure(clusterCIDR=pods, plannerAddresses=[self._planner], **OURS[mode])
        argv = (sys.executable, "-m", "pointsman_enforcer", "--config", str(self._node.config_file))
        with (self.directory / "log").open("ab") as log:
            process = self._world.node.popen(*argv, stderr=log, stdout=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(_WAIT_SECONDS)

    def command(self, *arguments: str) -> str:
        """Run the enforcer's command to its end."""
        return self._node.command(*arguments)

    def wait_removed(self) -> int:
        """Wait until the enforcer has removed what it can of kube-proxy's; how many objects."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < deadline:
            body = self._world.node.run("curl", "-s", "http://127.0.0.1:10249/statusz", check=False)
            seen = json.loads(body or "{}").get("kubeProxy", {})  # absent until the enforcer has begun
            if seen.get("state") in _OVER:
                return int(seen["removed"])
            time.sleep(_LOOK_SECONDS)
        raise AssertionError((self.directory / "log").read_text())


async def find() -> list[str]:
    """What is there of kube-proxy."""
    return [words for each in kube_proxy_leftovers() if (words := await each.find())]


async def remove(*, until_gone: bool = False) -> tuple[int, int]:
    """Remove kube-proxy's leftovers once, or until none is left; how many objects, and how many looks had to wait."""
    leftovers = kube_proxy_leftovers()
    deadline = time.monotonic() + _WAIT_SECONDS
    removed = looks = 0
    while True:
        for each in leftovers:
            if await each.find():
                removed += await each.remove()
        if not (until_gone and any(each.is_waiting for each in leftovers)):
            return removed, looks
        looks += 1
        assert time.monotonic() < deadline, [await each.find() for each in leftovers]
        await asyncio.sleep(_LOOK_SECONDS)
