# SPDX-License-Identifier: Apache-2.0
"""Removes what kube-proxy left once our own rules are verified, and says so when a kube-proxy goes on beside us.

verified() --> look: process? --> nothing is removed while it runs
                     rules?   --> removed; again after a pause that doubles, if they come back
                     nothing  --> looked for some minutes more, then only for a process
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from pointsman_chassis.clock import Clock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.dataplane.kube_proxy import running
from pointsman_enforcer.dataplane.kube_proxy.iptables import KubeProxyIptables
from pointsman_enforcer.dataplane.kube_proxy.ipvs import KubeProxyIpvs
from pointsman_enforcer.dataplane.kube_proxy.nftables import KubeProxyNftables
from pointsman_enforcer.dataplane.kube_proxy.pace import RUNNING, TakeoverBook, TakeoverState
from pointsman_enforcer.dataplane.leftovers import Leftover, LeftoverError
from pointsman_enforcer.dataplane.xtables.tools import Variant

_HINT: Final = "another process listens at port 10256, where kube-proxy serves its health page"


def kube_proxy_leftovers() -> tuple[Leftover, ...]:
    """Everything that a kube-proxy leaves, in the order of removal: rules before the sets that they ask."""
    return (*(KubeProxyIptables(variant) for variant in Variant), KubeProxyIpvs(), KubeProxyNftables())


class TakeoverMetrics:
    """Made once by the composition root."""

    def __init__(self, registry: Registry) -> None:
        self.is_running = registry.gauge(
            "pointsman_enforcer_kube_proxy_running", "1 while a kube-proxy runs on this node and keeps its rules"
        )
        self.removed = registry.counter(
            "pointsman_enforcer_kube_proxy_objects_removed_total",
            "Chains, rules, sets and the like of kube-proxy removed",
        )
        self.returns = registry.counter(
            "pointsman_enforcer_kube_proxy_returns_total",
            "Times rules of kube-proxy were found again after their removal",
        )
        self.failures = registry.counter(
            "pointsman_enforcer_kube_proxy_failures_total", "Times rules of kube-proxy could not be read or removed"
        )


class KubeProxyTakeover:
    """One node's. `run` works in the network namespace of the thread that runs the event loop."""

    def __init__(
        self,
        leftovers: Sequence[Leftover],
        *,
        clock: Clock,
        metrics: TakeoverMetrics,
        book: TakeoverBook | None = None,
        find_process: Callable[[], int] = running.process,
        is_port_taken: Callable[[], bool] = running.is_port_taken,
    ) -> None:
        self._leftovers = leftovers
        self._clock = clock
        self._metrics = metrics
        self._book = book or TakeoverBook()
        self._find_process = find_process
        self._is_port_taken = is_port_taken
        self._verified = asyncio.Event()
        self._gone: set[str] = set()
        """Names of leftovers that were removed: one that is found once more came back."""
        self._told = (TakeoverState.NOT_YET, 0)
        self._words = ""
        self._troubles = ""
        self._removed = 0

    @property
    def state(self) -> TakeoverState:
        """Where it stands."""
        return self._book.state

    def describe(self) -> dict[str, object]:
        """For the status page."""
        return {
            "state": self._book.state.value,
            "found": self._words,
            "removed": self._removed,
            "returns": self._book.returns,
        }

    def verified(self) -> None:
        """Our rules are in the kernel, all of them, and were read back where that can be done. May be called again."""
        self._verified.set()

    async def run(self) -> None:
        """Look, remove, look again; never ends by itself."""
        await self._verified.wait()
        while True:
            await self._clock.sleep(await self.step())

    async def step(self) -> float:
        """One look, and what follows from it; seconds until the next."""
        number = await asyncio.to_thread(self._find_process)
        if number:
            pause = self._book.seen_process()
            self._words = f"process {number}"
        elif not self._book.looks_for_rules:
            pause = self._book.seen_nothing()
        else:
            pause = await self._look()
        self._tell()
        return pause

    async def _look(self) -> float:
        """Find and remove; a leftover that makes trouble does not keep the others."""
        found: dict[Leftover, str] = {}
        troubles: list[str] = []
        for each in self._leftovers:
            try:
                words = await each.find()
            except LeftoverError as error:
                troubles.append(str(error))
            else:
                found.update({each: words} if words else {})
        self._words = "; ".join(f"{each.name}: {words}" for each, words in found.items())
        if any(each.name in self._gone for each in found):
            self._gone.clear()
            self._metrics.returns.inc()
            return self._book.seen_return()
        for each in found:
            try:
                await self._remove(each)
            except LeftoverError as error:
                troubles.append(str(error))
        self._tell_troubles("; ".join(troubles))
        if troubles:
            return self._book.failed()
        if not found:
            return self._book.seen_nothing()
        return self._book.removed(is_waiting=any(each.is_waiting for each in found))

    async def _remove(self, leftover: Leftover) -> None:
        count = await leftover.remove()
        self._metrics.removed.inc(count)
        self._removed += count
        if not leftover.is_waiting:
            self._gone.add(leftover.name)
        if count:
            log = structlog.get_logger("kube-proxy")
            log.info("removed what kube-proxy left", what=leftover.name, objects=count, waits=leftover.is_waiting)

    def _tell_troubles(self, troubles: str) -> None:
        """Count each time, but say the same only once."""
        if troubles:
            self._metrics.failures.inc()
        if troubles and troubles != self._troubles:
            log = structlog.get_logger("kube-proxy")
            log.error("something of kube-proxy could not be read or removed; trying again", error=troubles)
        self._troubles = troubles

    def _tell(self) -> None:
        """Each change of state once, and each return."""
        state = self._book.state
        self._metrics.is_running.set(state is TakeoverState.RUNNING)
        if (state, self._book.returns) == self._told:
            return
        self._told = (state, self._book.returns)
        log = structlog.get_logger("kube-proxy")
        if state is TakeoverState.RUNNING:
            hint = _HINT if self._is_port_taken() else ""
            log.warning(RUNNING, seen=self._words, returns=self._book.returns, hint=hint)
        else:
            log.info(state.value, seen=self._words)
