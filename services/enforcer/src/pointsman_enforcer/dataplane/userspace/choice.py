# SPDX-License-Identifier: Apache-2.0
"""Which endpoint a new connection gets: in turn by weight, or by what session affinity remembers. Pure; time is given.

The first pick of a client nobody remembers is that of every mode and node (`pointsman_model.affinity`). Whoever could
not be reached is followed by the next in turn.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.nftables.slots import shares_of
from pointsman_enforcer.dataplane.userspace.target import Address, Target
from pointsman_model.affinity import bucket_of, pick_table
from pointsman_model.plan import PlanEndpoint

CLIENTS_MAX: Final = 1 << 17
"""Most clients that one ServicePort remembers; the one that has not come for the longest time is forgotten first."""


class Memory(NamedTuple):
    """What is remembered of a client."""

    endpoint: Address
    expires_at: float


class AffinityTable:
    """The clients of one ServicePort. Time counts from a client's last new connection, not its last byte."""

    def __init__(self, clients_max: int = CLIENTS_MAX) -> None:
        self._clients_max = clients_max
        self._clients: OrderedDict[bytes, Memory] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def get(self, client: bytes, now: float) -> Memory | None:
        """What is remembered of a client, if its time is not over."""
        found = self._clients.get(client)
        return found if found is not None and found.expires_at > now else None

    def remember(self, client: bytes, endpoint: Address, expires_at: float) -> None:
        """From now on, until then."""
        self._clients[client] = Memory(endpoint, expires_at)
        self._clients.move_to_end(client)
        while len(self._clients) > self._clients_max:
            self._clients.popitem(last=False)

    def forget_expired(self, now: float) -> None:
        """Let go of those whose time is over, the longest unseen first; stops at one whose time is not."""
        while self._clients and next(iter(self._clients.values())).expires_at <= now:
            self._clients.popitem(last=False)

    def clients(self) -> list[tuple[bytes, Memory]]:
        """Everybody, the longest unseen first."""
        return list(self._clients.items())


class Balancer:
    """Chooses among the endpoints of one target."""

    def __init__(self, target: Target, memory: AffinityTable, position: int = 0) -> None:
        """`position` is where in its turn the rotation stands; endpoints that stay need not be the next ones."""
        self.target = target
        self.members = frozenset((each.address, each.port) for each in target.endpoints)
        self.position = position
        self._memory = memory
        self._rotation = _rotation(target.endpoints)
        self._picks: tuple[int, ...] = ()

    def attempts(self, client: bytes, now: float) -> Iterator[Address]:
        """Endpoints in the order in which to try them, without end: nobody twice before everybody was tried."""
        tried: set[Address] = set()
        if self.target.affinity_seconds:
            first = self._remembered(client, now) or self.pick(client)
            tried.add(first)
            yield first
        while True:
            endpoint = self._next(tried)
            tried.add(endpoint)
            yield endpoint

    def reached(self, client: bytes, endpoint: Address, now: float) -> None:
        """The client has a connection to this endpoint: remember it, or remember it for longer."""
        if self.target.affinity_seconds:
            self._memory.forget_expired(now)
            self._memory.remember(client, endpoint, now + self.target.affinity_seconds)

    def pick(self, client: bytes) -> Address:
        """What a client without memory gets."""
        self._picks = self._picks or pick_table(self.target.endpoints)
        chosen = self.target.endpoints[self._picks[bucket_of(client, len(self._picks))]]
        return chosen.address, chosen.port

    def keeps(self, endpoint: Address) -> bool:
        """Whether UDP flows to this endpoint go on."""
        return endpoint in self.members or endpoint in self.target.serving

    def _remembered(self, client: bytes, now: float) -> Address | None:
        found = self._memory.get(client, now)
        return found.endpoint if found is not None and found.endpoint in self.members else None

    def _next(self, tried: set[Address]) -> Address:
        if tried >= self.members:
            tried.clear()
        while True:
            endpoint = self._rotation[self.position % len(self._rotation)]
            self.position += 1
            if endpoint not in tried:
                return endpoint


def _rotation(endpoints: tuple[PlanEndpoint, ...]) -> list[Address]:
    """Each endpoint as often as its weight says, evenly spread over the turn."""
    shares = shares_of([each.weight for each in endpoints])
    turns = [
        ((2 * number + 1) / share, each.address, each.port)
        for each, share in zip(endpoints, shares, strict=True)
        for number in range(share)
    ]
    return [(address, port) for _, address, port in sorted(turns)]
