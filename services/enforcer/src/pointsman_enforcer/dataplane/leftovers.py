# SPDX-License-Identifier: Apache-2.0
"""What other modes, and kube-proxy, left in the kernel: found and removed, one kind at a time.

A leftover is what one program in one mode makes: our iptables chains of the legacy tool, kube-proxy's virtual servers.
Each has a class of its own beside what knows such objects; what is asked of it is little, so that one list holds all.
Whoever asks runs in the network namespace that is to be cleaned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pointsman_chassis.errors import PointsmanError


class LeftoverError(PointsmanError):
    """A leftover could not be looked for, or not be removed; the text says why."""


class Leftover(Protocol):
    """One kind of objects that this mode does not use."""

    @property
    def name(self) -> str:
        """Whose and in which mode, for people: `kube-proxy's iptables rules (legacy)`."""

    async def find(self) -> str:
        """What is there, for people; empty = nothing, also when the tools to look with are absent.

        Changes nothing. Raises LeftoverError when the kernel could not be asked.
        """

    async def remove(self) -> int:
        """Remove it, nothing else, and in an order in which no packet meets half of it; how many objects there were.

        Flows that the kernel can keep go on. May be repeated. Raises LeftoverError when refused.
        """


class Swept(NamedTuple):
    """One leftover after `sweep`."""

    name: str
    found: str
    removed: int
    error: str = ""
    """Why it is still there; empty when it is gone."""


async def sweep(leftovers: Sequence[Leftover]) -> list[Swept]:
    """Remove all that is found, one after the other; one that cannot be removed does not keep the others."""
    swept = []
    for leftover in leftovers:
        found = ""
        try:
            found = await leftover.find()
            if found:
                swept.append(Swept(leftover.name, found, await leftover.remove()))
        except LeftoverError as error:
            swept.append(Swept(leftover.name, found, 0, str(error)))
    return swept
