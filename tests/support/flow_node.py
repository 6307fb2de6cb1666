# SPDX-License-Identifier: Apache-2.0
"""An enforcer's reconciler, dataplane and flow keeper in a node's namespace, programmed by plans."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.plan_session import Commit
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Position, Transaction
from pointsman_enforcer.dataplane.base import Dataplane, Redirecting
from pointsman_enforcer.dataplane.conntrack.metrics import ConntrackMetrics
from pointsman_enforcer.dataplane.conntrack.reconciler import ConntrackLimits, ConntrackReconciler
from pointsman_enforcer.dataplane.conntrack.table import ConntrackTable
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.reconciler import Reconciler
from pointsman_model.names import ServiceKey
from pointsman_model.plan import NodeFacts, ServicePlan
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_plans import digest_of
from support.netns import NetNs
from support.traffic import Reply, parse_reply

DEADLINE_SECONDS = 10.0
_TURN_SECONDS = 0.01


def _open_nftables(settings: NodeSettings) -> Dataplane[Any]:
    return NftablesDataplane(node_settings=settings)


class FlowNode:
    """One enforcer process after another; an async context manager."""

    def __init__(
        self,
        namespace: NetNs,
        settings: NodeSettings,
        facts: NodeFacts,
        *,
        limits: ConntrackLimits | None = None,
        open_dataplane: Callable[[NodeSettings], Dataplane[Any]] = _open_nftables,
    ) -> None:
        self.open_dataplane = open_dataplane
        self.namespace = namespace
        self.settings = settings
        self.facts = facts
        self.limits = limits
        self.store = PlanStore()
        self.registry = Registry()
        self.nonce = 0

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()
        await self.dataplane.cleanup()
        self.dataplane.close()

    def _start(self) -> None:
        self.tables: list[ConntrackTable] = []
        self.dataplane = self.namespace.call(lambda: self.open_dataplane(self.settings))
        self.registry = Registry()
        self.flows = ConntrackReconciler(
            node_port_blocks=lambda: self.dataplane.settings.node_port_addresses,
            is_frontend=self.dataplane.is_frontend,
            metrics=ConntrackMetrics(self.registry),
            clock=SystemClock(),
            open_table=self._open_table,
            limits=self.limits,
        )
        dataplane = self.dataplane
        self.reconciler: Reconciler[Any] = Reconciler(
            dataplane=self.dataplane,
            store=self.store,
            clock=SystemClock(),
            on_synced=lambda *_: None,
            flows=dataplane.flows(self.flows) if isinstance(dataplane, Redirecting) else self.flows,
        )
        self._task = asyncio.create_task(self.flows.run())

    async def _stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for table in self.tables:
            table.close()

    async def restart(self) -> None:
        """End the process, and start another one on the plan held."""
        await self._stop()
        self.dataplane.close()
        self._start()

    async def program(
        self, plans: Mapping[ServiceKey, ServicePlan] = {}, *removals: ServiceKey, is_confirmed: bool = True
    ) -> None:
        """Program what a transaction brings, to the kernel's answer; stale flows are ended afterwards."""
        self.nonce += 1
        encoded = {name: encode_service_plan(plan) for name, plan in plans.items()}
        after = {name: self.store.get(name) or b"" for name in self.store if name not in removals} | encoded
        transaction = Transaction(
            nonce=self.nonce,
            position=Position("test", self.nonce),
            updates=encoded,
            removals=removals,
            facts=self.facts,
            digest=digest_of(after),
            in_sync=is_confirmed,
        )
        changes = tuple(self.store.apply(transaction))
        commit = Commit(transaction=transaction, changes=changes, in_sync=is_confirmed)
        self.reconciler.commit(commit, stream=self, received_at=time.monotonic(), received_ns=time.time_ns())
        await self.reconciler.run()

    async def looked(self) -> None:
        """Wait until everything suspected so far has been looked into."""
        await eventually(lambda: self.flows.is_idle)

    @property
    def deletions(self) -> int:
        """Deletions asked of the kernel since the start of the process."""
        return sum(table.deletions for table in self.tables)

    @property
    def dumps(self) -> int:
        """Walks of the table asked of the kernel since the start of the process."""
        return sum(table.dumps for table in self.tables)

    def _open_table(self) -> ConntrackTable:
        table = self.namespace.call(ConntrackTable)
        self.tables.append(table)
        return table


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(_TURN_SECONDS)


class Sender:
    """One UDP flow that never pauses for long: a single socket, as a resolver or a metrics agent keeps it."""

    def __init__(self, namespace: NetNs, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._to = (address, port)
        self._socket = namespace.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(self._to)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def port(self) -> int:
        """Its source port."""
        return int(self._socket.getsockname()[1])

    async def answer(self) -> str:
        """Send once; who answered it, `REJECT`, or `nobody`."""
        self.drain()
        try:
            self._socket.send(b"who?")
        except PermissionError:
            return "nobody"
        except ConnectionRefusedError:
            return "REJECT"
        for _ in range(10):
            await asyncio.sleep(_TURN_SECONDS)
            try:
                reply: Reply = parse_reply(self._socket.recv(128))
            except BlockingIOError:
                continue
            except ConnectionRefusedError:
                return "REJECT"
            return reply.name
        return "nobody"

    async def until(self, wanted: str) -> None:
        """Keep sending until `wanted` answers."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (found := await self.answer()) != wanted:
            assert time.monotonic() < deadline, f"{wanted} never answered, last was {found}"

    def drain(self) -> None:
        """Forget what came late."""
        while True:
            try:
                self._socket.recv(128)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                continue
