# SPDX-License-Identifier: Apache-2.0
"""The enforcer's own code from a committed transaction to what its dataplane tells the kernel.

Plan store, reconciler and dataplane are those of the service; what stands in for its stream and its runner is that
`program` makes of whole plans the transactions a planner would send, and runs syncs until one succeeds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.errors import ApplyError
from pointsman_enforcer.core.plan_session import Commit, Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Position, Transaction
from pointsman_enforcer.dataplane.base import Applied, Change, Dataplane, KernelError
from pointsman_enforcer.dataplane.drift import DriftLook, DriftOutcome
from pointsman_enforcer.dataplane.reconciler import Reconciler, ReconcilerLimits
from pointsman_enforcer.dataplane.work import Pending, Tally
from pointsman_model.digest import plan_digest
from pointsman_model.plan import NodePlan
from pointsman_model.wire.plan import encode_service_plan

_SYNC_SECONDS_MAX = 5.0
HEAL_SECONDS_MAX = 2.0
"""What somebody else destroyed is whole again within this time, says the catalogue."""
_RETRY_SECONDS = 0.05
_DIGEST_MODULUS = 1 << 64


class NotProgrammedError(RuntimeError):
    """The enforcer did not get a plan into the kernel."""


class Enforcer:
    """One enforcer process, as far as the kernel can tell; its dataplane is closed with it."""

    def __init__(self, dataplane: Dataplane[Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self._dataplane = dataplane
        self._store = PlanStore()
        self._programmed: Programmed | None = None
        self._is_refusing = False
        self._nonce = 0
        self._reconciler: Reconciler[Any] = Reconciler(
            dataplane=self._dataplane,
            store=self._store,
            clock=SystemClock(),
            on_synced=self._note,
            limits=ReconcilerLimits(retry_seconds_initial=_RETRY_SECONDS),
        )
        self._wake = asyncio.Event()
        self._looks: list[DriftLook] = []
        self._loop.run_until_complete(self._watch())

    def program(self, plan: NodePlan) -> None:
        """Bring the kernel from whatever it has to this plan.

        Raises:
            NotProgrammedError: it was not done in time, or what was acknowledged is not the whole plan, or a refusal
                that was asked for did not happen.
        """
        transaction = self._transaction(plan)
        changes = tuple(self._store.apply(transaction))
        commit = Commit(transaction=transaction, changes=changes, in_sync=transaction.in_sync)
        self._reconciler.commit(commit, stream=self, received_at=time.monotonic(), received_ns=time.time_ns())
        self._loop.run_until_complete(self._sync())
        programmed = self._programmed
        if programmed is None or programmed.programmed_digest != transaction.digest:
            raise NotProgrammedError(f"the enforcer acknowledged {programmed}, not {transaction.digest}")
        if self._is_refusing:
            raise NotProgrammedError("nothing was written, so no write could be refused")

    def heal(self, damage: Callable[[], None]) -> None:
        """Notice by itself that somebody else did `damage` to what is ours, and put it right.

        Raises:
            NotProgrammedError: it did not, within HEAL_SECONDS_MAX.
        """
        self._looks.clear()
        try:
            self._loop.run_until_complete(self._heal(damage))
        except TimeoutError as error:
            raise NotProgrammedError(f"what somebody else changed was not put right: {self._looks}") from error

    def fail_next_write(self) -> None:
        """Have the kernel refuse the next change, once."""
        apply = self._dataplane.apply
        self._is_refusing = True

        async def refuse(change: Change) -> Applied:
            self._is_refusing = False
            self._dataplane.apply = apply  # type: ignore[method-assign]  # as it was
            raise KernelError(f"{change.operations} operations refused on purpose")

        self._dataplane.apply = refuse  # type: ignore[method-assign]  # one refusal instead of one change

    def cleanup(self) -> None:
        """Remove everything that is ours, and end."""
        self._loop.run_until_complete(self._dataplane.cleanup())
        self.close()

    def close(self) -> None:
        """End as a killed process does: what is programmed stays."""
        self._dataplane.close()
        self._loop.close()

    def _transaction(self, plan: NodePlan) -> Transaction:
        """The first is the whole plan; later ones are what differs."""
        self._nonce += 1
        encoded = {key: encode_service_plan(service) for key, service in plan.services.items()}
        digest = sum(plan_digest(key, data) for key, data in encoded.items()) % _DIGEST_MODULUS
        is_first = self._nonce == 1
        return Transaction(
            nonce=self._nonce,
            position=Position("conformance", self._nonce),
            updates={key: data for key, data in encoded.items() if is_first or self._store.get(key) != data},
            removals=() if is_first else tuple(key for key in self._store if key not in encoded),
            replaces_all=is_first,
            facts=plan.facts,
            digest=digest,
            in_sync=is_first,
        )

    async def _sync(self) -> None:
        deadline = time.monotonic() + _SYNC_SECONDS_MAX
        while True:
            try:
                await self._reconciler.run()
            except ApplyError as error:
                if time.monotonic() > deadline:
                    raise NotProgrammedError(f"not programmed within {_SYNC_SECONDS_MAX:.0f} s: {error}") from error
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def _watch(self) -> None:
        self._reconciler.drift.watch(request=self._wake.set, on_look=self._looks.append)

    async def _heal(self, damage: Callable[[], None]) -> None:
        damage()
        async with asyncio.timeout(HEAL_SECONDS_MAX):
            while all(look.outcome is DriftOutcome.UNCHANGED for look in self._looks):
                await self._wake.wait()
                self._wake.clear()
                await self._sync()

    def _note(self, pending: Pending, programmed: Programmed, tally: Tally) -> None:
        self._programmed = programmed
