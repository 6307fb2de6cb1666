# SPDX-License-Identifier: Apache-2.0
"""A single planner knows every connected node itself; this remembers the ones that went away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pointsman_planner.core.status import NodeState, NodeStatus

_NODES_MAX = 20_000


class MemoryStatusStore:
    """Keeps the last status of disconnected nodes, the newest ones, in this process."""

    def __init__(self) -> None:
        self._last: dict[str, NodeStatus] = {}

    def report(self, status: NodeStatus) -> None:
        """Remember a node that just went away; a connected one speaks for itself."""
        self._last.pop(status.name, None)
        if status.state is NodeState.DISCONNECTED:
            self._last[status.name] = status
            while len(self._last) > _NODES_MAX:
                del self._last[next(iter(self._last))]

    async def read(self, nodes: Iterable[str]) -> dict[str, NodeStatus]:
        """Last known status of disconnected nodes."""
        return {name: self._last[name] for name in nodes if name in self._last}

    async def run(self) -> None:
        """Nothing to write."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing to let go of."""
