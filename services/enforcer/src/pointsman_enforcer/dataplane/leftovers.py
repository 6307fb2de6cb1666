# SPDX-License-Identifier: Apache-2.0
"""What other modes, and kube-proxy, left in the kernel: found and removed, one kind at a time.

A leftover is what one program in one mode makes: our iptables chains of the legacy tool, kube-proxy's virtual servers.
Each has a class of its own beside what knows such objects; what is asked of it is little, so that one list holds all.
Whoever asks runs in the network namespace that is to be cleaned.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from pointsman_chassis.errors import PointsmanError


class LeftoverError(PointsmanError):
    """A leftover could not be looked for, or not be removed; the text says why."""


class Leftover(Protocol):
    """One kind of objects that this mode does not use."""

    @property
    def name(self) -> str:
        """Whose and in which mode, for people: `kube-proxy's iptables rules (legacy)`."""

    @property
    def is_waiting(self) -> bool:
        """Whether the last `remove` left something that must stay until its last connection is over: call it again.

        Such objects take no new connection any more. IPVS is like that: its connections end with their servers.
        """

    async def find(self) -> str:
        """What is there, for people; empty = nothing, also when the tools to look with are absent.

        Changes nothing. Raises LeftoverError when the kernel could not be asked.
        """

    async def remove(self) -> int:
        """Remove it, nothing else, and in an order in which no packet meets half of it; how many objects went.

        Flows that the kernel can keep go on. May be repeated. Raises LeftoverError when refused.
        """


class Swept(NamedTuple):
    """One leftover after an attempt to remove it."""

    name: str
    found: str
    removed: int = 0
    is_waiting: bool = False
    """What is left takes no new connection and goes with its last one."""
    error: str = ""
    """Why it is still there."""

    @property
    def is_over(self) -> bool:
        """Nothing of it is left."""
        return not self.is_waiting and not self.error


async def sweep(leftover: Leftover) -> Swept:
    """Remove a leftover, if it is there."""
    found = ""
    try:
        found = await leftover.find()
        removed = await leftover.remove() if found else 0
    except LeftoverError as error:
        return Swept(leftover.name, found, error=str(error))
    return Swept(leftover.name, found, removed, found != "" and leftover.is_waiting)
