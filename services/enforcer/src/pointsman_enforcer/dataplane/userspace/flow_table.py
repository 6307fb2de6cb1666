# SPDX-License-Identifier: Apache-2.0
"""UDP flows of one listener: who speaks with which endpoint, and when a silence ends it. Pure; time is given."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from pointsman_enforcer.dataplane.userspace.target import Address

K = TypeVar("K")
S = TypeVar("S")


@dataclass(slots=True)
class Flow(Generic[K, S]):
    """One client's datagrams. Not frozen: each of them makes it live longer."""

    client: K
    endpoint: Address
    channel: S
    """How the endpoint is reached; the table does not look at it."""
    seen_at: float


class FlowTable(Generic[K, S]):
    """Flows by client, the longest silent first."""

    def __init__(self, idle_seconds: float) -> None:
        self.idle_seconds = idle_seconds
        self._flows: OrderedDict[K, Flow[K, S]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._flows)

    def get(self, client: K) -> Flow[K, S] | None:
        """The flow of a client."""
        return self._flows.get(client)

    def add(self, flow: Flow[K, S]) -> None:
        """Enter a flow that begins; its client must have none."""
        self._flows[flow.client] = flow

    def touch(self, flow: Flow[K, S], now: float) -> None:
        """A datagram went either way."""
        flow.seen_at = now
        self._flows.move_to_end(flow.client)

    def remove(self, flow: Flow[K, S]) -> None:
        """Take a flow out, if it is still there."""
        if self._flows.get(flow.client) is flow:
            del self._flows[flow.client]

    def take_idle(self, now: float) -> Iterator[Flow[K, S]]:
        """Take out those that were silent for too long."""
        while self._flows:
            flow = next(iter(self._flows.values()))
            if flow.seen_at + self.idle_seconds > now:
                return
            self.remove(flow)
            yield flow

    def take_unless(self, keeps: Callable[[Address], bool]) -> list[Flow[K, S]]:
        """Take out those to endpoints that are not kept."""
        gone = [flow for flow in self._flows.values() if not keeps(flow.endpoint)]
        for flow in gone:
            self.remove(flow)
        return gone
