# SPDX-License-Identifier: Apache-2.0
"""In which services a node's kernel differs from what is wanted of it, and why."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from pointsman_model.names import ServiceKey
from pointsman_planner.core.messages import Failure
from pointsman_planner.core.node_session import NodeSession
from pointsman_planner.core.plan_source import PlanSource

DIFFERENCES_MAX: Final = 1000


class Standing(IntEnum):
    """What became of a service's present plan (equals `pointsman.control.v1.ServiceDifference.Standing`)."""

    WAITING = 1
    SENT = 2
    REFUSED = 3


class Difference(NamedTuple):
    """One service."""

    service: ServiceKey
    standing: Standing
    reason: str


def differences(session: NodeSession, source: PlanSource) -> list[Difference]:
    """Of a node with a stream here, by name, at most DIFFERENCES_MAX. What was refused and is sent again is sent."""
    waiting = session.unsent()
    buckets = {bucket for flight in session.flights for bucket in flight.buckets}
    sent = {key for flight in session.flights for key in flight.keys} | set(source.services_in(sorted(buckets)))
    found = {failure.service: _refused(failure) for failure in session.failures}
    found |= {key: Difference(key, Standing.SENT, "sent, and not acknowledged yet") for key in sent}
    found |= {key: Difference(key, Standing.WAITING, _why_waiting(session)) for key in waiting}
    return [found[key] for key in sorted(found)[:DIFFERENCES_MAX]]


def refusals(failures: tuple[Failure, ...]) -> list[Difference]:
    """Of a node with a stream elsewhere: what its planner recorded."""
    return [_refused(failure) for failure in sorted(failures, key=lambda each: each.service)[:DIFFERENCES_MAX]]


def _refused(failure: Failure) -> Difference:
    return Difference(failure.service, Standing.REFUSED, f"{failure.stage.name.lower()}: {failure.message}")


def _why_waiting(session: NodeSession) -> str:
    if not session.is_live:
        return "the planner is not in sync yet"
    return "earlier transactions are not acknowledged yet" if session.in_flight else "about to be sent"
