# SPDX-License-Identifier: Apache-2.0
"""The enforcer's own code from a committed transaction to the netlink messages of its dataplane.

Plan store, reconciler and nftables dataplane are those of the service; what stands in for its stream and its runner is
that `program` makes of whole plans the transactions a planner would send, and runs syncs until one succeeds.
"""

from __future__ import annotations

import asyncio
import errno
import time

from conformance.model import NodeSettings
from conformance.pipeline import node_settings

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.errors import ApplyError
from pointsman_enforcer.core.plan_session import Commit, Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Position, Transaction
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.change import NftChange
from pointsman_enforcer.dataplane.nftables.errors import NetlinkError
from pointsman_enforcer.dataplane.nftables.kernel import NftKernel
from pointsman_enforcer.dataplane.nftables.message import Batch
from pointsman_enforcer.dataplane.reconciler import Reconciler, ReconcilerLimits
from pointsman_enforcer.dataplane.work import Pending, Tally
from pointsman_model.digest import plan_digest
from pointsman_model.plan import NodePlan
from pointsman_model.wire.plan import encode_service_plan

_SYNC_SECONDS_MAX = 5.0
_RETRY_SECONDS = 0.05
_DIGEST_MODULUS = 1 << 64


class NotProgrammedError(RuntimeError):
    """The enforcer did not get a plan into the kernel."""


class Enforcer:
    """One enforcer process, as far as the kernel can tell; `nft` is that kernel."""

    def __init__(self, settings: NodeSettings, nft: NftKernel) -> None:
        self._loop = asyncio.new_event_loop()
        self._dataplane = NftablesDataplane(node_settings=node_settings(settings), kernel=nft)
        self._store = PlanStore()
        self._programmed: Programmed | None = None
        self._is_refusing = False
        self._nonce = 0
        self._reconciler: Reconciler[NftChange] = Reconciler(
            dataplane=self._dataplane,
            store=self._store,
            clock=SystemClock(),
            on_synced=self._note,
            limits=ReconcilerLimits(retry_seconds_initial=_RETRY_SECONDS),
        )

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

    def fail_next_write(self) -> None:
        """Have the kernel refuse the next batch, once."""
        socket = self._dataplane._nft
        commit = socket.commit

        self._is_refusing = True

        async def refuse(batch: Batch) -> None:
            self._is_refusing = False
            socket.commit = commit  # type: ignore[method-assign]  # as it was
            raise NetlinkError(
                errno=errno.ENOMEM, message_index=None, what=f"{len(batch.messages)} messages, on purpose"
            )

        socket.commit = refuse  # type: ignore[method-assign]  # one refusal instead of one commit

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

    def _note(self, pending: Pending, programmed: Programmed, tally: Tally) -> None:
        self._programmed = programmed
