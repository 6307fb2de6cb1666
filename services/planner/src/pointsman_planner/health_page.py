# SPDX-License-Identifier: Apache-2.0
"""`/statusz`: how this planner does, for people.

Degradation is said here and in metrics, and never ends readiness: a planner without Redis, or without watchers, serves
its nodes all the same.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pointsman_chassis.http import Response
from pointsman_planner.core.planner import Planner
from pointsman_planner.shard import Shard
from pointsman_planner.store.affinity_store import EXCEPTIONS_MAX, AffinityStore
from pointsman_planner.store.port import Store


def health_page(*, planner_id: str, planner: Planner, shard: Shard, store: Store, affinity: AffinityStore) -> Response:
    """The page, as JSON."""
    page: dict[str, Any] = {
        "planner": planner_id,
        "inSync": planner.is_in_sync,
        "isDraining": shard.is_draining,
        "nodesConnected": len(planner.sessions),
        "nodesWaiting": shard.entrance.waiting,
        "store": {"isAvailable": store.is_available, "error": store.last_error},
        "membership": {
            "isFrozen": shard.is_frozen,
            "members": [
                {"planner": member.planner_id, "address": member.address, "isDraining": member.is_draining}
                for member in shard.members
            ],
        },
        "affinity": {
            "clients": len(affinity.held),
            "waiting": affinity.waiting,
            "evicted": affinity.evicted,
            "fullServices": affinity.full_services,
        },
        "degraded": _degraded(planner, shard, store, affinity),
    }
    return Response(body=msgspec.json.encode(page) + b"\n", content_type="application/json")


def _degraded(planner: Planner, shard: Shard, store: Store, affinity: AffinityStore) -> list[str]:
    """What does not work now, in words."""
    found = []
    if not planner.is_in_sync:
        found.append("no watcher has shown a complete view of the cluster yet: nodes keep what they have")
    if not store.is_available:
        found.append("shared state cannot be read or written: what planners share is as it was last known")
        found.append("session affinity between nodes: clients that come to another node get the pick of that node")
    if affinity.full_services or len(affinity.held) >= EXCEPTIONS_MAX:
        found.append("session affinity between nodes: there are more clients than are shared; some get picks")
    if shard.is_frozen and shard.members:
        found.append("membership is frozen: planners that join or end are not noticed")
    return found
