# SPDX-License-Identifier: Apache-2.0
"""Transactions on their way to a node, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass

from pointsman_model.cluster import ClusterPosition
from pointsman_model.names import ServiceKey
from pointsman_planner.core.messages import Failure


@dataclass(frozen=True, slots=True)
class InFlight:
    """A transaction that was sent and is not acknowledged."""

    nonce: int
    position: ClusterPosition
    digest: int
    keys: tuple[ServiceKey, ...]
    """Services replaced one by one."""
    buckets: frozenset[int]
    """Buckets replaced as a whole."""
    traceparents: tuple[str, ...]
    """Of the changes it brings: of sampled ones what `next_transaction` was told to send in their place."""
    built_ns: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A transaction that the node's kernel has now: for the `ack` span and the latency figure."""

    traceparents: tuple[str, ...]
    built_ns: int
    position: ClusterPosition
    failure: Failure | None = None
    """Of a service that it brought and that the node refused; the first if there are several."""
