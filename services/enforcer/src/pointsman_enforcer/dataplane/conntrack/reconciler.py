# SPDX-License-Identifier: Apache-2.0
"""Ends flows that go where the plan no longer sends them: after a change is acknowledged, in a thread, never before.

The reconciler says what it programs (`Flows`); what that leaves suspect adds up in a `FlowIndex`. `run` looks into it
at once, and then rests nine times as long as it took, so at most a tenth of one core goes into this however large the
table and however many the changes; changes during the rest are looked into together. A look costs a walk of the table
inside the kernel for each suspect endpoint or place, or one dump when there are many, and one deletion for each stale
flow. See `core.stale_flows` for what stale means.

No flow is ended before a planner has confirmed the plan: a plan from disk may be older than what the kernel has. But
attempts that were let through while rules were missing are ended at once, without waiting for a planner or the end of a
rest: they are judged by what the kernel has, it costs one walk of the table, and repairs have a pace of their own.
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
from pointsman_enforcer.core.stale_flows import ATTEMPTS, Flow, FlowIndex, Place, Query, Suspects, is_attempt
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
        is_frontend: Callable[[Place], bool],
        metrics: ConntrackMetrics,
        clock: Clock,
        open_table: Callable[[], Table] = ConntrackTable,
        limits: ConntrackLimits | None = None,
    ) -> None:
        """Take no table yet.

        Args:
            node_port_blocks: which addresses accept node ports, provided they are the node's own.
            is_frontend: whether the kernel has rules for a place; asked in a thread.
            metrics: where it is counted.
            clock: for the pace.
            open_table: opens the connection table; called in a thread, and again after a failure.
            limits: see there.
        """
        self._node_port_blocks = node_port_blocks
        self._is_frontend = is_frontend
        self._metrics = metrics
        self._clock = clock
        self._open_table = open_table
        self._limits = limits or ConntrackLimits()
        self._index = FlowIndex()
        self._table: Table | None = None
        self._wanted = asyncio.Event()
        self._urgent = asyncio.Event()
        self._is_confirmed = False
        self._has_attempts = False
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
        self._has_attempts = True

    def synced(self, *, is_confirmed: bool) -> None:
        """See `Flows`."""
        self._is_confirmed = is_confirmed
        if self._has_attempts:
            self._urgent.set()
        if self._has_attempts or (is_confirmed and self._index.has_suspects):
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
                self._urgent.clear()
                self._is_looking = True
                rest = await self._look_once()
                self._is_looking = False
                await self._rest(rest)
        finally:
            if self._table is not None:
                self._table.stop()

    async def _rest(self, seconds: float) -> None:
        """Wait so long, or until something is urgent."""
        timer = self._clock.call_later(seconds, self._urgent.set)
        await self._urgent.wait()
        timer.cancel()

    async def _look_once(self) -> float:
        """One reconcile; how long to rest after it."""
        suspects = self._index.take() if self._is_confirmed else Suspects()
        has_attempts, self._has_attempts = self._has_attempts, False
        started = self._clock.monotonic()
        shares: list[_Share] = []
        try:
            blocks = tuple(self._node_port_blocks())
            await asyncio.to_thread(self._look, suspects, blocks, shares, has_attempts=has_attempts)
        except OSError as error:
            self._index.put_back(suspects)
            self._has_attempts = self._has_attempts or has_attempts
            self._wanted.set()
            self._failed(error)
            return self._backoff.next_seconds()
        finally:
            self._count(shares)
        self._succeeded()
        work = self._clock.monotonic() - started
        limits = self._limits
        return min(max(limits.rest_per_work * work, limits.rest_seconds_min), limits.rest_seconds_max)

    def _look(
        self, suspects: Suspects, blocks: tuple[Prefix, ...], shares: list[_Share], *, has_attempts: bool
    ) -> None:
        """In a thread: ask, judge, end; what came of each query is added to `shares`."""
        if self._table is None:
            self._table = self._open_table()
        table = self._table
        local = table.local_addresses()

        def accepts_node_port(address: bytes) -> bool:
            return address in local and any(block.contains(address) for block in blocks)

        def is_stale(flow: Flow) -> bool:
            return self._index.is_stale(flow, suspects.removed, accepts_node_port)

        def is_attempt_of_ours(flow: Flow) -> bool:
            return is_attempt(flow, self._is_frontend, accepts_node_port)

        looks = [(ATTEMPTS, is_attempt_of_ours)] if has_attempts else []
        for query, is_to_end in [*looks, *((each, is_stale) for each in suspects.queries())]:
            started = self._clock.monotonic()
            ended = table.end_flows(query, is_to_end)
            shares.append(_Share(query.family, self._clock.monotonic() - started, ended))

    def _count(self, shares: list[_Share]) -> None:
        attempts = sum(share.ended for share in shares if share.family == ATTEMPTS.family)
        self._metrics.attempts.inc(attempts)
        for family in {share.family for share in shares} - {ATTEMPTS.family}:
            mine = [share for share in shares if share.family == family]
            self._metrics.looked(
                family, seconds=sum(share.seconds for share in mine), ended=sum(share.ended for share in mine)
            )
        ended = sum(share.ended for share in shares)
        if ended:
            seconds = round(sum(share.seconds for share in shares), 4)
            log = structlog.get_logger("conntrack")
            log.info("ended stale flows", flows=ended, attempts=attempts, queries=len(shares), seconds=seconds)

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
