# SPDX-License-Identifier: Apache-2.0
"""Which entries of a kernel's connection table are ended, and at what cost.

From Kubernetes objects through the planner to the enforcer's flow keeper, in a namespace whose table others fill and
read. No rules are programmed: which entries are stale follows from the plan alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from unittest import mock

from conformance.addresses import PRIMARY, SECONDARY, address_in, events_in
from conformance.model import NODE, Event, Finding, IpFamily
from conformance.objects import Port, SlicePort, apply, node, service, service_cidr, slice_of
from conformance.pipeline import Cluster

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.stale_flows import Query
from pointsman_enforcer.dataplane.conntrack import table
from pointsman_enforcer.dataplane.conntrack.metrics import ConntrackMetrics
from pointsman_enforcer.dataplane.conntrack.reconciler import ConntrackReconciler
from pointsman_enforcer.dataplane.conntrack.table import ConntrackTable
from pointsman_model.names import parse_prefix
from pointsman_model.plan import ServicePlan
from support.flow_table import Seen, flows, inject, udp
from support.netns import NetNs
from support.scripted_conntrack import INTERRUPTED, WHOLE, ScriptedKernel

_UDP, _TCP, _SCTP = 17, 6, 132
_NAMES = {_UDP: "udp", _TCP: "tcp", _SCTP: "sctp"}
VIP, EXTERNAL, BALANCER = "172.30.1.1", "192.168.99.100", "1.2.3.4"
SERVING, NOT_SERVING, DELETED = "10.240.0.4", "10.240.1.5", "10.240.2.6"
PORT, TARGET, NODE_PORT = 8000, 9090, 32000
UNRELATED = 20_000
DEADLINE_SECONDS = 30.0
_PORTS = [Port(PORT, "tcp"), Port(PORT, "udp", "UDP", NODE_PORT), Port(PORT, "sctp", "SCTP")]
_SLICE_PORTS = [SlicePort(TARGET, port.name, port.protocol) for port in _PORTS]
Tale = Callable[["Keeper"], Awaitable[list[Finding]]]


class Keeper:
    """A node's connection table, and one enforcer process after another that keeps it."""

    def __init__(self, namespace: NetNs, family: IpFamily) -> None:
        self.namespace, self.family = namespace, family
        self._cluster = Cluster()
        self._cluster.apply(apply(node(), service_cidr()))
        self._start()

    def _start(self) -> None:
        self._tables: list[ConntrackTable] = []
        self._flows = ConntrackReconciler(
            node_port_blocks=lambda: [parse_prefix("0.0.0.0/0"), parse_prefix("::/0")],
            metrics=ConntrackMetrics(Registry(process=False)),
            clock=SystemClock(),
            open_table=self._open,
            is_frontend=lambda _: False,
        )
        self._task = asyncio.create_task(self._flows.run())

    def _open(self) -> ConntrackTable:
        self._tables.append(self.namespace.call(ConntrackTable))
        return self._tables[-1]

    async def restart(self) -> None:
        """The process ends, and another one begins with the same plan."""
        await self.close()
        self._start()
        await self.happens()

    async def close(self) -> None:
        """End the process."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for opened in self._tables:
            opened.close()

    async def happens(self, *events: Event) -> None:
        """Events, planned, programmed, and looked into."""
        self._cluster.apply(events_in(self.family, events))
        for key, plan in self._cluster.plan(NODE).services.items():
            self._flows.expect(key, plan if plan.ports else ServicePlan())
            self._flows.programmed(key)
        self._flows.synced(is_confirmed=True)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self._flows.is_idle:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the table was not looked into within {DEADLINE_SECONDS:.0f} s")
            await asyncio.sleep(0.01)

    def flow(self, to: str, port: int, answering: str = "", answering_port: int = TARGET, number: int = 0) -> Seen:
        """An entry, in this family; without `answering` it was never translated."""
        where = address_in(self.family, to)
        who = address_in(self.family, answering) if answering else where
        client = address_in(self.family, "10.0.0.2")
        return udp(where, port, who, answering_port if answering else port, source=client, number=number)

    def track(self, entries: Iterable[Seen], protocol: int = _UDP) -> None:
        """The kernel has seen these."""
        inject(self.namespace, entries, protocol=protocol)

    def left(self, entries: Iterable[Seen], protocol: int = _UDP) -> str:
        """Which of these are still there."""
        family = "ipv4" if self.family is IpFamily.IPV4 else "ipv6"
        found = flows(self.namespace, _NAMES[protocol], family)
        return _text(entry for entry in entries if entry in found)

    @property
    def deletions(self) -> int:
        """Asked of the kernel by this process."""
        return sum(opened.deletions for opened in self._tables)


def _text(entries: Iterable[Seen]) -> str:
    found = sorted(f"{each.destination}:{each.port} by {each.answering}:{each.answering_port}" for each in entries)
    return ", ".join(found) or "none"


def _state(serving: str = f"{SERVING}@L {NOT_SERVING}@R/U") -> tuple[Event, ...]:
    of_catalogue = service("svc1", VIP, _PORTS, load_balancer=[BALANCER], external_ips=[EXTERNAL])
    return apply(of_catalogue, slice_of("svc1", serving, _SLICE_PORTS))


def _told(tale: Tale) -> Callable[[object, IpFamily], Iterator[Finding]]:
    """A check that tells the tale in a namespace of its own."""

    async def run(namespace: NetNs, family: IpFamily) -> list[Finding]:
        keeper = Keeper(namespace, family)
        try:
            return await tale(keeper)
        finally:
            await keeper.close()

    def check(_: object, family: IpFamily) -> Iterator[Finding]:
        with NetNs("flows") as namespace:
            for address in (PRIMARY, SECONDARY):
                there = address_in(family, address)
                namespace.address("lo", f"{there}/{128 if ':' in there else 32}")
            return iter(asyncio.run(run(namespace, family)))

    return check


def _places(keeper: Keeper, answering: str) -> list[Seen]:
    """A flow to each place of the Service, all with client ports of their own."""
    places = [(VIP, PORT), (EXTERNAL, PORT), (BALANCER, PORT), (PRIMARY, NODE_PORT), (SECONDARY, NODE_PORT)]
    first = 10 * (SERVING, NOT_SERVING, DELETED).index(answering)
    return [keeper.flow(to, port, answering, number=first + place) for place, (to, port) in enumerate(places)]


async def _stale_ones_end(keeper: Keeper) -> list[Finding]:
    stale = _places(keeper, NOT_SERVING)
    gone = _places(keeper, DELETED)
    alive = _places(keeper, SERVING)
    keeper.track([*stale, *gone, *alive])
    await keeper.happens(*_state())
    return [
        Finding("to an endpoint that does not serve", "none", keeper.left(stale)),
        Finding("to an endpoint that is gone", "none", keeper.left(gone)),
        Finding("to one that serves", _text(alive), keeper.left(alive)),
    ]


async def _others_stay(keeper: Keeper) -> list[Finding]:
    tcp = _places(keeper, DELETED)
    sctp = _places(keeper, SERVING)[:3]
    other_port = [keeper.flow(to, 3000, DELETED, number=n) for n, to in enumerate((VIP, EXTERNAL, BALANCER))]
    others = [*other_port, keeper.flow("8.8.8.8", 53), keeper.flow("203.0.113.9", NODE_PORT)]
    keeper.track(tcp, _TCP)
    keeper.track(sctp, _SCTP)
    keeper.track(others)
    await keeper.happens(*_state())
    return [
        Finding("TCP", _text(tcp), keeper.left(tcp, _TCP)),
        Finding("SCTP to an endpoint that serves", _text(sctp), keeper.left(sctp, _SCTP)),
        Finding("other ports, other hosts", _text(others), keeper.left(others)),
    ]


async def _none_serve_none_stay(keeper: Keeper) -> list[Finding]:
    entries = _places(keeper, SERVING)
    await keeper.happens(*_state())
    keeper.track(entries)
    await keeper.happens(*_state(serving=f"{SERVING}@L/TX"))
    return [Finding("flows of a Service without endpoints that serve", "none", keeper.left(entries))]


async def _unrelated_cost_nothing(keeper: Keeper) -> list[Finding]:
    many = [keeper.flow("8.8.8.8", 53 + number // 60_000, number=number) for number in range(UNRELATED)]
    stale = [keeper.flow(VIP, PORT, DELETED, number=number) for number in range(40)]
    keeper.track([*many, *stale])
    await keeper.happens(*_state())
    return [
        Finding("deletions asked of the kernel", "40", str(keeper.deletions)),
        Finding("stale flows left", "none", keeper.left(stale)),
        Finding("unrelated flows left", _text(many), keeper.left(many)),
    ]


async def _a_new_place_is_cleaned(keeper: Keeper) -> list[Finding]:
    plain = [Port(PORT, "udp", "UDP")]
    endpoints = slice_of("svc1", f"{SERVING}@L", [SlicePort(TARGET, "udp", "UDP")])
    await keeper.happens(*apply(service("svc1", VIP, plain), endpoints))
    early = [keeper.flow(EXTERNAL, PORT), keeper.flow(PRIMARY, NODE_PORT)]
    alive = [keeper.flow(VIP, PORT, SERVING)]
    keeper.track([*early, *alive])
    with_node_port = [Port(PORT, "udp", "UDP", NODE_PORT)]
    await keeper.happens(*apply(service("svc1", VIP, with_node_port, external_ips=[EXTERNAL])))
    return [
        Finding("sent before the external IP and the node port were there", "none", keeper.left(early)),
        Finding("to the cluster IP", _text(alive), keeper.left(alive)),
    ]


async def _a_restart_ends_nothing_alive(keeper: Keeper) -> list[Finding]:
    state = _state(serving=f"{SERVING}@L {NOT_SERVING}@R/T")
    await keeper.happens(*state)
    alive = _places(keeper, SERVING)
    leaving = _places(keeper, NOT_SERVING)
    stale = _places(keeper, DELETED)
    keeper.track([*alive, *leaving, *stale])
    await keeper.restart()
    return [
        Finding("to one that serves", _text(alive), keeper.left(alive)),
        Finding("to one that is terminating and serves", _text(leaving), keeper.left(leaving)),
        Finding("to one that was gone before", "none", keeper.left(stale)),
    ]


stale_ones_end = _told(_stale_ones_end)
"""Row 148."""
others_stay = _told(_others_stay)
"""Row 149. SCTP is kept up as UDP is: only what goes to an endpoint that serves stays."""
none_serve_none_stay = _told(_none_serve_none_stay)
"""Row 150: what kube-proxy intends, and 1.36.2 does not do."""
unrelated_cost_nothing = _told(_unrelated_cost_nothing)
"""Row 151."""
a_new_place_is_cleaned = _told(_a_new_place_is_cleaned)
"""Row 153."""
a_restart_ends_nothing_alive = _told(_a_restart_ends_nothing_alive)
"""Row 154."""


def a_partial_dump_counts(_: object, __: IpFamily) -> Iterator[Finding]:
    """Row 152: the kernel is played by the other end of a socket, since a real one interrupts when it likes."""
    kernel = ScriptedKernel(INTERRUPTED, WHOLE)
    with mock.patch.object(table, "_open", kernel.open):
        made = ConntrackTable()
    with kernel.serving():
        ended = made.end_flows(Query(4, _UDP), lambda _flow: True)
    yield Finding("ended, of both dumps", "4", str(ended))
    yield Finding("deletions that reached the kernel", "4", str(kernel.deletions()))
    made.close()
    kernel.close()
