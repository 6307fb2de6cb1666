# SPDX-License-Identifier: Apache-2.0
"""A node in ipvs mode, in one network namespace: endpoints are addresses of its own, and it is its own client.

Only where the kernel has IPVS: inside a guest. Endpoints answer with the address at which they were asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Self, TypeVar

from conformance.executors.echo import EchoServers

from pointsman_enforcer.dataplane.base import Found, Mended
from pointsman_enforcer.dataplane.ipvs.backend import IpvsDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_model.names import Family, Protocol, parse_address, parse_prefix
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
from support.netns import NetNs

PORT, TARGET = 80, 8080
NODE = {Family.IPV4: "192.168.0.2", Family.IPV6: "2001:db8::2"}
VIP = {Family.IPV4: "172.30.0.41", Family.IPV6: "fd00:30::41"}
ENDPOINTS = {
    Family.IPV4: ("10.180.0.1", "10.180.0.2", "10.180.0.3"),
    Family.IPV6: ("fd00:180::1", "fd00:180::2", "fd00:180::3"),
}
FORWARD = Verdict(Action.FORWARD)
PATIENCE_SECONDS = 3.0
_KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}
Result = TypeVar("Result")


def plan_of(
    *endpoints: str,
    vip: str = VIP[Family.IPV4],
    port: int = PORT,
    protocol: Protocol = Protocol.TCP,
    weights: Mapping[str, int] | None = None,
    **fields: Any,
) -> ServicePlan:
    """A Service with one cluster IP. `fields` are those of ServicePlan."""
    chosen = tuple(
        PlanEndpoint(address, TARGET, (weights or {}).get(text, 1), hairpin=True)
        for address, text in sorted((parse_address(each), each) for each in endpoints)
    )
    verdict = FORWARD if chosen else Verdict(Action.REJECT)
    address = parse_address(vip)
    frontend = Frontend(FrontendKind.CLUSTER_IP, address, port, verdict, verdict, verdict)
    family = Family.IPV4 if len(address) == Family.IPV4.address_bytes else Family.IPV6
    part = ServicePortPlan(
        name="",
        protocol=protocol,
        family=family,
        frontends=(frontend,),
        endpoint_sets=(chosen,) if chosen else (),
    )
    return ServicePlan(ports=(part,), **fields)


class IpvsNode:
    """A context manager. Options are those of IpvsDataplane."""

    def __init__(self, **options: Any) -> None:
        self._options: dict[str, Any] = {"node_settings": NodeSettings(), **options}
        self._remembered: dict[str, bytes] = {}
        self._stack = contextlib.ExitStack()
        self.loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self.loop.close)
            self.namespace = stack.enter_context(NetNs("ipvs"))
            self._echo = stack.enter_context(EchoServers())
            for family in Family:
                for address in (NODE[family], *ENDPOINTS[family]):
                    bits, extra = ("/32", ()) if family is Family.IPV4 else ("/128", ("nodad",))
                    self.namespace.run("ip", "addr", "add", f"{address}{bits}", "dev", "lo", *extra)
            self.namespace.run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1")
            for command in ("link set out0 up", "link set out1 up", "route add default dev out0"):
                self.namespace.run("ip", *command.split())
            self.namespace.run("ip", "-6", "route", "add", "default", "dev", "out0")
            for protocol in ("TCP", "UDP"):
                self._echo.listen([self.namespace], protocol, TARGET)
            stack.callback(self._close)
            self.dataplane = self._open()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def restart(self, **options: Any) -> Found:
        """Another process takes over what is there; what it found."""
        self.dataplane.close()
        self._options.update(options)
        self._remembered = {}
        self.dataplane = self._open()
        return self.found

    def program(self, plans: Mapping[str, ServicePlan]) -> int:
        """Make these all the Services; how many operations it took."""
        change = self.dataplane.diff(b"", b"")
        wanted = {name: plans.get(name, ServicePlan()) for name in {*plans, *self._remembered}}
        made = {}
        for name, plan in wanted.items():
            previous = self.dataplane.claim(plan, self._remembered.get(name, b""))
            made[name] = self.dataplane.render(plan, previous)
            change.include(self.dataplane.diff(previous, made[name]))
        if not change.is_empty:
            self.run(self.dataplane.apply(change))
        self._remembered = {name: rendering for name, rendering in made.items() if rendering}
        return change.operations

    def remove_leftovers(self) -> None:
        """As after a whole plan."""
        for change in list(self.dataplane.leftover()):
            self.run(self.dataplane.apply(change))

    def mend(self) -> Mended:
        """One look, and what it takes."""
        return self.run(self.dataplane.mend(list(self._remembered.values()), may_remove=True))

    def differing(self) -> str:
        """What reading everything back finds to differ."""
        found = []
        for rendering in self._remembered.values():
            start = 0
            while True:
                part = self.dataplane.read_back(rendering, start, 64)
                found += [part.words] if part.differing else []
                start += part.reads
                if part.reads < 64:
                    break
        return "; ".join(found)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """On the dataplane's loop."""
        return self.loop.run_until_complete(coroutine)

    def servers(self) -> list[str]:
        """As `ipvsadm -Sn` prints them."""
        return [line.strip() for line in self.namespace.run("ipvsadm", "-Sn").splitlines()]

    def reals(self) -> dict[str, int]:
        """Weights of all real servers, by place."""
        found = {}
        for line in self.servers():
            words = line.split()
            if words[0] == "-a":
                found[words[words.index("-r") + 1]] = int(words[words.index("-w") + 1])
        return found

    def connect(
        self, place: str = VIP[Family.IPV4], port: int = PORT, *, protocol: Protocol = Protocol.TCP, source: str = ""
    ) -> socket.socket:
        """A connection that was answered once; OSError when it was not."""
        family = socket.AF_INET6 if ":" in place else socket.AF_INET
        opened = self.namespace.socket(family, _KINDS[protocol])
        try:
            opened.settimeout(PATIENCE_SECONDS)
            if source:
                opened.bind((source, 0))
            opened.connect((place, port))
            if protocol is Protocol.UDP:
                opened.send(b"?\n")
            opened.recv(256)
        except BaseException:
            opened.close()
            raise
        return opened

    def _open(self) -> IpvsDataplane:
        dataplane = self.namespace.call(partial(IpvsDataplane, **self._options))
        addresses = tuple(parse_address(NODE[family]) for family in Family)
        dataplane.configure(NodeFacts(name="node", addresses=addresses))
        self.found = self.run(dataplane.observe())
        self.run(dataplane.prepare())
        return dataplane

    def _close(self) -> None:
        self.dataplane.close()


def ask(opened: socket.socket) -> str:
    """Which endpoint answers on a connection; the name of the error when none does."""
    try:
        opened.send(b"?\n")
        return opened.recv(256).decode().split()[0]
    except OSError as error:
        return type(error).__name__


def who(node: IpvsNode, place: str = VIP[Family.IPV4], port: int = PORT, **options: Any) -> str:
    """Which endpoint a new connection meets; the name of the error when none does."""
    try:
        with node.connect(place, port, **options) as opened:
            return ask(opened)
    except OSError as error:
        return type(error).__name__


EXCLUDED = parse_prefix("192.0.2.0/24")
