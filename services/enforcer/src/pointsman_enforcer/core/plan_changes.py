# SPDX-License-Identifier: Apache-2.0
"""How many changes of Services and of their endpoints have come: kube-proxy's two pairs of figures. Pure.

kube-proxy counts what its two watches bring. A plan has both in one, so what counts here is what of a service's plan
differs: where it is reached and how (a change of the Service), or its endpoints. One plan may count as both. A plan in
which only verdicts differ, as after a change of policy to the same endpoints, is a change of the Service.

Plans are compared only when somebody asks, or enough of them have gathered: that costs some microseconds each, which
no change has to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_enforcer.core.transaction import PlanChange
from pointsman_model.names import ServiceKey

GATHERED_MAX: Final = 20_000
"""Changes that wait to be compared; each holds on to the plan it replaced."""


class Parts(NamedTuple):
    """What differs between two plans of a service."""

    service: bool
    endpoints: bool


class PlanChanges:
    """Counts changes, and which services still wait for the kernel. Not frozen: it is the process's memory of them."""

    def __init__(self, read: Callable[[ServiceKey], bytes | None]) -> None:
        """`read` gives the plan held of a service."""
        self._read = read
        self._gathered: dict[ServiceKey, list[bytes | None]] = {}
        self._count = 0
        self._services = self._endpoints = 0
        self._waiting: dict[ServiceKey, Parts] = {}

    def committed(self, changes: Iterable[PlanChange]) -> None:
        """These plans changed."""
        for change in changes:
            self._gathered.setdefault(change.key, []).append(change.old_plan)
            self._count += 1
        if self._count > GATHERED_MAX:
            self._compare()

    def synced(self, is_waiting: Callable[[ServiceKey], bool]) -> None:
        """The kernel has everything but what still waits."""
        self._compare()
        if self._waiting:
            self._waiting = {key: parts for key, parts in self._waiting.items() if is_waiting(key)}

    def service_total(self) -> int:
        """Changes of Services since the start."""
        self._compare()
        return self._services

    def endpoint_total(self) -> int:
        """Changes of endpoints since the start."""
        self._compare()
        return self._endpoints

    def service_pending(self) -> int:
        """Services that wait for the kernel with a change of the Service."""
        self._compare()
        return sum(parts.service for parts in self._waiting.values())

    def endpoint_pending(self) -> int:
        """Services that wait for the kernel with a change of endpoints."""
        self._compare()
        return sum(parts.endpoints for parts in self._waiting.values())

    def _compare(self) -> None:
        for key, plans in self._gathered.items():
            plans.append(self._read(key))
            for old, new in pairwise(plans):
                parts = differing_parts(old, new)
                self._services += parts.service
                self._endpoints += parts.endpoints
                before = self._waiting.get(key, Parts(service=False, endpoints=False))
                self._waiting[key] = Parts(before.service or parts.service, before.endpoints or parts.endpoints)
        self._gathered = {}
        self._count = 0


def differing_parts(old: bytes | None, new: bytes | None) -> Parts:
    """What differs; None is a service that is not there. A plan that cannot be read has no endpoints."""
    before, after = _split(old), _split(new)
    has_other_endpoints = before.endpoints != after.endpoints
    has_another_shape = before.shape != after.shape
    return Parts(service=has_another_shape or not has_other_endpoints, endpoints=has_other_endpoints)


class _Split(NamedTuple):
    shape: bytes | None
    """The plan without endpoints and verdicts."""
    endpoints: tuple[bytes, ...]


_NOTHING: Final = _Split(None, ())


def _split(plan: bytes | None) -> _Split:
    if plan is None:
        return _NOTHING
    try:
        message = pb.ServicePlan.FromString(plan)
    except DecodeError:
        return _Split(plan, ())
    endpoints = []
    for port in message.ports:
        sets = [*port.endpoint_sets, *((port.also_serving,) if port.HasField("also_serving") else ())]
        endpoints += [each.SerializeToString() for each in sets]
        port.ClearField("endpoint_sets")
        port.ClearField("also_serving")
        for frontend in port.frontends:
            frontend.ClearField("from_pod")
            frontend.ClearField("from_host")
            frontend.ClearField("from_outside")
    if message.health_check.local_endpoints:
        endpoints.append(message.health_check.local_endpoints.to_bytes(4, "big"))
        message.health_check.local_endpoints = 0
    return _Split(message.SerializeToString(deterministic=True), tuple(endpoints))
