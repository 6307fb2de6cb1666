# SPDX-License-Identifier: Apache-2.0
"""Each service's plan, planned and encoded once for every view of it, however many nodes share the view.

Digests are small and are kept for every view that an attached node has; the bytes are kept within a budget, least recently
used first out. Planning is pure, so bytes that were dropped are simply made again and are the same bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from pointsman_model.digest import plan_digest
from pointsman_model.names import ServiceKey
from pointsman_model.wire.plan import encode_service_plan

from pointsman_planner.core.assignment import plan_service
from pointsman_planner.core.cluster_state import PlannedService
from pointsman_planner.core.framing import update_field
from pointsman_planner.core.view import View

Digests = dict[View, int]

_ENTRY_OVERHEAD_BYTES = 250
"""Python's own cost of a cached entry: key and view tuples, bytes header, dict slots. Counted so that the budget is honest."""


class CacheStatistics(NamedTuple):
    """What the cache holds and what it cost."""

    entries: int
    bytes: int
    encoded: int
    """Plans computed and encoded since the start."""


class PlanCache:
    """Encoded plans by service and view."""

    __slots__ = ("_bytes", "_bytes_max", "_digests", "_encoded", "_updates")

    def __init__(self, *, bytes_max: int = 256 << 20) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._encoded = 0
        self._updates: OrderedDict[tuple[ServiceKey, View], bytes] = OrderedDict()
        self._digests: dict[ServiceKey, Digests] = {}

    @property
    def statistics(self) -> CacheStatistics:
        """What the cache holds now."""
        return CacheStatistics(len(self._updates), self._bytes, self._encoded)

    def digest(self, planned: PlannedService, view: View) -> int:
        """Digest of the plan for a view."""
        digests = self._digests.get(planned.state.key)
        found = digests.get(view) if digests is not None else None
        if found is None:
            self._encode(planned, view)
            found = self._digests[planned.state.key][view]
        return found

    def update(self, planned: PlannedService, view: View) -> bytes:
        """The plan for a view as a whole `Transaction.updates` field, tag and length included."""
        name = (planned.state.key, view)
        found = self._updates.get(name)
        if found is None:
            return self._encode(planned, view)
        self._updates.move_to_end(name)
        return found

    def invalidate(self, key: ServiceKey) -> Digests:
        """Forget a service that changed; returns the digests it had, for the caller's sums."""
        digests = self._digests.pop(key, {})
        for view in digests:
            self._drop_bytes(key, view)
        return digests

    def drop(self, key: ServiceKey, view: View) -> None:
        """Forget a view that no attached node has any more."""
        digests = self._digests.get(key)
        if digests is not None:
            digests.pop(view, None)
            if not digests:
                del self._digests[key]
        self._drop_bytes(key, view)

    def _drop_bytes(self, key: ServiceKey, view: View) -> None:
        data = self._updates.pop((key, view), None)
        if data is not None:
            self._bytes -= len(data) + _ENTRY_OVERHEAD_BYTES

    def _encode(self, planned: PlannedService, view: View) -> bytes:
        key = planned.state.key
        plan = encode_service_plan(plan_service(planned.state, view, planned.lost))
        self._encoded += 1
        self._digests.setdefault(key, {})[view] = plan_digest(key, plan)
        data = update_field(key, plan)
        self._updates[key, view] = data
        self._bytes += len(data) + _ENTRY_OVERHEAD_BYTES
        while self._bytes > self._bytes_max and len(self._updates) > 1:
            _, dropped = self._updates.popitem(last=False)
            self._bytes -= len(dropped) + _ENTRY_OVERHEAD_BYTES
        return data
