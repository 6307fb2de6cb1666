# SPDX-License-Identifier: Apache-2.0
"""Each service's plan, planned and encoded once for every view of it, however many nodes share the view.

Digests are small and are kept for every view that an attached node has; the bytes are kept within a budget, first
encoded first out (reading costs no bookkeeping; in a cold start every plan is read once by every node). Planning is
pure, so bytes that were dropped are simply made again and are the same bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from pointsman_model.digest import plan_digest
from pointsman_model.names import ServiceKey
from pointsman_model.plan import ServicePlan
from pointsman_model.wire.plan import encode_service_plan
from pointsman_planner.core.assignment import plan_service
from pointsman_planner.core.cluster_state import PlannedService
from pointsman_planner.core.framing import ITEM_BYTES_MAX, update_field
from pointsman_planner.core.view import View

Digests = dict[View, int]
_TOO_LARGE = encode_service_plan(ServicePlan(required_capabilities=("plan-above-1-mib",)))
"""In the place of a plan that does not fit a message. No enforcer can do what it requires, so each refuses the Service
by name and keeps what it has of it; a message above the limit would end its stream and hold up all other services."""

_ENTRY_OVERHEAD_BYTES = 450
"""Python's own cost of a cached entry (tuples, bytes header, dict slots), counted so that the budget is honest."""


class CacheStatistics(NamedTuple):
    """What the cache holds and what it cost."""

    entries: int
    bytes: int
    encoded: int
    """Plans computed and encoded since the start."""
    oversized: int
    """Of these, plans that did not fit a message."""
    served: int
    """Times a plan was asked for, to be sent to a node."""


class PlanCache:
    """Encoded plans by service and view."""

    __slots__ = ("_bytes", "_bytes_max", "_digests", "_encoded", "_oversized", "_served", "_sizes", "_updates")

    def __init__(self, *, bytes_max: int = 256 << 20) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._encoded = 0
        self._oversized = 0
        self._served = 0
        self._updates: dict[ServiceKey, dict[View, bytes]] = {}
        self._digests: dict[ServiceKey, Digests] = {}
        self._sizes: OrderedDict[tuple[ServiceKey, View], int] = OrderedDict()
        """Cost of each entry of `_updates`, oldest first."""

    @property
    def statistics(self) -> CacheStatistics:
        """What the cache holds now."""
        return CacheStatistics(len(self._sizes), self._bytes, self._encoded, self._oversized, self._served)

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
        self._served += 1
        updates = self._updates.get(planned.state.key)
        found = updates.get(view) if updates is not None else None
        return found if found is not None else self._encode(planned, view)

    def invalidate(self, key: ServiceKey) -> Digests:
        """Forget a service that changed; returns the digests it had, for the caller's sums."""
        for view in self._updates.pop(key, {}):
            self._bytes -= self._sizes.pop((key, view))
        return self._digests.pop(key, {})

    def drop(self, key: ServiceKey, view: View) -> None:
        """Forget a view that no attached node has any more."""
        digests = self._digests.get(key)
        if digests is not None:
            digests.pop(view, None)
            if not digests:
                del self._digests[key]
        self._drop_bytes(key, view)

    def _drop_bytes(self, key: ServiceKey, view: View) -> None:
        updates = self._updates.get(key)
        if updates is None or updates.pop(view, None) is None:
            return
        self._bytes -= self._sizes.pop((key, view))
        if not updates:
            del self._updates[key]

    def _encode(self, planned: PlannedService, view: View) -> bytes:
        key = planned.state.key
        plan = encode_service_plan(plan_service(planned.state, view, planned.lost))
        data = update_field(key, plan)
        self._encoded += 1
        if len(data) > ITEM_BYTES_MAX:
            self._oversized += 1
            plan = _TOO_LARGE
            data = update_field(key, plan)
        self._digests.setdefault(key, {})[view] = plan_digest(key, plan)
        self._updates.setdefault(key, {})[view] = data
        size = self._sizes[key, view] = len(data) + _ENTRY_OVERHEAD_BYTES
        self._bytes += size
        while self._bytes > self._bytes_max and len(self._sizes) > 1:
            self._drop_bytes(*next(iter(self._sizes)))
        return data
