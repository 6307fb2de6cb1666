# SPDX-License-Identifier: Apache-2.0
"""What a node's session reads of the planner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pointsman_model.cluster import ClusterPosition
from pointsman_model.digest import DigestBuckets
from pointsman_model.names import ServiceKey


class PlanSource(Protocol):
    """What a session reads; `core/planner.py` is the real one."""

    @property
    def position(self) -> ClusterPosition:
        """What the plans below speak of."""

    def digest(self, node: str) -> int:
        """Digest of the node's plan now."""

    def buckets(self, node: str) -> DigestBuckets:
        """Its bucket sums."""

    def services_in(self, buckets: Iterable[int]) -> list[ServiceKey]:
        """All services of some buckets, in the order in which they should be programmed."""

    def in_order(self, dirty: dict[ServiceKey, bool]) -> list[ServiceKey]:
        """Dirty services (True = it lost endpoints) in the order in which they should be programmed."""

    def update(self, key: ServiceKey, node: str) -> bytes | None:
        """The node's plan of a service as an `updates` field; None when there is no such service."""

    def facts(self, node: str) -> bytes:
        """The node's facts, encoded."""
