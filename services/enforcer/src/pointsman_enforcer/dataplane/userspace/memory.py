# SPDX-License-Identifier: Apache-2.0
"""The proxy's memory of clients, as `dataplane.affinity.AffinityMemory` offers it to others.

It is this process's own, so nobody takes it away, a look is a copy, and nothing is read from a kernel. Of SCTP ports,
which the kernel remembers, it knows nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final

from pointsman_enforcer.dataplane.affinity import LOOK_CLIENTS_MAX, AffinityClient, Look
from pointsman_enforcer.dataplane.userspace.choice import AffinityTable, Balancer, Memory
from pointsman_enforcer.dataplane.userspace.proxy import Proxy
from pointsman_enforcer.dataplane.userspace.redirect import memory_of, mine
from pointsman_enforcer.dataplane.userspace.target import Target, listeners_of, parse_target
from pointsman_model.plan import ServicePlan, ServicePortPlan

_MILLISECONDS: Final = 1000


class ProxyMemory:
    """See `dataplane.affinity.AffinityMemory`."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._seen: Mapping[bytes, list[tuple[bytes, Memory]]] = {}
        self._changed: Callable[[], None] = lambda: None
        self.is_wanted = False

    def watch(self, changed: Callable[[], None]) -> None:
        """See `AffinityMemory.watch`."""
        self._changed = changed

    def served(self, targets: Mapping[bytes, bytes]) -> None:
        """These targets are served from now on."""
        if any(parse_target(each).affinity_seconds for each in targets.values()):
            self.is_wanted = True
            self._changed()

    async def look(self) -> Look | None:
        """See `AffinityMemory.look`."""
        self._seen, is_whole = await asyncio.wrap_future(self._proxy.poller.submit(self._copy))
        return Look(sum(map(len, self._seen.values())), is_whole)

    def clients(self, plan: ServicePlan, rendering: bytes) -> Iterator[AffinityClient]:
        """See `AffinityMemory.clients`."""
        now = self._proxy.poller.now()
        for port, targets in _ports(plan, rendering):
            balancers = [Balancer(target, AffinityTable()) for target in targets]
            for client, memory in self._seen.get(memory_of(port), ()):
                chosen = [each for each in balancers if memory.endpoint in each.members]
                if chosen and memory.expires_at > now:
                    yield AffinityClient(
                        name=port.name,
                        protocol=port.protocol,
                        client=client,
                        endpoint=memory.endpoint,
                        left_ms=int((memory.expires_at - now) * _MILLISECONDS),
                        is_pick=chosen[0].pick(client) == memory.endpoint,
                    )

    async def seed(self, plan: ServicePlan, rendering: bytes, clients: Sequence[AffinityClient]) -> int:
        """See `AffinityMemory.seed`."""
        ports = {
            (port.name, int(port.protocol), port.family.address_bytes): port for port, _ in _ports(plan, rendering)
        }
        wanted = []
        for each in clients:
            port = ports.get((each.name, each.protocol, len(each.client)))
            if port is None or each.left_ms <= 0:
                continue
            left = min(each.left_ms / _MILLISECONDS, float(plan.affinity_timeout_seconds))
            if any((end.address, end.port) == each.endpoint for chosen in port.endpoint_sets for end in chosen):
                wanted.append((memory_of(port), each.client, each.endpoint, left))
        return await asyncio.wrap_future(self._proxy.poller.submit(partial(self._enter, wanted)))

    def _copy(self) -> tuple[dict[bytes, list[tuple[bytes, Memory]]], bool]:
        left, found = LOOK_CLIENTS_MAX, {}
        for name, table in self._proxy.memories.items():
            if len(table):
                found[name] = list(islice(table.clients(), left))
                left -= len(found[name])
        return found, left > 0

    def _enter(self, wanted: Sequence[tuple[bytes, bytes, tuple[bytes, int], float]]) -> int:
        now, taken = self._proxy.poller.now(), 0
        for name, client, endpoint, left in wanted:
            table = self._proxy.memories.get(name)
            if table is None:
                continue
            known = table.get(client, now)
            if known is None or (known.endpoint == endpoint and known.expires_at < now + left):
                table.remember(client, endpoint, now + left)
                taken += 1
        return taken


def _ports(plan: ServicePlan, rendering: bytes) -> Iterator[tuple[ServicePortPlan, list[Target]]]:
    """Ports with session affinity that the proxy serves, each with the targets of its listeners."""
    targets: dict[bytes, list[Target]] = {}
    for packed in listeners_of(rendering).values() if plan.affinity_timeout_seconds else ():
        target = parse_target(packed)
        targets.setdefault(target.memory, []).append(target)
    for port in mine(plan):
        if port.frontends and memory_of(port) in targets:
            yield port, targets[memory_of(port)]
