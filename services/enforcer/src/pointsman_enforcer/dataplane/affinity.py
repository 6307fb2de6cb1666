# SPDX-License-Identifier: Apache-2.0
"""The kernel's memory of clients, whatever the mode: who is remembered, and how others may read it and add to it.

Packets write this memory, and no plan says what is in it. A `look` reads it, up to `LOOK_CLIENTS_MAX` clients; what was
seen last is what comes back when somebody else deletes it, and what other nodes can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from pointsman_model.plan import ServicePlan

LOOK_CLIENTS_MAX: Final = 131_072
"""Most clients of one family that a look reads. A kernel begins each piece of a dump at the first element again, so the
time grows with the square: 0.3 s of one core for 100,000 clients, 50 s for a million."""


class AffinityClient(NamedTuple):
    """A client of a ServicePort and the endpoint that it keeps.

    Attributes:
        name: of the ServicePort.
        protocol: IP protocol number.
        client: address, 4 or 16 bytes.
        endpoint: its address and port.
        left_ms: when it is forgotten if it does not connect again.
        is_pick: a node without memory would choose the same.
    """

    name: str
    protocol: int
    client: bytes
    endpoint: tuple[bytes, int]
    left_ms: int
    is_pick: bool = False


class Look(NamedTuple):
    """What one look came to.

    Attributes:
        clients: how many were seen.
        is_whole: it did not stop before the end. While clients come and go, a look at more than about 500 may still
            miss some and see others twice; who is missed once is remembered all the same.
    """

    clients: int
    is_whole: bool


class AffinityMemory(Protocol):
    """`Dataplane.affinity`. All of it belongs to the event loop."""

    @property
    def is_wanted(self) -> bool:
        """Whether anything programmed has session affinity; without, a look is for nothing."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` when what clients without memory get was programmed anew, which makes exceptions of others."""

    async def look(self) -> Look | None:
        """Read the memory, in a thread. None: somebody else is changing it, and what was seen before still counts.

        Raises:
            KernelError: it could not be read.
        """

    def clients(self, plan: ServicePlan, rendering: bytes) -> Iterator[AffinityClient]:
        """Clients of a service, as the last look saw them or the one before it, whose endpoint it still has.

        `rendering` is what the kernel has of the plan. Lazy: 3 us a client, 6 with an IPv6 address.
        """

    async def seed(self, plan: ServicePlan, rendering: bytes, clients: Sequence[AffinityClient]) -> int:
        """Make the kernel remember clients of a service, or for longer than it would; how many it took.

        A client that connected here before keeps the endpoint it has; if that is the same one, the longer of both times
        counts. Those whose endpoint or port is not here are left out, and so are those whose time is over.

        Raises:
            KernelError: refused.
        """
