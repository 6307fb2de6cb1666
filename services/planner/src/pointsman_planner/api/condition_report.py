# SPDX-License-Identifier: Apache-2.0
"""What operators hear of trouble that nodes have with services: a line in the log when it begins and ends, and a gauge.

Only connected nodes count: what a node that went away told last is in its status.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import structlog

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_planner.core.messages import Condition, Conditions
from pointsman_planner.metrics import PlannerMetrics

_LINES_MAX: Final = 10
"""For one message of a node: a node where everything is wrong does not fill the log."""
_PREFIX: Final = "KIND_"


class ConditionReport:
    """Counts and logs the conditions of all connected nodes."""

    def __init__(self, metrics: PlannerMetrics) -> None:
        self._metrics = metrics
        self._counts: Counter[str] = Counter()

    def told(self, node: str, before: Conditions, after: Conditions) -> list[Condition]:
        """A node replaced what it had told before; those that begin. A stream that ends tells of nothing."""
        counts = _counts(after)
        counts.subtract(_counts(before))
        for kind, change in counts.items():
            self._counts[kind] += change
            self._metrics.conditions.labels(kind).set(self._counts[kind])
        log = structlog.get_logger("conditions")
        held = {(each.service, each.kind) for each in before.conditions}
        begun = [each for each in after.conditions if (each.service, each.kind) not in held]
        for each in begun[:_LINES_MAX]:
            log.warning(
                "trouble with a service on a node",
                node=node,
                service=str(each.service),
                kind=_kind(each),
                error=each.message,
                total=after.total,
            )
        if before.total and not after.total:
            log.info("no more trouble with services on a node", node=node, total=before.total)
        return begun

    def gone(self, conditions: Conditions) -> None:
        """The stream of a node that told this has ended."""
        for kind, count in _counts(conditions).items():
            self._counts[kind] -= count
            self._metrics.conditions.labels(kind).set(self._counts[kind])


def _counts(conditions: Conditions) -> Counter[str]:
    counts = Counter(map(_kind, conditions.conditions))
    if conditions.total > len(conditions.conditions):
        counts["unlisted"] = conditions.total - len(conditions.conditions)
    return counts


def _kind(condition: Condition) -> str:
    """A word of a bounded set, whatever a node sends."""
    try:
        name = pb.ServiceCondition.Kind.Name(pb.ServiceCondition.Kind.ValueType(condition.kind))
    except ValueError:
        return "unknown"
    return name.removeprefix(_PREFIX).lower()
