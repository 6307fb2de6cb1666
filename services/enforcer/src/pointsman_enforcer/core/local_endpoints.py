# SPDX-License-Identifier: Apache-2.0
"""Service ports whose traffic policy asks for endpoints on this node while all endpoints are elsewhere.

kube-proxy counts them, by policy and family, because their traffic is dropped here. A service port without any endpoint
at all is not among them: its traffic is refused everywhere.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from pointsman_model.names import Family, ServiceKey
from pointsman_model.plan import Action, FrontendKind, ServicePlan

INTERNAL: Final = "internal"
EXTERNAL: Final = "external"


class Gap(NamedTuple):
    """The policy that drops traffic, in kube-proxy's word, and the family it does so in."""

    policy: str
    family: Family


def gaps_of(plan: ServicePlan) -> tuple[Gap, ...]:
    """The gaps of one service, one for each service port, policy and family."""
    found: list[Gap] = []
    for port in plan.ports:
        policies = {
            INTERNAL if frontend.kind is FrontendKind.CLUSTER_IP else EXTERNAL
            for frontend in port.frontends
            if frontend.from_outside.action is Action.DROP
        }
        found += [Gap(policy, port.family) for policy in sorted(policies)]
    return tuple(found)


class GapCount:
    """How many there are on this node. Remembers only services that have some."""

    def __init__(self) -> None:
        self._gaps: dict[ServiceKey, tuple[Gap, ...]] = {}
        self._counts: Counter[Gap] = Counter()

    def update(self, service: ServiceKey, plan: ServicePlan | None) -> None:
        """The service is now programmed like this; None when it is gone."""
        gaps = () if plan is None else gaps_of(plan)
        self._counts.subtract(self._gaps.pop(service, ()))
        if gaps:
            self._gaps[service] = gaps
            self._counts.update(gaps)

    def count(self, gap: Gap) -> int:
        """Service ports with this gap."""
        return self._counts[gap]
