# SPDX-License-Identifier: Apache-2.0
"""How long endpoint changes took from their trigger to the kernel: kube-proxy's network programming latency.

The trigger is when the controller says a change of a pod or a Service called for new endpoints (an annotation of the
EndpointSlice); it travels with the change. Left out are changes without one, those triggered before this process
started (it did not keep them waiting), and those of services that the kernel did not take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from pointsman_enforcer.core.transaction import ChangeOrigin
from pointsman_model.names import Family, ServiceKey
from pointsman_model.plan import FrontendKind
from pointsman_model.wire.plan import PlanFormatError, decode_service_plan

INTERNAL: Final = "cluster_ip"
_CLASSES: Final = (
    (FrontendKind.LOAD_BALANCER_IP, "load_balancer"),
    (FrontendKind.NODE_PORT, "node_port"),
    (FrontendKind.EXTERNAL_IP, "external_ip"),
)
"""Farthest out first: a service counts once."""
SERVICE_CLASSES: Final = (INTERNAL, *(name for _, name in _CLASSES))


def programming_times(
    origins: Iterable[ChangeOrigin], *, started_at_ns: int, applied_at_ns: int, is_failed: Callable[[ServiceKey], bool]
) -> Iterator[tuple[ChangeOrigin, float]]:
    """The changes that count, each with its seconds; a clock that lies never makes them negative."""
    for origin in origins:
        if origin.trigger_time_ns >= max(started_at_ns, 1) and not is_failed(origin.service):
            yield origin, max(applied_at_ns - origin.trigger_time_ns, 0) / 1e9


class ProgrammedAs(NamedTuple):
    """In which figures a change counts."""

    families: tuple[Family, ...] = ()
    """Those of the slice and the service; none when the service is programmed in none."""
    service_class: str = ""
    """How far out the service can be reached: one of `SERVICE_CLASSES`."""


def programmed_as(origin: ChangeOrigin, plan: bytes | None) -> ProgrammedAs:
    """The family of the slice, if the service is programmed in it, and the service's class.

    A planner that does not name the family is an older one: then all families of the service count. `plan` is the
    service's; None, or one that cannot be read, is programmed in none.
    """
    try:
        ports = () if plan is None else decode_service_plan(plan).ports
    except PlanFormatError:
        return ProgrammedAs()
    programmed = {port.family for port in ports}
    kinds = {frontend.kind for port in ports for frontend in port.frontends}
    service_class = next((name for kind, name in _CLASSES if kind in kinds), INTERNAL)
    families = programmed if origin.family is None else programmed & {origin.family}
    return ProgrammedAs(tuple(sorted(families)), service_class)
