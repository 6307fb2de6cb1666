# SPDX-License-Identifier: Apache-2.0
"""A complete transaction of the plan stream, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from pointsman_model.names import Family, ServiceKey
from pointsman_model.plan import NodeFacts


class Position(NamedTuple):
    """A revision of a planner's history; revisions of different epochs are not comparable."""

    epoch: str = ""
    revision: int = 0


NO_POSITION: Final = Position()


class Stage(IntEnum):
    """Where a service failed (equals `pointsman.plan.v1.ServiceFailure.Stage`)."""

    DECODE = 1
    UNSUPPORTED = 2
    APPLY = 3
    VERIFY = 4


class ChangeOrigin(NamedTuple):
    """Where a change came from. Times are nanoseconds since 1970, 0 = unknown."""

    service: ServiceKey
    traceparent: str = ""
    trigger_time_ns: int = 0
    observed_at_ns: int = 0
    family: Family | None = None
    """Of the endpoints that changed; None when something else did, or the planner does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """Everything between the first part of a nonce and its commit.

    A service lies at most once in `updates` and `removals` together. `updates` keeps the order in which the planner
    wants the services programmed.
    """

    nonce: int
    position: Position = NO_POSITION
    updates: Mapping[ServiceKey, bytes] = field(default_factory=dict)
    removals: tuple[ServiceKey, ...] = ()
    replaced_buckets: frozenset[int] = frozenset()
    replaces_all: bool = False
    facts: NodeFacts | None = None
    """None = unchanged."""
    digest: int = 0
    """What the plan's digest must be after it."""
    in_sync: bool = False
    origins: tuple[ChangeOrigin, ...] = ()


class PlanChange(NamedTuple):
    """One service whose plan a transaction changed; digests are 0 where there was or is no plan."""

    key: ServiceKey
    old_digest: int
    new_digest: int
    old_plan: bytes | None = None
    """The plan before; None where there was none."""
