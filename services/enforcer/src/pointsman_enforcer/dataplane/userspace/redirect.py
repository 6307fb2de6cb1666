# SPDX-License-Identifier: Apache-2.0
"""A plan as the rules have it, and as the proxy has it. Pure, but for the ports it is promised.

To the rules each endpoint set of a TCP or UDP port is one endpoint: the place where the proxy listens for it. So every
decision about who may use what (reject, drop, classes, source ranges, node ports, wrong ports, unallocated addresses)
is made by the rules of nftables mode, and only what is forwarded comes to the proxy.

Nobody may go to a listener but through a frontend: each place is a frontend itself, one that rejects.

SCTP has no proxy. Its ports stay as they are, and the rules direct them to endpoints as in nftables mode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.userspace.target import Listener, Target
from pointsman_model.names import Family, Protocol
from pointsman_model.plan import (
    REJECT,
    Action,
    Frontend,
    FrontendKind,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    TrafficClass,
    Verdict,
)

PROXIED = frozenset({Protocol.TCP, Protocol.UDP})
Promise = Callable[[bytes, Family, Protocol], Listener]
"""Where to listen for what has this identity; the same for the same. OSError when there is nowhere."""


class Redirected(NamedTuple):
    """A plan, divided.

    Attributes:
        proxied: TCP and UDP, for the rules: endpoints are the proxy's listeners. Without session affinity.
        direct: SCTP, as it was.
        listeners: what the proxy serves: targets by key, as renderings have them.
    """

    proxied: ServicePlan
    direct: ServicePlan
    listeners: dict[bytes, bytes]


def redirect(plan: ServicePlan, promise: Promise) -> Redirected:
    """Divide a plan.

    Raises:
        UnsupportedPlanError: there is nowhere to listen.
    """
    listeners: dict[bytes, bytes] = {}
    proxied = [_redirect(port, plan.affinity_timeout_seconds, promise, listeners) for port in mine(plan)]
    others = tuple(port for port in plan.ports if port.protocol not in PROXIED)
    return Redirected(
        proxied=replace(plan, ports=tuple(proxied), affinity_timeout_seconds=0),
        direct=replace(plan, ports=others),
        listeners=listeners,
    )


def mine(plan: ServicePlan) -> list[ServicePortPlan]:
    """The ports that a proxy can serve."""
    return [port for port in plan.ports if port.protocol in PROXIED]


def memory_of(port: ServicePortPlan) -> bytes:
    """The name of a port's memory of clients: what its first frontend is called."""
    first = port.frontends[0]
    words = b"%d %d %d %d " % (port.family, port.protocol, first.kind, first.port)
    return hashlib.blake2b(words + first.address, digest_size=8).digest()


def target_of(port: ServicePortPlan, index: int, affinity_seconds: int) -> Target:
    """What the proxy does for one endpoint set of a port."""
    members = (*port.also_serving, *(each for chosen in port.endpoint_sets for each in chosen))
    serving = frozenset((each.address, each.port) for each in members if port.protocol is Protocol.UDP)
    endpoints = tuple(each._replace(hairpin=False) for each in port.endpoint_sets[index])
    return Target(memory_of(port), affinity_seconds, endpoints, serving)


def used_sets(port: ServicePortPlan) -> list[int]:
    """Indexes of the endpoint sets that some verdict of the port names.

    Raises:
        UnsupportedPlanError: one is not there.
    """
    used = {
        frontend.verdict(each).endpoint_set
        for frontend in port.frontends
        for each in TrafficClass
        if frontend.verdict(each).action is Action.FORWARD
    }
    if any(index >= len(port.endpoint_sets) for index in used):
        raise UnsupportedPlanError("a verdict names an endpoint set that is not there")
    return sorted(used)


def _redirect(
    port: ServicePortPlan, affinity_seconds: int, promise: Promise, listeners: dict[bytes, bytes]
) -> ServicePortPlan:
    sets = [(PlanEndpoint(b"", 0),) for _ in port.endpoint_sets]
    guards = []
    for index in used_sets(port):
        try:
            listener = promise(memory_of(port) + bytes((index,)), port.family, port.protocol)
        except OSError as error:
            raise UnsupportedPlanError(
                f"the proxy has nowhere to listen for {port.name or 'the port'}: {error}"
            ) from error
        listeners[listener.pack()] = target_of(port, index, affinity_seconds).pack()
        sets[index] = (PlanEndpoint(listener.address, listener.port),)
        guards.append(Frontend(FrontendKind.EXTERNAL_IP, listener.address, listener.port, REJECT, REJECT, REJECT))
    frontends = (*(_plain(frontend) for frontend in port.frontends), *guards)
    return replace(port, frontends=frontends, endpoint_sets=tuple(sets), also_serving=())


def _plain(frontend: Frontend) -> Frontend:
    """The proxy is on this node: only for cluster IPs, where it is a rule for all of them, sources are masqueraded."""
    if frontend.kind is FrontendKind.CLUSTER_IP:
        return frontend
    pod, host, outside = (_unmasked(frontend.verdict(each)) for each in TrafficClass)
    return frontend._replace(from_pod=pod, from_host=host, from_outside=outside)


def _unmasked(verdict: Verdict) -> Verdict:
    return verdict._replace(masquerade=False)
