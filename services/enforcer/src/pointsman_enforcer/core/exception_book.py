# SPDX-License-Identifier: Apache-2.0
"""Which exceptions of session affinity the planner knows of, and which it must be told: pure, `now` in seconds.

An exception is a client whose remembered endpoint is not the one that a node without memory would choose. Only those of
ServicePorts that clients also reach through other nodes are told: those with a node port, an external or a load
balancer IP. A cluster IP is reached through the node that the client is on, which remembers it already.

Told is what is new, what has another endpoint, and what lives on when the time that was told is nearly over; all of it
again from time to time, in case it got lost. What a planner sent is told only once its client has connected here: two
nodes that told each other of the same client would else keep it alive for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from pointsman_model.names import ServiceKey, ServicePortName
from pointsman_model.plan import Action, FrontendKind, ServicePlan, ServicePortPlan
from pointsman_model.remembered import ClientKey, RememberedClient

EXCEPTIONS_MAX: Final = 50_000
"""Exceptions of a node that others are told of; about 300 bytes each."""
REPEAT_SECONDS: Final = 300.0
NEARLY_SECONDS_MIN: Final = 30.0
"""How long before the end of what was told it is looked whether the client has connected since."""
NEARLY_SHARE: Final = 1 / 8
"""The same, as a share of the affinity timeout; the longer of both counts."""
SLACK_SECONDS: Final = 1.0
"""Times that differ by less are equal: messages take their time."""


def shared_ports(plan: ServicePlan) -> ServicePlan:
    """The plan with only those ports whose clients may come through other nodes as well."""
    if not plan.affinity_timeout_seconds:
        return ServicePlan()
    return replace(plan, ports=tuple(port for port in plan.ports if _is_shared(port)), health_check=None)


def _is_shared(port: ServicePortPlan) -> bool:
    return any(
        frontend.kind is not FrontendKind.CLUSTER_IP
        and Action.FORWARD in (frontend.from_pod.action, frontend.from_host.action, frontend.from_outside.action)
        for frontend in port.frontends
    )


def endpoints_of(service: ServiceKey, plan: ServicePlan) -> dict[tuple[ServicePortName, int], set[tuple[bytes, int]]]:
    """Endpoints that are in some set of a ServicePort, by port and length of its addresses."""
    found: dict[tuple[ServicePortName, int], set[tuple[bytes, int]]] = {}
    for port in plan.ports:
        place = ServicePortName(service, port.name, port.protocol), port.family.address_bytes
        found.setdefault(place, set()).update(
            (each.address, each.port) for chosen in port.endpoint_sets for each in chosen
        )
    return found


@dataclass(frozen=True, slots=True)
class _Known:
    endpoint: tuple[bytes, int]
    ends_at: float
    told_at: float
    """When we told it; infinite = a planner told us."""


class ExceptionBook:
    """What the planner of the present stream knows."""

    def __init__(self) -> None:
        self._known: dict[ClientKey, _Known] = {}

    def __len__(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        """The planner is another one: it knows nothing."""
        self._known.clear()

    def is_due(self, client: RememberedClient, *, timeout_seconds: float, now: float) -> bool:
        """Whether the planner must be told of this exception."""
        known = self._known.get(client.key)
        if known is None:
            return len(self._known) < EXCEPTIONS_MAX
        if known.endpoint != client.endpoint or now >= known.told_at + REPEAT_SECONDS:
            return True
        nearly = max(NEARLY_SECONDS_MIN, NEARLY_SHARE * timeout_seconds)
        is_nearly_over = known.ends_at - now < nearly
        return is_nearly_over and now + client.left_ms / 1000 > known.ends_at + SLACK_SECONDS

    def told(self, clients: Iterable[RememberedClient], now: float) -> None:
        """The planner was told of these."""
        for client in clients:
            self._known[client.key] = _Known(client.endpoint, now + client.left_ms / 1000, now)

    def learned(self, clients: Iterable[RememberedClient], now: float) -> list[RememberedClient]:
        """The planner told us of these; those of them that are not merely what we told it ourselves."""
        news = []
        for client in clients:
            known, ends_at = self._known.get(client.key), now + client.left_ms / 1000
            if known is not None and known.told_at < math.inf and known.endpoint == client.endpoint:
                if ends_at <= known.ends_at + SLACK_SECONDS:
                    continue
            elif known is None and len(self._known) >= EXCEPTIONS_MAX:
                news.append(client)
                continue
            self._known[client.key] = _Known(client.endpoint, ends_at, math.inf)
            news.append(client)
        return news

    def prune(self, now: float) -> None:
        """Forget those whose time is over."""
        ended = [key for key, known in self._known.items() if known.ends_at <= now]
        for key in ended:
            del self._known[key]
