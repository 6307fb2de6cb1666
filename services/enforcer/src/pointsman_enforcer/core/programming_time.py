# SPDX-License-Identifier: Apache-2.0
"""How long endpoint changes took from their trigger to the kernel: kube-proxy's network programming latency.

The trigger is when the controller says a change of a pod or a Service called for new endpoints (an annotation of the
EndpointSlice); it travels with the change. Left out are changes without one, those triggered before this process
started (it did not keep them waiting), and those of services that the kernel did not take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pointsman_enforcer.core.transaction import ChangeOrigin
from pointsman_model.names import Family, ServiceKey
from pointsman_model.wire.plan import PlanFormatError, decode_service_plan


def programming_times(
    origins: Iterable[ChangeOrigin], *, started_at_ns: int, applied_at_ns: int, is_failed: Callable[[ServiceKey], bool]
) -> Iterator[tuple[ChangeOrigin, float]]:
    """The changes that count, each with its seconds; a clock that lies never makes them negative."""
    for origin in origins:
        if origin.trigger_time_ns >= max(started_at_ns, 1) and not is_failed(origin.service):
            yield origin, max(applied_at_ns - origin.trigger_time_ns, 0) / 1e9


def families_of(origin: ChangeOrigin, plan: bytes | None) -> tuple[Family, ...]:
    """The families in which a change counts: that of the slice, if the service is programmed in it.

    A planner that does not name the family is an older one: then all families of the service count. `plan` is the
    service's; None, or one that cannot be read, is programmed in none.
    """
    try:
        ports = () if plan is None else decode_service_plan(plan).ports
    except PlanFormatError:
        return ()
    programmed = {port.family for port in ports}
    return tuple(sorted(programmed if origin.family is None else programmed & {origin.family}))
