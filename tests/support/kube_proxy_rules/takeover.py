# SPDX-License-Identifier: Apache-2.0
"""One takeover, start to end, and what it came to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from conformance.executors.enforcer import Enforcer

from pointsman_enforcer.dataplane.base import Dataplane
from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane
from pointsman_enforcer.dataplane.ipvs.backend import IpvsDataplane
from pointsman_enforcer.dataplane.kube_proxy.takeover import kube_proxy_leftovers
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.userspace.backend import UserspaceDataplane
from pointsman_enforcer.dataplane.xtables.tools import Variant
from support.kube_proxy_rules.plan import node_plan, node_settings
from support.kube_proxy_rules.traffic import KubeTraffic
from support.kube_proxy_rules.world import KubeProxyWorld

OURS: Mapping[str, Callable[[NodeSettings], Dataplane[Any]]] = MappingProxyType(
    {
        "nftables": lambda settings: NftablesDataplane(node_settings=settings),
        "iptables-legacy": lambda settings: IptablesDataplane(node_settings=settings, variant=Variant.LEGACY),
        "iptables-nft": lambda settings: IptablesDataplane(node_settings=settings, variant=Variant.NFT),
        "userspace": lambda settings: UserspaceDataplane(node_settings=settings),
        "ipvs": lambda settings: IpvsDataplane(node_settings=settings),
    }
)
_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """The report."""

    theirs: str
    ours: str
    opened: int
    slow: int
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
    """A kube-proxy's rules under traffic, our enforcer starts, and its leftovers are removed."""
    variant = "legacy" if theirs in ("iptables-legacy", "ipvs") else "nft"
    with KubeProxyWorld(variant) as world:
        before = world.others()
        world.install(theirs)
        with KubeTraffic(world, pause_seconds=pause_seconds) as traffic:
            traffic.settle()
            started = time.monotonic()
            dataplane = world.node.call(partial(OURS[ours], node_settings(world.clusters)))
            enforcer = Enforcer(dataplane)
            enforcer.program(node_plan(world.clusters))
            removed, _ = world.node.call(lambda: asyncio.run(remove()))
            seconds = time.monotonic() - started
            traffic.settle()
        more, looks = world.node.call(lambda: asyncio.run(remove(until_gone=True)))
        left = world.node.call(lambda: asyncio.run(find()))
        after = world.others()
        enforcer.cleanup()
        return Takeover(
            theirs=theirs, ours=ours, opened=traffic.opened, slow=traffic.slow, failed=traffic.failed,
            reset=traffic.reset, removed=removed + more, waited_for=looks, left=left,
            others_before=before, others_after=after, seconds=seconds,
        )  # fmt: skip


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
