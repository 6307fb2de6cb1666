# SPDX-License-Identifier: Apache-2.0
"""Whether a mode works here: tried with a Service, in a network namespace that is made for it and gone afterwards.

Version numbers and lists of modules say little about what a kernel takes; a Service with weights, session affinity,
source ranges and a node port says it. The namespace belongs to one thread and what that starts, so nothing of the
host's is touched, but the kernel may load modules. Making one takes CAP_SYS_ADMIN; without it nothing is tried.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import structlog

from pointsman_chassis.errors import PointsmanError
from pointsman_enforcer.dataplane import exec  # noqa: A004 - the door is named after what passes it
from pointsman_enforcer.dataplane.base import Dataplane, UnsupportedPlanError
from pointsman_enforcer.dataplane.modes.factory import make_dataplane
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.names import Family, Protocol, make_prefix, parse_address
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

_CLONE_NEWNET: Final = 0x40000000
_ADDRESSES: Final = {
    Family.IPV4: ("192.0.2.1", "198.51.100.1", "203.0.113.1"),
    Family.IPV6: ("2001:db8::1", "2001:db8:1::1", "2001:db8:2::1"),
}
"""Documentation addresses of the node, of a Service, of an endpoint."""
_BITS: Final = {Family.IPV4: 32, Family.IPV6: 128}


class Outcome(Enum):
    """How a trial ended."""

    WORKS = "works"
    CANNOT = "cannot"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What was learned of one mode."""

    outcome: Outcome
    reason: str = ""
    """Why it cannot, or was not tried, or not for both families."""
    capabilities: tuple[str, ...] = ()
    families: tuple[str, ...] = ()


def try_mode(config: EnforcerConfiguration) -> Trial:
    """Program a Service in the configured mode, in a new network namespace."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="trial") as thread:
        return thread.submit(_try_inside, config).result()


def _try_inside(config: EnforcerConfiguration) -> Trial:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        words = os.strerror(ctypes.get_errno())
        return Trial(
            outcome=Outcome.NOT_TRIED, reason=f"no network namespace can be made here ({words}): needs CAP_SYS_ADMIN"
        )
    structlog.contextvars.bind_contextvars(trial=config.mode)
    try:
        exec.run(["ip", "link", "set", "lo", "up"])
        dataplane = make_dataplane(config)
    except PointsmanError as error:
        return Trial(outcome=Outcome.CANNOT, reason=str(error))
    try:
        return asyncio.run(_try_families(dataplane))
    finally:
        dataplane.close()


async def _try_families(dataplane: Dataplane[Any]) -> Trial:
    families, reasons = [], []
    for family in Family:
        try:
            await _try_family(dataplane, family)
        except (PointsmanError, UnsupportedPlanError) as error:
            reasons.append(f"IPv{family.value}: {error}")
        else:
            families.append(f"IPv{family.value}")
    return Trial(
        outcome=Outcome.WORKS if families else Outcome.CANNOT,
        reason="; ".join(reasons),
        capabilities=tuple(sorted(dataplane.capabilities)) if families else (),
        families=tuple(families),
    )


async def _try_family(dataplane: Dataplane[Any], family: Family) -> None:
    node, service, _ = _ADDRESSES[family]
    version = f"-{family.value}"
    for address in (node, service):
        exec.run(["ip", version, "address", "replace", f"{address}/{_BITS[family]}", "dev", "lo"])
    facts = NodeFacts(name="trial", addresses=(parse_address(node),))
    dataplane.configure(facts)
    await dataplane.observe()
    await dataplane.prepare()
    change = dataplane.diff(b"", dataplane.render_node(facts, drop_unallocated=True))
    for plan in _plans(family, dataplane.capabilities):
        change.include(dataplane.diff(b"", dataplane.render(plan, b"")))
    await dataplane.apply(change)


def _plans(family: Family, capabilities: frozenset[str]) -> Iterator[ServicePlan]:
    """What of these a mode says it can do."""
    _, service, pod = (parse_address(each) for each in _ADDRESSES[family])
    verdict = Verdict(Action.FORWARD, 0)
    ranges = (make_prefix(pod, 8),) if "source-ranges" in capabilities else ()
    frontends = [Frontend(FrontendKind.CLUSTER_IP, service, 80, verdict, verdict, verdict)]
    if ranges:
        balancer = Frontend(FrontendKind.LOAD_BALANCER_IP, service, 81, verdict, verdict, verdict)
        frontends.append(balancer._replace(source_ranges=ranges))
    frontends.append(Frontend(FrontendKind.NODE_PORT, b"", 30080, verdict, verdict, verdict))
    weight = 2 if "weights" in capabilities else 1
    endpoints = (PlanEndpoint(pod, 8080, 1), PlanEndpoint(pod[:-1] + b"\x02", 8080, weight))
    port = ServicePortPlan(
        name="", protocol=Protocol.TCP, family=family, frontends=tuple(frontends), endpoint_sets=(endpoints,)
    )
    yield ServicePlan(ports=(port,), affinity_timeout_seconds=60 if "affinity" in capabilities else 0)
