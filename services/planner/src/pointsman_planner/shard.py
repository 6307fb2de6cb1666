# SPDX-License-Identifier: Apache-2.0
"""This planner among the others: composes membership, handover and entrance, and knows where it can be dialled."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping

from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.lifecycle import task_boundary
from pointsman_planner.api.entrance import Entrance
from pointsman_planner.api.handover import Handover, HandoverPace
from pointsman_planner.api.plan_stream import PlanStream
from pointsman_planner.core.admission import AdmissionLimits
from pointsman_planner.core.ownership import Member
from pointsman_planner.metrics import ShardingMetrics, StoreMetrics
from pointsman_planner.settings import PlannerSettings
from pointsman_planner.store.member_store import MemberStore
from pointsman_planner.store.port import Store
from pointsman_planner.store.replicas import Replicas

_SETTLE_SECONDS = 0.5
"""Time for the other planners to hear that this one drains, before its nodes come to them."""
_WILDCARDS = frozenset({"", "0.0.0.0", "::", "[::]", "*"})  # noqa: S104 - compared with, never listened on


class Shard:
    """Which nodes this planner serves."""

    def __init__(
        self,
        *,
        settings: PlannerSettings,
        planner_id: str,
        store: Store,
        replicas: Replicas,
        metrics: ShardingMetrics,
        store_metrics: StoreMetrics,
        clock: Clock,
    ) -> None:
        self._planner_id = planner_id
        self._drain_seconds = float(settings.drain_period)
        self._clock = clock
        self.handover = Handover(
            planner_id=planner_id,
            pace=HandoverPace(nodes_per_second=settings.sharding.nodes_per_second),
            metrics=metrics,
            clock=clock,
        )
        admission = settings.admission
        self.entrance = Entrance(
            limits=AdmissionLimits(
                slots=admission.slots,
                waiting_max=admission.waiting_max,
                free_buckets=admission.free_buckets,
                slot_seconds=float(admission.slot_timeout),
            ),
            metrics=metrics,
            clock=clock,
        )
        self._members = MemberStore(
            planner_id=planner_id,
            store=store,
            replicas=replicas,
            lease_seconds=float(settings.sharding.lease),
            clock=clock,
            metrics=metrics,
            store_metrics=store_metrics,
            on_change=self.handover.set_members,
        )
        self.is_draining = False

    def join(self, address: str) -> None:
        """This planner is in sync, and enforcers reach it here; without an address it stays alone."""
        if address:
            self._members.join(Member(planner_id=self._planner_id, address=address, instance_id=uuid.uuid4().hex))

    @property
    def members(self) -> tuple[Member, ...]:
        """Planners that serve, as far as is known."""
        return self._members.members

    @property
    def is_frozen(self) -> bool:
        """Whether nobody can know who joins or leaves now."""
        return self._members.is_frozen

    async def run(self, streams: Callable[[], Mapping[str, PlanStream]]) -> None:
        """Hold the lease, and give nodes to whom they belong, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(task_boundary("membership", self._members.run()))
            tasks.create_task(task_boundary("handover", self.handover.run(streams)))

    async def drain(self, streams: Callable[[], Mapping[str, PlanStream]]) -> None:
        """Give all nodes away, if there is anybody to take them, and the lease back."""
        self.is_draining = True
        has_heirs = any(each.planner_id != self._planner_id for each in self._members.members)
        if has_heirs and self._drain_seconds and streams():
            await self._members.drain()
            await self._clock.sleep(min(_SETTLE_SECONDS, self._drain_seconds / 4))
            await self.handover.drain(streams, period_seconds=self._drain_seconds)
        await self._members.leave()


def advertised_address(settings: PlannerSettings, *, port: int, pod_ip: str) -> str:
    """Where enforcers dial this planner; empty when that cannot be known and nobody needs it.

    Raises:
        ConfigError: other planners would send enforcers here, and nobody knows where here is.
    """
    if settings.advertise_address:
        return settings.advertise_address
    tokens = settings.access.tokens
    host = (tokens.listen_address if tokens.is_advertised else settings.listen_address).rpartition(":")[0]
    if host in _WILDCARDS:
        host = f"[{pod_ip}]" if ":" in pod_ip else pod_ip
    if host:
        return f"{host}:{port}"
    if settings.redis_url in ("", "memory://"):
        return ""
    raise ConfigError(
        f"advertiseAddress: listenAddress {settings.listen_address} names no host that enforcers could dial; "
        "set it to host:port of this planner, or POD_IP in the environment"
    )
