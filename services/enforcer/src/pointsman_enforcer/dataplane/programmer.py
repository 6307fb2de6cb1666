# SPDX-License-Identifier: Apache-2.0
"""Brings services into the kernel: decode, render, compare, one transaction; a refused one is bisected.

Owns what the kernel is believed to have of each service: the rendering it last acknowledged, as packed bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic

import structlog

from pointsman_chassis.clock import Clock
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.told_failures import Failure
from pointsman_enforcer.core.transaction import Stage
from pointsman_enforcer.dataplane.base import NODE, C, Dataplane, KernelError, OccupiedError, UnsupportedPlanError
from pointsman_enforcer.dataplane.failures import FailureBook, Fault
from pointsman_enforcer.dataplane.flows import Flows
from pointsman_enforcer.dataplane.work import Step, Tally
from pointsman_model.digest import plan_digest
from pointsman_model.names import ServiceKey
from pointsman_model.plan import NodeFacts, ServicePlan
from pointsman_model.wire.plan import PlanFormatError, decode_service_plan

_NO_PLAN = ServicePlan()


class Programmer(Generic[C]):
    """The part of the reconciler that knows single services."""

    def __init__(
        self,
        *,
        dataplane: Dataplane[C],
        store: PlanStore,
        failures: FailureBook,
        clock: Clock,
        on_refusal: Callable[[KernelError], None],
        on_programmed: Callable[[ServiceKey, ServicePlan], None],
        flows: Flows,
    ) -> None:
        """`on_refusal` hears of each refused transaction, and raises when bisecting it is not the thing to do.

        `on_programmed` hears of each service once the kernel has it as planned; of a removed one, with an empty plan.
        """
        self._dataplane = dataplane
        self._store = store
        self._failures = failures
        self._clock = clock
        self._on_refusal = on_refusal
        self._on_programmed = on_programmed
        self._flows = flows
        self._remembered: dict[ServiceKey, bytes] = {}

    def remembered(self) -> list[ServiceKey]:
        """Services of which the kernel is believed to have something."""
        return [key for key in self._remembered if key != NODE]

    def renderings(self) -> list[bytes]:
        """Everything that the kernel acknowledged, the node's own objects first."""
        node = self._remembered.get(NODE, b"")
        return [node, *(each for key, each in self._remembered.items() if key is not NODE)]

    def rendering(self, key: ServiceKey) -> bytes:
        """What the kernel has of a service, empty for nothing."""
        return self._remembered.get(key, b"")

    def forget(self) -> None:
        """The kernel is to be read anew."""
        self._remembered.clear()

    def step(self, key: ServiceKey, programmed_digest: int, tally: Tally) -> Step[C] | None:
        """What a service needs; None when it failed. `programmed_digest` is that of the plan the kernel has of it."""
        data = self._store.get(key)
        previous = self._remembered.get(key, b"")
        stage = Stage.DECODE
        try:
            plan = _NO_PLAN if data is None else decode_service_plan(data)
            stage = Stage.UNSUPPORTED
            previous = self._claim(key, plan, previous)
            rendering = self._dataplane.render(plan, previous)
        except (PlanFormatError, UnsupportedPlanError) as error:
            self._enter_failure(key, data, tally, programmed_digest=programmed_digest, stage=stage, message=str(error))
            return None
        self._flows.expect(key, plan)
        return Step(
            key=key,
            plan=data,
            decoded=plan,
            programmed_digest=programmed_digest,
            rendering=rendering,
            change=self._dataplane.diff(previous, rendering),
        )

    def node_step(self, facts: NodeFacts, *, drop_unallocated: bool) -> Step[C]:
        """What the node's own objects need."""
        previous = self._dataplane.claim_node(self._remembered.get(NODE, b""))
        rendering = self._dataplane.render_node(facts, drop_unallocated=drop_unallocated)
        change = self._dataplane.diff(previous, rendering)
        return Step(key=NODE, plan=None, decoded=_NO_PLAN, programmed_digest=0, rendering=rendering, change=change)

    async def apply(self, steps: Sequence[Step[C]], tally: Tally) -> None:
        """Commit some services together; on refusal find the one that is to blame and commit the others.

        Raises:
            KernelError: only what `on_refusal` raises.
        """
        if not steps:
            return
        try:
            await self.apply_whole(steps, tally)
        except OccupiedError:
            if len(steps) == 1:
                tally.occupied.append((steps[0].key, steps[0].programmed_digest))
                return
        except KernelError as error:
            self._on_refusal(error)
            if len(steps) == 1:
                self.fail(steps[0], str(error), tally)
                return
        else:
            return
        middle = len(steps) // 2
        await self.apply(steps[:middle], tally)
        await self.apply(steps[middle:], tally)

    async def apply_whole(self, steps: Sequence[Step[C]], tally: Tally) -> None:
        """Commit these in one transaction, or raise OccupiedError or KernelError and commit nothing."""
        change = steps[0].change if len(steps) == 1 else self._sum(steps)
        if not change.is_empty or len(steps) > 1:
            tally.count(await self._dataplane.apply(change))
        for step in steps:
            self._succeed(step, tally)

    def fail(self, step: Step[C], message: str, tally: Tally) -> None:
        """The kernel will not have this service as it is planned."""
        self._enter_failure(
            step.key, step.plan, tally, programmed_digest=step.programmed_digest, stage=Stage.APPLY, message=message
        )

    def _claim(self, key: ServiceKey, plan: ServicePlan, remembered: bytes) -> bytes:
        """What the kernel has of a service, and from now on is remembered to have."""
        claimed = self._dataplane.claim(plan, remembered)
        if claimed is not remembered:
            self._remembered[key] = claimed
        return claimed

    def _sum(self, steps: Sequence[Step[C]]) -> C:
        """One change that does what all steps do."""
        total = self._dataplane.diff(b"", b"")
        for step in steps:
            total.include(step.change)
        return total

    def _succeed(self, step: Step[C], tally: Tally) -> None:
        if step.rendering:
            self._remembered[step.key] = step.rendering
        else:
            self._remembered.pop(step.key, None)
        if self._failures.clear(step.key):
            tally.recovered[step.key] = None
        if step.key is not NODE:
            tally.services += 1
            self._flows.programmed(step.key)
            self._on_programmed(step.key, step.decoded)

    def _enter_failure(
        self,
        key: ServiceKey,
        plan: bytes | None,
        tally: Tally,
        *,
        programmed_digest: int,
        stage: Stage,
        message: str,
    ) -> None:
        planned = 0 if plan is None else plan_digest(key, plan)
        fault = Fault(stage=stage, message=message, planned_digest=planned, programmed_digest=programmed_digest)
        if self._failures.enter(key, fault, self._clock.monotonic()):
            tally.failures[key] = Failure(key=key, stage=stage, message=message)
            log = structlog.get_logger("reconciler")
            log.warning("service not programmed", service=str(key), stage=stage.name, error=message)
