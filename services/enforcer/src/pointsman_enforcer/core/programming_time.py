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
) -> Iterator[tuple[ServiceKey, float]]:
    """Service and seconds for each change that counts; a clock that lies never makes it negative."""
    for origin in origins:
        if origin.trigger_time_ns >= max(started_at_ns, 1) and not is_failed(origin.service):
            yield origin.service, max(applied_at_ns - origin.trigger_time_ns, 0) / 1e9


def families_of(plan: bytes | None) -> tuple[Family, ...]:
    """The families in which a service is programmed; none for one that is gone or cannot be read.

    A change does not say which family its slice is of, so a change of a dual-stack service counts in both.
    """
    try:
        ports = () if plan is None else decode_service_plan(plan).ports
    except PlanFormatError:
        return ()
    return tuple(sorted({port.family for port in ports}))
