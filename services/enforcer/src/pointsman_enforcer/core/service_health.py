# SPDX-License-Identifier: Apache-2.0
"""Health check node ports, without IO: where to listen, and what to answer, in kube-proxy's words.

A load balancer asks each node, at the Service's healthCheckNodePort, whether connections sent there find an endpoint
without leaving the node. The answer is the number of distinct ready endpoint addresses on this node, which the plan
carries, and it is a good one if there are any and the enforcer is healthy. Whether the *node* is about to go does not
matter here: that is what /healthz is for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from pointsman_model.names import Family, Prefix, ServiceKey, family_of, format_address
from pointsman_model.plan import HealthCheck

ANY: Final = {Family.IPV4: bytes(4), Family.IPV6: bytes(16)}
"""The address that stands for all addresses of a family."""


_PLACES_SHOWN = 4


class Listener(NamedTuple):
    """One socket to listen on. An address of zeros stands for all of its family."""

    service: ServiceKey
    address: bytes
    port: int


class HealthAnswer(NamedTuple):
    """What a load balancer is told."""

    status: int
    weight: int
    body: bytes


def listen_addresses(blocks: Iterable[Prefix], local: Iterable[bytes]) -> tuple[bytes, ...]:
    """Where to listen when node ports are accepted in `blocks` and the node's addresses are `local`; sorted.

    A family of which everything is accepted needs one socket; else each address within a block has one of its own.
    """
    accepted = tuple(blocks)
    anywhere = {prefix.family for prefix in accepted if prefix.length == 0}
    single = {
        address
        for address in local
        if family_of(address) not in anywhere and any(prefix.contains(address) for prefix in accepted)
    }
    return tuple(sorted(single | {ANY[family] for family in anywhere}))


def wanted_listeners(checks: Mapping[ServiceKey, HealthCheck], addresses: Iterable[bytes]) -> frozenset[Listener]:
    """Every socket that there should be."""
    places = tuple(addresses)
    return frozenset(Listener(key, address, check.node_port) for key, check in checks.items() for address in places)


def health_answer(service: ServiceKey, local_endpoints: int, *, is_healthy: bool) -> HealthAnswer:
    """kube-proxy's answer, byte for byte."""
    document = {
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": is_healthy,
    }
    status = 200 if local_endpoints > 0 and is_healthy else 503
    return HealthAnswer(status, local_endpoints, json.dumps(document, indent="\t").encode())


def not_served(failures: Mapping[Listener, str]) -> dict[ServiceKey, str]:
    """For people, by service: what of its health check node port is not served, and why."""
    found: dict[ServiceKey, list[Listener]] = {}
    for listener in sorted(failures):
        found.setdefault(listener.service, []).append(listener)
    return {service: _not_served(listeners, failures) for service, listeners in found.items()}


def _not_served(listeners: list[Listener], failures: Mapping[Listener, str]) -> str:
    places = [f"{format_address(each.address)} ({failures[each]})" for each in listeners[:_PLACES_SHOWN]]
    if len(listeners) > _PLACES_SHOWN:
        places.append(f"{len(listeners) - _PLACES_SHOWN} more addresses")
    return (
        f"health check node port {listeners[0].port} cannot be served at {', '.join(places)}: load balancers take this "
        "node for one without endpoints; free the port on the node or change healthCheckNodePort; it is tried again"
    )
