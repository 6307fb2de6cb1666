# SPDX-License-Identifier: Apache-2.0
"""Session affinity between nodes: tells the planner of this node's exceptions, and has the kernel remember others'.

    AffinitySweep --looked--> exceptions of the services that others reach, too --ExceptionBook--> tell
    planner --received--> PendingSeeds --once their service is programmed--> AffinityMemory.seed

Neither is on the way of a plan: both run in tasks of their own, in small steps, and lose nothing but time when they
fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from pointsman_chassis.clock import Clock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.exception_book import ExceptionBook, endpoints_of, shared_ports
from pointsman_enforcer.core.pending_seeds import PendingSeeds
from pointsman_enforcer.dataplane.affinity import AffinityClient, AffinityMemory, Look
from pointsman_enforcer.dataplane.base import KernelError
from pointsman_model.names import Protocol, ServiceKey, ServicePortName
from pointsman_model.plan import ServicePlan
from pointsman_model.remembered import ClientKey, RememberedClient
from pointsman_model.wire.plan import PlanFormatError, decode_service_plan

TELL_MAX: Final = 10_000
"""Exceptions that are told after one look; the others come after the next one."""
REST_PER_WORK: Final = 9.0
"""A tenth of a core at most goes into comparing."""
_STEP: Final = 500
"""Clients between which others may run."""
_RETRY_SECONDS: Final = 1.0


class AffinityShareMetrics:
    """What is shared with other nodes. Made once by the composition root."""

    def __init__(self, registry: Registry) -> None:
        prefix = "pointsman_enforcer_affinity"
        self.exceptions = registry.gauge(
            f"{prefix}_exceptions",
            "Clients that other nodes would send elsewhere and that may come to them, as the last look saw them",
        )
        self.told = registry.counter(f"{prefix}_exceptions_told_total", "Exceptions that the planner was told of")
        self.received = registry.counter(f"{prefix}_exceptions_received_total", "Exceptions that the planner told of")
        self.seeded = registry.counter(
            f"{prefix}_seeded_total", "Clients of other nodes that the kernel was made to remember, or for longer"
        )
        self.left_out = registry.counter(
            f"{prefix}_seeds_left_out_total",
            "Clients of other nodes that were not: waited (for an endpoint or a kernel that takes them), full",
            ["reason"],
        )


class AffinityShare:
    """Both directions of one node. `run` it; everything else is called on the loop and is quick."""

    def __init__(
        self,
        *,
        memory: AffinityMemory,
        plan_of: Callable[[ServiceKey], bytes | None],
        rendering_of: Callable[[ServiceKey], bytes],
        is_dirty: Callable[[ServiceKey], bool],
        tell: Callable[[Sequence[RememberedClient]], bool],
        look_again: Callable[[], None],
        metrics: AffinityShareMetrics,
        clock: Clock,
    ) -> None:
        """`tell` says whether there is a planner that wants to know; `look_again` asks for another look."""
        self._memory = memory
        self._plan_of = plan_of
        self._rendering_of = rendering_of
        self._is_dirty = is_dirty
        self._tell = tell
        self._look_again = look_again
        self._metrics = metrics
        self._clock = clock
        self._book = ExceptionBook()
        self._seeds = PendingSeeds()
        self._shared: dict[ServiceKey, None] = {}
        self._looked = asyncio.Event()
        self._arrived = asyncio.Event()

    def programmed(self, key: ServiceKey, plan: ServicePlan) -> None:
        """The kernel has a service like this; an empty plan when it is gone."""
        if shared_ports(plan).ports:
            self._shared[key] = None
        else:
            self._shared.pop(key, None)
        if len(self._seeds):
            self._arrived.set()

    def looked(self, look: Look) -> None:
        """The memory of clients was read."""
        if look.clients:
            self._looked.set()
        else:
            self._metrics.exceptions.set(0)

    def planner_changed(self) -> None:
        """Another planner, or the same one anew, wants to know of exceptions."""
        self._book.forget()
        self._look_again()

    def received(self, clients: Sequence[RememberedClient]) -> None:
        """The planner told of exceptions."""
        now = self._clock.monotonic()
        self._metrics.received.inc(len(clients))
        left_out = self._seeds.put(self._book.learned(clients, now), now)
        self._metrics.left_out.labels("full").inc(left_out)
        self._arrived.set()

    async def run(self) -> None:
        """Share, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._compare())
            tasks.create_task(self._seed())

    # -- out ---------------------------------------------------------------------------------------------------------

    async def _compare(self) -> None:
        while True:
            await self._looked.wait()
            self._looked.clear()
            started = self._clock.monotonic()
            await self._tell_exceptions()
            await self._clock.sleep(REST_PER_WORK * (self._clock.monotonic() - started))

    async def _tell_exceptions(self) -> None:
        """One pass over the clients of all services that others reach, too; others run in between."""
        due: list[RememberedClient] = []
        count = 0
        for key in tuple(self._shared):
            await asyncio.sleep(0)
            plan = self._programmed_plan(key)
            if plan is None:
                continue
            for number, client in enumerate(self._memory.clients(shared_ports(plan), self._rendering_of(key)), 1):
                if number % _STEP == 0:
                    await asyncio.sleep(0)
                if client.is_pick:
                    continue
                count += 1
                if len(due) < TELL_MAX and self._is_due(key, client, plan.affinity_timeout_seconds):
                    due.append(_shared_client(key, client))
        self._metrics.exceptions.set(count)
        self._tell_due(due)

    def _is_due(self, key: ServiceKey, client: AffinityClient, timeout_seconds: int) -> bool:
        now = self._clock.monotonic()
        return self._book.is_due(_shared_client(key, client), timeout_seconds=timeout_seconds, now=now)

    def _tell_due(self, due: Sequence[RememberedClient]) -> None:
        now = self._clock.monotonic()
        if due and self._tell(due):
            self._book.told(due, now)
            self._metrics.told.inc(len(due))
            if len(due) == TELL_MAX:
                self._look_again()
        self._book.prune(now)

    def _programmed_plan(self, key: ServiceKey) -> ServicePlan | None:
        """The plan of a service, if the kernel has it as planned."""
        encoded = self._plan_of(key)
        if encoded is None or self._is_dirty(key):
            return None
        try:
            return decode_service_plan(encoded)
        except PlanFormatError:  # the planner was told so when it was to be programmed
            return None

    # -- in ----------------------------------------------------------------------------------------------------------

    async def _seed(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            for service in self._seeds.services:
                try:
                    await self._seed_service(service)
                except KernelError as error:
                    structlog.get_logger("affinity").warning(
                        "clients of other nodes are not remembered yet", service=str(service), error=str(error)
                    )
            self._metrics.left_out.labels("waited").inc(self._seeds.expire(self._clock.monotonic()))
            if len(self._seeds):
                self._clock.call_later(_RETRY_SECONDS, self._arrived.set)

    async def _seed_service(self, service: ServiceKey) -> None:
        while (plan := self._programmed_plan(service)) is not None:
            endpoints = endpoints_of(service, plan)
            clients = self._seeds.ready(service, endpoints, self._clock.monotonic(), _STEP)
            if not clients:
                return
            seeds = [_local_client(each) for each in clients]
            self._metrics.seeded.inc(await self._memory.seed(plan, self._rendering_of(service), seeds))
            self._seeds.done(service, clients)


def _shared_client(service: ServiceKey, client: AffinityClient) -> RememberedClient:
    port = ServicePortName(service, client.name, Protocol(client.protocol))
    return RememberedClient(ClientKey(port, client.client), client.endpoint, client.left_ms)


def _local_client(client: RememberedClient) -> AffinityClient:
    (_, name, protocol), address = client.key
    return AffinityClient(name, protocol, address, client.endpoint, client.left_ms)
