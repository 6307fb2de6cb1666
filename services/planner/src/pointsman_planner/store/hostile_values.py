# SPDX-License-Identifier: Apache-2.0
"""What repositories do with values that are not theirs: leave them out, count them, and tell once.

Anybody who may write to the store can put anything there. Nothing of it may stop a planner, and it must not fill the
log either.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
import structlog

from pointsman_planner.metrics import StoreMetrics
from pointsman_planner.store.port import Area, Record

_TOLD_MAX = 100
_T = TypeVar("_T")


class HostileValues:
    """Shared by the repositories of a planner."""

    def __init__(self, metrics: StoreMetrics) -> None:
        self._metrics = metrics
        self._told: set[tuple[str, str]] = set()

    def decoded(self, area: Area, record: Record, kind: type[_T]) -> _T | None:
        """The record's JSON as `kind`; None when it is none, or `kind` refuses its values with a ValueError."""
        try:
            return msgspec.json.decode(record.value, type=kind)
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            self.leave_out(area, record.key, error)
            return None

    def leave_out(self, area: Area, key: str, error: Exception) -> None:
        """A value is left out for this reason."""
        self._metrics.hostile.labels(area.name).inc()
        if (area.name, key) not in self._told and len(self._told) < _TOLD_MAX:
            self._told.add((area.name, key))
            structlog.get_logger("store").warning(
                "a stored value is none of ours and is left out", area=area.name, key=key[:200], error=str(error)[:200]
            )
