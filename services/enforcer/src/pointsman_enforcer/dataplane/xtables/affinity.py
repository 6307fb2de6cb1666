# SPDX-License-Identifier: Apache-2.0
"""A memory of clients that is the kernel's alone: persistence templates of IPVS.

It is not read back, so clients are neither told to other nodes nor taken from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pointsman_enforcer.dataplane.affinity import AffinityClient, Look
from pointsman_model.plan import ServicePlan


class UnreadMemory:
    """See `dataplane.affinity.AffinityMemory`: nothing in it is wanted."""

    is_wanted = False

    def watch(self, changed: Callable[[], None]) -> None:
        """Nothing is ever told."""

    async def look(self) -> Look | None:
        """Nothing is read."""
        return None

    def clients(self, _plan: ServicePlan, _rendering: bytes) -> Iterator[AffinityClient]:
        """Nobody is known."""
        return iter(())

    async def seed(self, _plan: ServicePlan, _rendering: bytes, _clients: Sequence[AffinityClient]) -> int:
        """Nobody is taken."""
        return 0
