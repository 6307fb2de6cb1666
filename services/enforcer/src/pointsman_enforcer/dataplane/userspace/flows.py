# SPDX-License-Identifier: Apache-2.0
"""Which entries of the connection table are stale when rules lead to a proxy.

An entry of a UDP client names the listener it was led to. When that listener closes, the kernel would go on sending the
client's datagrams there, and the client would be refused for as long as it keeps asking. So whoever ends stale flows is
told of listeners as the endpoints of a plan. The endpoints themselves still serve, too: flows that another mode's rules
led straight to them go on, until they leave the plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.flows import Flows
from pointsman_enforcer.dataplane.userspace.redirect import PROXIED, Promise, redirect
from pointsman_model.names import ServiceKey
from pointsman_model.plan import ServicePlan, ServicePortPlan


class ProxiedFlows:
    """Implements `Flows`: tells another one of plans as the kernel's entries show them."""

    def __init__(self, flows: Flows, promise: Promise, is_parting: Callable[[], bool]) -> None:
        """`is_parting`: rules lead to endpoints themselves from now on, so no listener serves."""
        self._flows, self._promise, self._is_parting = flows, promise, is_parting

    def expect(self, key: ServiceKey, plan: ServicePlan) -> None:
        """See `Flows`."""
        self._flows.expect(key, plan if self._is_parting() else as_tracked(plan, self._promise))

    def programmed(self, key: ServiceKey) -> None:
        """See `Flows`."""
        self._flows.programmed(key)

    def suspect_all(self) -> None:
        """See `Flows`."""
        self._flows.suspect_all()

    def synced(self, *, is_confirmed: bool) -> None:
        """See `Flows`."""
        self._flows.synced(is_confirmed=is_confirmed)


def as_tracked(plan: ServicePlan, promise: Promise) -> ServicePlan:
    """A plan whose ports' listeners serve beside their endpoints; as it is when there is nowhere to listen."""
    try:
        proxied = iter(redirect(plan, promise).proxied.ports)
    except UnsupportedPlanError:
        return plan
    ports = [_with_listeners(port, next(proxied)) if port.protocol in PROXIED else port for port in plan.ports]
    return replace(plan, ports=tuple(ports))


def _with_listeners(port: ServicePortPlan, proxied: ServicePortPlan) -> ServicePortPlan:
    listeners = tuple(each for chosen in proxied.endpoint_sets for each in chosen if each.address)
    return replace(port, also_serving=(*port.also_serving, *listeners))
