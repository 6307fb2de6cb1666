# SPDX-License-Identifier: Apache-2.0
"""Ends flows that go where the plan no longer sends them: after a change is acknowledged, in a thread, never before.

The reconciler says what it programs (`Flows`); what that leaves suspect adds up in a `FlowIndex`. `run` looks into it
at once, and then rests nine times as long as it took, so at most a tenth of one core goes into this however large the
table and however many the changes; changes during the rest are looked into together. A look costs a walk of the table
inside the kernel for each suspect endpoint or place, or one dump when there are many, and one deletion for each stale
flow. See `core.stale_flows` for what stale means.

No flow is ended before a planner has confirmed the plan: a plan from disk may be older than what the kernel has.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import structlog

from pointsman_chassis.backoff import Backoff
from pointsman_chassis.clock import Clock
from pointsman_enforcer.core.stale_flows import Flow, FlowIndex, Query, Suspects
from pointsman_enforcer.dataplane.conntrack.metrics import ConntrackMetrics
from pointsman_enforcer.dataplane.conntrack.table import ConntrackTable, InterruptedDumpError
from pointsman_model.names import Prefix, ServiceKey
from pointsman_model.plan import ServicePlan

_ADVICE: Final = {
    errno.EPERM: "it needs CAP_NET_ADMIN in the node's network namespace",
    errno.EINVAL: "load the kernel module nf_conntrack_netlink",
    errno.EOPNOTSUPP: "load the kernel module nf_conntrack_netlink",
    errno.EPROTONOSUPPORT: "this kernel has no netfilter netlink",
}


class Table(Protocol):
    """The connection table, as ConntrackTable offers it."""

    def end_flows(self, query: Query, is_stale: Callable[[Flow], bool]) -> int:
        """End the stale ones of the flows that a query names; how many there were."""

    def local_addresses(self) -> frozenset[bytes]:
        """The addresses of this node."""

    def stop(self) -> None:
        """Make `end_flows` return soon."""

    def close(self) -> None:
        """Let go of sockets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConntrackLimits:
    """How much of the node this may take."""

    rest_seconds_min: float = 0.05
    rest_seconds_max: float = 10.0
    rest_per_work: float = 9.0
    retry_seconds_initial: float = 1.0
    retry_seconds_max: float = 60.0


class _Share(NamedTuple):
    """What one query came to."""

    family: int
    seconds: float
    ended: int


class ConntrackReconciler:
    """Implements `Flows`. Its methods belong to the event loop; only `_look` runs elsewhere."""

    def __init__(
        self,
        *,
        node_port_blocks: Callable[[], Iterable[Prefix]],
        metrics: ConntrackMetrics,
        clock: Clock,
        open_table: Callable[[], Table] = ConntrackTable,
        limits: ConntrackLimits | None = None,
    ) -> None:
        """`node_port_blocks` says which addresses accept node ports, provided they are the node's own."""
        self._node_port_blocks = node_port_blocks
        self._metrics = metrics
        self._clock = clock
        self._open_table = open_table
        self._limits = limits or ConntrackLimits()
        self._index = FlowIndex()
        self._table: Table | None = None
        self._wanted = asyncio.Event()
        self._is_looking = False
        self._failing = ""
        self._backoff = Backoff(
            initial_seconds=self._limits.retry_seconds_initial, maximum_seconds=self._limits.retry_seconds_max
        )

    def expect(self, key: ServiceKey, plan: ServicePlan) -> None:
        """See `Flows`."""
        self._index.expect(key, plan)

    def programmed(self, key: ServiceKey) -> None:
        """See `Flows`."""
        self._index.programmed(key)

    def suspect_all(self) -> None:
        """See `Flows`."""
        self._index.suspect_all()

    def synced(self, *, is_confirmed: bool) -> None:
        """See `Flows`."""
        if is_confirmed and self._index.has_suspects:
            self._wanted.set()

    @property
    def is_idle(self) -> bool:
        """Whether everything suspect that may be looked into has been."""
        return not (self._wanted.is_set() or self._is_looking)

    async def run(self) -> None:
        """Look into what is suspect, until cancelled."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                self._is_looking = True
                rest = await self._look_once()
                self._is_looking = False
                await self._clock.sleep(rest)
        finally:
            if self._table is not None:
                self._table.stop()

    async def _look_once(self) -> float:
        """One reconcile; how long to rest after it."""
        suspects = self._index.take()
        started = self._clock.monotonic()
        shares: list[_Share] = []
        try:
            await asyncio.to_thread(self._look, suspects, tuple(self._node_port_blocks()), shares)
        except OSError as error:
            self._index.put_back(suspects)
            self._wanted.set()
            self._failed(error)
            return self._backoff.next_seconds()
        finally:
            self._count(shares)
        self._succeeded()
        work = self._clock.monotonic() - started
        limits = self._limits
        return min(max(limits.rest_per_work * work, limits.rest_seconds_min), limits.rest_seconds_max)

    def _look(self, suspects: Suspects, blocks: tuple[Prefix, ...], shares: list[_Share]) -> None:
        """In a thread: ask, judge, end; what came of each query is added to `shares`."""
        if self._table is None:
            self._table = self._open_table()
        table = self._table
        local = table.local_addresses()

        def accepts_node_port(address: bytes) -> bool:
            return address in local and any(block.contains(address) for block in blocks)

        def is_stale(flow: Flow) -> bool:
            return self._index.is_stale(flow, suspects.removed, accepts_node_port)

        for query in suspects.queries():
            started = self._clock.monotonic()
            ended = table.end_flows(query, is_stale)
            shares.append(_Share(query.family, self._clock.monotonic() - started, ended))

    def _count(self, shares: list[_Share]) -> None:
        for family in {share.family for share in shares}:
            mine = [share for share in shares if share.family == family]
            self._metrics.looked(
                family, seconds=sum(share.seconds for share in mine), ended=sum(share.ended for share in mine)
            )
        ended = sum(share.ended for share in shares)
        if ended:
            seconds = round(sum(share.seconds for share in shares), 4)
            log = structlog.get_logger("conntrack")
            log.info("ended stale flows", flows=ended, queries=len(shares), seconds=seconds)

    def _succeeded(self) -> None:
        if self._failing:
            structlog.get_logger("conntrack").info("stale UDP and SCTP flows are ended again")
        self._failing = ""
        self._metrics.is_degraded.set(0)
        self._backoff.reset()

    def _failed(self, error: OSError) -> None:
        """Say it once for each reason; the rest is in the metrics."""
        self._metrics.failures.inc()
        if self._table is not None and not isinstance(error, InterruptedDumpError):
            self._table.close()
            self._table = None
        reason = str(error)
        if reason != self._failing:
            structlog.get_logger("conntrack").warning(
                "stale UDP and SCTP flows cannot be ended; new flows are not affected; trying again",
                error=reason,
                advice=_ADVICE.get(error.errno or 0, ""),
            )
        self._failing = reason
        self._metrics.is_degraded.set(1)
