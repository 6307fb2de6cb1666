# SPDX-License-Identifier: Apache-2.0
"""The composition root: builds every part and runs them until the process is asked to stop.

PlanStream --committed--> PlanStore (in the session) --> Reconciler.commit, PlanJournal.record, runner.request
BoundedRunner --> Reconciler.run --> kernel --on_synced--> PlanStream.report, metrics, spans, health
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import structlog

from pointsman_chassis.clock import Clock, SystemClock
from pointsman_chassis.errors import PointsmanError
from pointsman_chassis.lifecycle import Stop, task_boundary
from pointsman_chassis.metrics import Registry
from pointsman_chassis.runner import BoundedRunner
from pointsman_chassis.tracing import Tracing
from pointsman_enforcer.core.conditions import ServiceConditions
from pointsman_enforcer.core.plan_changes import PlanChanges
from pointsman_enforcer.core.plan_session import Commit, Programmed
from pointsman_enforcer.core.status import Health
from pointsman_enforcer.dataplane.affinity_share import AffinityShare, AffinityShareMetrics
from pointsman_enforcer.dataplane.affinity_sweep import AffinityMetrics, AffinitySweep
from pointsman_enforcer.dataplane.base import Dataplane, Measured, Parting, Redirecting
from pointsman_enforcer.dataplane.conntrack.metrics import ConntrackMetrics
from pointsman_enforcer.dataplane.conntrack.reconciler import ConntrackReconciler, Table
from pointsman_enforcer.dataplane.conntrack.table import ConntrackTable
from pointsman_enforcer.dataplane.flows import Flows
from pointsman_enforcer.dataplane.modes.factory import has_conntrack, make_dataplane, reconciler_limits
from pointsman_enforcer.dataplane.modes.not_yet import NotYet
from pointsman_enforcer.dataplane.modes.parting import Ending
from pointsman_enforcer.dataplane.reconciler import LeftoversError, Reconciler, ServicesFailedError
from pointsman_enforcer.dataplane.verification import Verification, VerificationEvents, VerificationPace
from pointsman_enforcer.dataplane.work import Pending, Tally
from pointsman_enforcer.disk.plan_journal import PlanJournal, load_plan
from pointsman_enforcer.feed.known_planners import known_planners
from pointsman_enforcer.health.serving import Serving
from pointsman_enforcer.metrics import EnforcerMetrics
from pointsman_enforcer.observability import SyncObserver
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.names import ServiceKey
from pointsman_model.plan import ServicePlan

_GC_THRESHOLD: Final = 50_000
"""A plan is ten thousand long-lived byte strings: looking through them for cycles every 700 objects is a waste."""


_TO_STORE_MAX: Final = 256
"""Transactions that are remembered until they are on disk; saying that they are is a courtesy."""
_FIRST_SYNC_SECONDS_MAX: Final = 5.0
"""How long dialling planners waits for the plan on disk to be programmed."""


class Enforcer:
    """One node's enforcer, all parts of it."""

    def __init__(
        self,
        config: EnforcerConfiguration,
        node: str,
        *,
        clock: Clock | None = None,
        dataplane: Dataplane[Any] | None = None,
        open_conntrack: Callable[[], Table] | None = None,
        mode_reason: str = "configured",
    ) -> None:
        """Loads the plan on disk and opens the kernel (or `dataplane`); raises ConfigError or UnsupportedError.

        A dataplane that is handed in has no connection table, unless `open_conntrack` says how it is opened. The mode
        is not `auto` any more: `mode_reason` says why it is this one.
        """
        self._mode_reason = mode_reason
        self._config, self._node, self._clock = config, node, clock or SystemClock()
        self._registry = Registry()
        self._metrics = EnforcerMetrics(self._registry, config.mode)
        self._tracing = Tracing.from_environment("pointsman-enforcer", attributes={"k8s.node.name": node})
        self._directory = Path(config.state_directory)
        loaded = load_plan(self._directory)
        self._store = loaded.store
        self._changes = PlanChanges(self._store.get)
        self._metrics.changes(self._registry, self._changes)
        self._health = Health(timeout_seconds=2 * config.periods.sync_period)
        self._journal = PlanJournal(
            self._directory,
            self._store,
            clock=self._clock,
            on_failure=self._metrics.journal_failures.inc,
            on_durable=self._durable,
        )
        self._to_store: deque[tuple[int, object, int]] = deque(maxlen=_TO_STORE_MAX)
        """Transactions that are not known to be on disk: number in the journal, stream, nonce."""
        if loaded.records:
            self._journal.resume(loaded)
        self._dataplane = dataplane or make_dataplane(config)
        if isinstance(self._dataplane, Measured):
            self._dataplane.measure(self._registry)
        has_table = open_conntrack is not None or (dataplane is None and has_conntrack(config))
        self._conntrack = self._make_conntrack(open_conntrack or ConntrackTable) if has_table else None
        self._conditions = ServiceConditions()
        self._serving = self._make_serving()
        self._reconciler = self._make_reconciler()
        self._runner = self._make_runner(config.periods.min_sync_period)
        self._is_syncing = False
        self._verification = self._make_verification()
        self._may_hand_over = dataplane is None
        self._is_confirmed = False
        self._handover: Any = NotYet()
        self._affinity_share = self._make_affinity_share()
        self._affinity = self._make_affinity()
        self._observer = self._make_observer()
        self._stream: Any = None
        self._first_sync = asyncio.Event()
        self._instance = secrets.token_hex(8)

    async def run(self, stop: Stop) -> int:
        """Serve until `stop`; what is programmed stays when this ends."""
        gc.set_threshold(_GC_THRESHOLD)
        self._reconciler.drift.watch(request=self._request_sync, on_look=self._observer.drift)
        if self._store.facts is not None:
            self._health.learn(self._store.facts)
            self._request_sync()
        await self._serving.open()
        async with asyncio.TaskGroup() as group:
            work = {"reconciler": self._runner.run(), "journal": self._journal.run(), "plan-stream": self._follow()}
            work.update(self._serving.work())
            work["affinity"] = self._affinity.run()
            work["affinity-share"] = self._affinity_share.run()
            work["verification"] = self._verification.run()
            work["handover"] = self._hand_over()
            if self._conntrack is not None:
                work["conntrack"] = self._conntrack.run()
            tasks = [group.create_task(task_boundary(name, each)) for name, each in work.items()]
            await stop.wait()
            if self._store.facts is not None and isinstance(self._dataplane, Parting):
                ending = Ending(self._dataplane, self._reconciler, self._request_sync, self._clock)
                await ending.run(self._config.userspace.drain_timeout)
            structlog.get_logger("app").info("stopping; what is programmed stays", reason=stop.reason)
            for task in tasks:
                task.cancel()
        await self._serving.close()
        await self._journal.close()
        await self._tracing.shutdown()
        self._dataplane.close()
        return 0

    async def _follow(self) -> None:
        """Follow a planner, once the plan on disk is programmed or will not be."""
        planners = known_planners(self._config, self._node)
        if planners.is_empty:
            structlog.get_logger("app").warning("no plannerAddresses and no plannerLookup; holding the plan on disk")
            return
        if self._store.facts is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_SYNC_SECONDS_MAX):
                    await self._first_sync.wait()
        from pointsman_enforcer.feed import connect  # noqa: PLC0415 - gRPC is needed only once there is time for it

        self._stream = await connect.make_stream(
            config=self._config,
            directory=planners,
            node=self._node,
            instance=self._instance,
            dataplane=self._dataplane,
            store=self._store,
            conditions=self._conditions,
            events=connect.StreamEvents(
                committed=self._committed,
                connected=self._connected,
                resync=self._metrics.resyncs.inc,
                overflow=self._metrics.outbox_overflows.inc,
                redirected=self._metrics.redirects.inc,
                affinity_wanted=self._affinity_share.planner_changed,
                remember=self._affinity_share.received,
            ),
            clock=self._clock,
        )
        await self._stream.run()

    def _committed(self, commit: Commit, stream: object, received_at: float, received_ns: int) -> None:
        """A transaction has come: mark, and ask for a sync. Nothing here touches the kernel or the disk."""
        self._reconciler.commit(commit, stream=stream, received_at=received_at, received_ns=received_ns)
        if commit.transaction.facts is not None:
            self._health.learn(commit.transaction.facts)
        self._changes.committed(commit.changes)
        self._is_confirmed = self._is_confirmed or commit.in_sync
        self._request_sync()
        self._to_store.append((self._journal.record(commit.transaction), stream, commit.transaction.nonce))

    def _durable(self, recorded: int) -> None:
        """So many transactions are on disk."""
        while self._to_store and self._to_store[0][0] <= recorded:
            _, stream, nonce = self._to_store.popleft()
            if self._stream is not None:
                self._stream.received(stream, nonce)

    def _programmed(self, key: ServiceKey, plan: ServicePlan) -> None:
        """The kernel has a service as planned."""
        self._serving.programmed(key, plan)
        self._verification.changed(key)
        self._affinity_share.programmed(key, plan)

    def _connected(self, is_connected: bool) -> None:  # noqa: FBT001 - an event with one fact
        self._metrics.connected.set(is_connected)
        if not is_connected:
            self._metrics.disconnects.inc()

    def _request_sync(self) -> None:
        self._health.queued(self._clock.monotonic())
        self._metrics.queued(self._clock.wall_ns() / 1e9)
        self._runner.request()

    async def _sync(self) -> None:
        """One sync. When it is over nothing waits any more, even if there was nothing to report or a service failed."""
        self._is_syncing = True
        try:
            await self._reconciler.run()
        except ServicesFailedError:
            self._health.synced(self._clock.monotonic())
            raise
        finally:
            self._is_syncing = False
            self._handover.look()
        self._health.synced(self._clock.monotonic())

    def _synced(self, pending: Pending, programmed: Programmed, tally: Tally) -> None:
        """The kernel has it: answer the planner first, then count."""
        if self._stream is not None:
            self._stream.report(pending.stream, programmed)
            for stream, (nonce, position) in pending.others.items():
                self._stream.report(stream, replace(programmed, nonce=nonce, position=position))
        self._verification.synced()
        self._first_sync.set()
        self._changes.synced(self._reconciler.is_dirty)
        self._serving.synced(self._dataplane.settings.node_port_addresses)
        self._observer.synced(pending, programmed, tally)
        self._observer.gauges(self._store, self._reconciler)

    def _sync_failed(self, error: PointsmanError) -> None:
        if isinstance(error, ServicesFailedError):
            return
        self._metrics.refused(is_cleanup=isinstance(error, LeftoversError))
        structlog.get_logger("app").error("sync failed; what is programmed stays; trying again", error=str(error))

    def _report(self, programmed: Programmed) -> None:
        """Something about services has become known that no transaction asked for."""
        if self._stream is not None:
            self._stream.report(None, programmed)

    def _verified(self, digest: int, programmed_digest: int) -> None:
        if self._stream is not None:
            self._stream.verified(digest, programmed_digest)
        self._handover.look()

    def _make_reconciler(self) -> Reconciler[Any]:
        return Reconciler(
            dataplane=self._dataplane,
            store=self._store,
            clock=self._clock,
            on_synced=self._synced,
            on_programmed=self._programmed,
            flows=self._flows(),
            limits=reconciler_limits(self._dataplane.mode),
        )

    async def _hand_over(self) -> None:
        """Once everything was programmed, see to what others left; their code is not imported before there is time."""
        await self._first_sync.wait()
        if self._may_hand_over:
            handover = await asyncio.to_thread(importlib.import_module, "pointsman_enforcer.dataplane.modes.handover")
            self._handover = handover.Handover(
                self._config,
                store=self._store,
                reconciler=self._reconciler,
                verification=self._verification,
                is_confirmed=lambda: self._is_confirmed,
                registry=self._registry,
                clock=self._clock,
            )
            await self._handover.run()

    def _make_verification(self) -> Verification:
        return Verification(
            dataplane=self._dataplane,
            reconciler=self._reconciler,
            store=self._store,
            clock=self._clock,
            pace=VerificationPace(elements_per_second=self._config.verify_elements_per_second),
            events=VerificationEvents(
                is_syncing=lambda: self._is_syncing,
                read=self._metrics.verified_elements.inc,
                verified=self._verified,
                mismatch=self._metrics.verification_mismatches.inc,
                report=self._report,
            ),
        )

    def _make_conntrack(self, open_table: Callable[[], Table]) -> ConntrackReconciler:
        return ConntrackReconciler(
            node_port_blocks=lambda: self._dataplane.settings.node_port_addresses,
            is_frontend=self._dataplane.is_frontend,
            metrics=ConntrackMetrics(self._registry),
            clock=self._clock,
            open_table=open_table,
        )

    def _flows(self) -> Flows | None:
        """Who looks after flows, told of plans as the kernel's entries show them."""
        if self._conntrack is not None and isinstance(self._dataplane, Redirecting):
            return self._dataplane.flows(self._conntrack)
        return self._conntrack

    def _make_runner(self, min_interval_seconds: float) -> BoundedRunner:
        return BoundedRunner(
            self._sync,
            on_failure=self._sync_failed,
            min_interval_seconds=min_interval_seconds,
            retry_interval_seconds=max(1.0, min_interval_seconds),
            clock=self._clock,
        )

    def _make_affinity(self) -> AffinitySweep:
        metrics = AffinityMetrics(self._registry)
        return AffinitySweep(
            memory=self._dataplane.affinity, metrics=metrics, clock=self._clock, on_look=self._affinity_share.looked
        )

    def _make_affinity_share(self) -> AffinityShare:
        return AffinityShare(
            memory=self._dataplane.affinity,
            plan_of=self._store.get,
            rendering_of=self._reconciler.rendering,
            is_dirty=self._reconciler.is_dirty,
            tell=lambda clients: self._stream is not None and self._stream.tell_affinity(clients),
            look_again=lambda: self._affinity.request(),  # noqa: PLW0108 - the sweep is made after this
            metrics=AffinityShareMetrics(self._registry),
            clock=self._clock,
        )

    def _make_observer(self) -> SyncObserver:
        return SyncObserver(
            metrics=self._metrics,
            tracing=self._tracing,
            plans=self._store,
            is_failed=self._reconciler.failures.__contains__,
            started_at_ns=self._clock.wall_ns(),
        )

    def _make_serving(self) -> Serving:
        return Serving(
            config=self._config,
            health=self._health,
            registry=self._registry,
            metrics=self._metrics,
            clock=self._clock,
            describe=self._status,
            conditions=self._conditions,
            on_conditions=self._conditions_changed,
        )

    def _conditions_changed(self) -> None:
        if self._stream is not None:
            self._stream.tell_conditions()

    def _status(self) -> dict[str, Any]:
        """For /statusz."""
        return {
            "node": self._node,
            "mode": self._dataplane.mode.value,
            "modeReason": self._mode_reason,
            "pid": os.getpid(),
            "planner": self._stream.planner_id if self._stream is not None else "",
            "planners": self._stream.planners() if self._stream is not None else {},
            "inSync": self._stream.is_in_sync if self._stream is not None else False,
            "position": {"epoch": self._store.position.epoch, "revision": self._store.position.revision},
            "services": len(self._store),
            "digest": f"{self._store.digest:016x}",
            "programmedDigest": f"{self._reconciler.failures.correct(self._store.digest):016x}",
            "pending": self._reconciler.dirty_count,
            "unverified": self._verification.waiting,
            "failed": {
                str(key): {"stage": failed.stage.name, "message": failed.message, "attempts": failed.attempts}
                for key, failed in self._reconciler.failures.items()
            },
            **self._handover.describe(),
            "drift": None if self._reconciler.drift.report is None else asdict(self._reconciler.drift.report),
        }
