# SPDX-License-Identifier: Apache-2.0
"""A node whose dataplane is programmed with one Service with session affinity, and as many clients as a test wants.

Endpoints are echo servers named `a`, `b`, `c`, `d`: two ports on each of the two pods of `World`. Clients are addresses
of the outside machine, all of a network that is local there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from pointsman_enforcer.dataplane.affinity import AffinityClient
from pointsman_enforcer.dataplane.base import Found
from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.elements import Element, flush_set
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_model import names
from pointsman_model.affinity import pick
from pointsman_model.names import Protocol, parse_address, parse_prefix
from pointsman_model.plan import (
    Action,
    Frontend,
    FrontendKind,
    NodeFacts,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    Verdict,
)
from support.nft_world import ECHO_PORT, World
from support.traffic import PATIENCE_SECONDS, EchoServer, answered

NODE_PORT = 30080
CLIENTS = {Family.IPV4: "198.18.0.0/16", Family.IPV6: "2001:db8:c::/64"}
EVERYBODY = ("a", "b", "c", "d")


class AffinityWorld:
    """A `World` with four endpoints and a dataplane; a context manager."""

    def __init__(self, family: Family) -> None:
        self.world = World(family)
        self.family = names.Family.IPV4 if family is Family.IPV4 else names.Family.IPV6
        self.at = self.world.at
        self._network = ipaddress.ip_network(CLIENTS[family])
        self._stack = contextlib.ExitStack()
        self.plan = ServicePlan()
        self.rendering = b""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.world)
            stack.enter_context(EchoServer(self.world.pod1, "b", ECHO_PORT + 1))
            stack.enter_context(EchoServer(self.world.pod2, "d", ECHO_PORT + 1))
            self.world.client.sysctl("net.ipv6.ip_nonlocal_bind", 1)
            self.world.client.run("ip", "route", "add", "local", str(self._network), "dev", "lo")
            self._stack = stack.pop_all()
        self.dataplane = self._make()
        self._adopt()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.dataplane.close()
        self._stack.close()

    def client(self, number: int) -> str:
        """One of many client addresses."""
        return str(self._network[number + 1])

    def endpoint(self, name: str, weight: int = 1) -> PlanEndpoint:
        address = self.at.pod1 if name in "ab" else self.at.pod2
        return PlanEndpoint(parse_address(address), ECHO_PORT + (name in "bd"), weight)

    def endpoints(self, chosen: Sequence[str], weights: dict[str, int] | None = None) -> tuple[PlanEndpoint, ...]:
        return tuple(sorted(self.endpoint(name, (weights or {}).get(name, 1)) for name in chosen))

    def picked(self, client: str, chosen: Sequence[str], weights: dict[str, int] | None = None) -> str:
        """The endpoint that a client without memory must get."""
        endpoint = pick(parse_address(client), self.endpoints(chosen, weights))
        return next(name for name in EVERYBODY if self.endpoint(name)[:2] == endpoint[:2])

    def restart(self) -> None:
        """Another process, which finds what the one before left; it programs what that had."""
        self.dataplane.close()
        self.dataplane = self._make()
        assert self._adopt() is Found.OURS
        self._program(self.plan, self.dataplane.claim(self.plan, b""))
        for change in self.dataplane.leftover():
            asyncio.run(self.dataplane.apply(change))

    def program(
        self,
        chosen: Sequence[str] = EVERYBODY,
        *,
        local: Sequence[str] | None = None,
        seconds: int = 600,
        weights: dict[str, int] | None = None,
        node_port: int = NODE_PORT,
    ) -> None:
        """Program `service`."""
        made = self.service(chosen, local=local, seconds=seconds, weights=weights, node_port=node_port)
        self._program(made, self.rendering)

    def service(
        self,
        chosen: Sequence[str] = EVERYBODY,
        *,
        local: Sequence[str] | None = None,
        seconds: int = 600,
        weights: dict[str, int] | None = None,
        node_port: int = NODE_PORT,
    ) -> ServicePlan:
        """A Service with two ports, TCP and UDP each, and these endpoints; with `local`, outsiders get only those."""
        sets = [self.endpoints(chosen, weights)]
        if local is not None:
            sets.append(self.endpoints(local, weights))
        outside = Verdict(Action.FORWARD, 0, True) if local is None else Verdict(Action.FORWARD, 1)
        inside = (Verdict(Action.FORWARD), Verdict(Action.FORWARD, 0, True), Verdict(Action.FORWARD, 0, True))
        ports = tuple(
            ServicePortPlan(
                name=f"{number}",
                protocol=protocol,
                family=self.family,
                frontends=(
                    Frontend(FrontendKind.CLUSTER_IP, parse_address(self.at.cluster_ip), 80 + number, *inside),
                    Frontend(
                        FrontendKind.LOAD_BALANCER_IP, parse_address(self.at.load_balancer), 80 + number,
                        *inside[:2], outside,
                    ),
                    Frontend(FrontendKind.NODE_PORT, b"", node_port + number, *inside[:2], outside),
                ),
                endpoint_sets=tuple(sets),
            )
            for number in (0, 1)
            for protocol in (Protocol.TCP, Protocol.UDP)
        )  # fmt: skip
        return ServicePlan(ports=ports, affinity_timeout_seconds=seconds)

    def remove(self) -> None:
        """The Service is deleted."""
        self._program(ServicePlan(), self.rendering)

    def connect(self, client: str, address: str = "", port: int = 80, *, udp: bool = False) -> str:
        """The name of the endpoint that a new connection of an outside client reaches."""
        return self.name(answered(self.world.client, address or self.at.cluster_ip, port, udp=udp, source=client).name)

    @contextlib.contextmanager
    def talking(self, client: str) -> Iterator[Callable[[], None]]:
        """A connection that stays open; yields what asks and is answered on it."""
        kind = socket.AF_INET if self.family is names.Family.IPV4 else socket.AF_INET6
        with self.world.client.socket(kind, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE_SECONDS)
            connection.bind((client, 0))
            connection.connect((self.at.cluster_ip, 80))

            def exchange() -> None:
                connection.sendall(b"who?")
                assert connection.recv(128)

            yield exchange

    def forget(self) -> None:
        """Empty the kernel's memory."""
        self.world.commit([flush_set(self.world.table, layout.AFFINITY)])

    def listed_elements(self) -> dict[str, frozenset[Element]]:
        """Every element of every set that is not the memory."""
        return {
            spec.name: frozenset(self.world.nft.dump_elements(self.world.table, spec))
            for spec in layout.ALL_SETS
            if not spec.timeout
        }

    @staticmethod
    def name(server: str) -> str:
        """World calls two of the endpoints by their pods."""
        return {"pod1": "a", "pod2": "c"}.get(server, server)

    def known(self) -> list[AffinityClient]:
        """What the kernel remembers of the Service."""
        for _ in range(2):  # one look proves nobody's absence
            assert asyncio.run(self.dataplane.affinity.look()) is not None
        return list(self.dataplane.affinity.clients(self.plan, self.rendering))

    def seed(self, *clients: AffinityClient) -> int:
        return asyncio.run(self.dataplane.affinity.seed(self.plan, self.rendering, clients))

    def remembered_as(self, client: str, name: str, *, left_ms: int = 600_000, port: str = "0") -> AffinityClient:
        """A client of the TCP port that came to this endpoint elsewhere."""
        endpoint = self.endpoint(name)
        return AffinityClient(port, Protocol.TCP, parse_address(client), (endpoint.address, endpoint.port), left_ms)

    def _make(self) -> NftablesDataplane:
        settings = NodeSettings(cluster_cidrs=(parse_prefix(self.at.pods),))
        # With a kernel handed in there is no monitor: what a test does to the memory is nobody else's doing.
        return self.world.node.call(lambda: NftablesDataplane(node_settings=settings, kernel=NftSocket()))

    def _adopt(self) -> Found:
        async def adopt() -> Found:
            dataplane = self.dataplane
            facts = NodeFacts(name="node", addresses=(parse_address(self.at.node),))
            dataplane.configure(facts)
            found = await dataplane.observe()
            await dataplane.prepare()
            rendering = dataplane.render_node(facts, drop_unallocated=False)
            await dataplane.apply(dataplane.diff(dataplane.claim_node(b""), rendering))
            return found

        return asyncio.run(adopt())

    def _program(self, plan: ServicePlan, previous: bytes) -> None:
        rendering = self.dataplane.render(plan, previous)
        asyncio.run(self.dataplane.apply(self.dataplane.diff(previous, rendering)))
        self.plan, self.rendering = plan, rendering
