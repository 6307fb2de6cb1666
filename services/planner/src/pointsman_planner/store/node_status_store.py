# SPDX-License-Identifier: Apache-2.0
"""Node status beyond the open streams: what `report` is told is kept, and written some time later, or not at all.

`report` only keeps the newest status of a node. A task of its own writes, so a store that is slow or gone costs one
record for each node and never delays an endpoint change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pointsman_planner.core.status import NodeStatus


class NodeStatusStore(Protocol):
    """Where node status goes and comes from."""

    def report(self, status: NodeStatus) -> None:
        """A node's status changed. Never waits and never fails."""

    async def read(self, nodes: Iterable[str]) -> dict[str, NodeStatus]:
        """Last known status of nodes that have no stream here; what is not known, or unreadable now, is left out."""

    async def run(self) -> None:
        """Write what was reported, for ever."""

    async def close(self) -> None:
        """Let go of connections."""
