# SPDX-License-Identifier: Apache-2.0
"""What an enforcer says on its stream, as values; `api/plan_codec.py` makes them from bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from pointsman_model.cluster import ClusterPosition
from pointsman_model.names import ServiceKey
from pointsman_model.plan import DataplaneSettings
from pointsman_model.remembered import RememberedClient


class ProtocolViolationError(Exception):
    """The enforcer broke a rule of StreamNodePlan; the message says which."""


class AckLevel(IntEnum):
    """How far a transaction got (equals `pointsman.plan.v1.AckLevel`)."""

    RECEIVED = 1
    PROGRAMMED = 2
    VERIFIED = 3


class FailureStage(IntEnum):
    """Where a service failed (equals `pointsman.plan.v1.ServiceFailure.Stage`)."""

    DECODE = 1
    UNSUPPORTED = 2
    APPLY = 3
    VERIFY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who calls and what it holds."""

    node_name: str
    bucket_digests: tuple[int, ...]
    instance_id: str = ""
    version: str = ""
    mode: int = 0
    capabilities: tuple[str, ...] = ()
    settings: DataplaneSettings | None = None
    position: ClusterPosition = field(default_factory=ClusterPosition)
    unreachable_planners: frozenset[str] = frozenset()
    """Ids of candidates that the enforcer could not reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The newest repair after somebody else changed the node's kernel objects (see `pointsman.plan.v1.DriftReport`)."""

    repairs: int
    repaired_at_ns: int = 0
    duration_ns: int = 0
    kinds: tuple[str, ...] = ()
    objects: int = 0
    process: str = ""
    process_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """A transaction was reached, and all before it; nonce 0 = the enforcer speaks by itself."""

    nonce: int
    level: AckLevel
    digest: int
    programmed_digest: int
    applied_at_ns: int = 0
    drift: Drift | None = None
    recovered: tuple[ServiceKey, ...] = ()
    """Services nacked before that are as planned now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One service that could not be programmed."""

    service: ServiceKey
    stage: FailureStage
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack:
    """Services of a transaction that could not be programmed."""

    nonce: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Trouble with a service that the node's kernel has as planned (see `pointsman.plan.v1.ServiceCondition`)."""

    service: ServiceKey
    kind: int
    message: str
    since_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """All such trouble of a node; `total` may be more than are listed."""

    conditions: tuple[Condition, ...] = ()
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Proof of life, with the digest of the plan that the enforcer holds."""

    digest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync:
    """The digests differ; what differs is wanted."""

    bucket_digests: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AffinityReport:
    """Clients that the node remembers and that other nodes would send elsewhere."""

    clients: tuple[RememberedClient, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A message of a kind that only newer enforcers know; passed over."""


Message = Hello | Ack | Nack | Heartbeat | Resync | Conditions | AffinityReport | Unknown
