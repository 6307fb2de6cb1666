# SPDX-License-Identifier: Apache-2.0
"""`StreamNodePlanRequest` bytes to the session's messages: what an enforcer sends is valid, or a WireError."""

from __future__ import annotations

import re
from collections.abc import Iterable

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_model.cluster import ClusterPosition
from pointsman_model.digest import BUCKET_COUNT
from pointsman_model.names import ServiceKey
from pointsman_model.wire import WireError
from pointsman_model.wire.plan import settings_from_pb
from pointsman_model.wire.remembered import memory_from_pb
from pointsman_planner.core.messages import (
    Ack,
    AckLevel,
    AffinityReport,
    Condition,
    Conditions,
    Drift,
    Failure,
    FailureStage,
    Heartbeat,
    Hello,
    Message,
    Nack,
    Resync,
    Unknown,
)

_TEXT_MAX = 1024
_KIND_MAX = 32
_KINDS_MAX = 16
_RECOVERED_MAX = 1000
_CONDITIONS_MAX = 500
_CAPABILITIES_MAX = 256
_UNREACHABLE_MAX = 64
_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def decode_message(data: bytes) -> Message:
    """The message in these bytes.

    Raises:
        WireError: they are not a StreamNodePlanRequest, or a field breaks a rule of plan.v1.
    """
    try:
        request = pb.StreamNodePlanRequest.FromString(data)
    except DecodeError as error:
        raise WireError(f"not a StreamNodePlanRequest: {error}") from error
    kind = request.WhichOneof("message")
    if kind == "ack":
        return _ack(request.ack)
    if kind == "heartbeat":
        return Heartbeat(digest=request.heartbeat.digest)
    if kind == "nack":
        return Nack(nonce=request.nack.nonce, failures=tuple(map(_failure, request.nack.failures)))
    if kind == "resync":
        return Resync(bucket_digests=_buckets(request.resync.bucket_digests, "resync"))
    if kind == "hello":
        return _hello(request.hello)
    if not request.ByteSize():
        raise WireError("no message is set: expected hello, ack, nack, heartbeat, resync, conditions or affinity")
    return _other(kind, request)


def _other(kind: str | None, request: pb.StreamNodePlanRequest) -> Message:
    """Messages beside those that plans need."""
    if kind == "affinity":
        return AffinityReport(clients=tuple(memory_from_pb(request.affinity)))
    return _conditions(request.conditions) if kind == "conditions" else Unknown()


def _hello(message: pb.Hello) -> Hello:
    if _NODE_NAME.fullmatch(message.node_name) is None:
        raise WireError(f"hello.node_name: {message.node_name[:64]!r} is not the name of a Kubernetes node")
    if len(message.capabilities) > _CAPABILITIES_MAX:
        raise WireError(f"hello.capabilities: {len(message.capabilities)} names, at most {_CAPABILITIES_MAX}")
    return Hello(
        node_name=message.node_name,
        instance_id=message.instance_id[:_TEXT_MAX],
        version=message.version[:_TEXT_MAX],
        mode=message.mode,
        capabilities=tuple(name[:_TEXT_MAX] for name in message.capabilities),
        bucket_digests=_buckets(message.bucket_digests, "hello"),
        settings=settings_from_pb(message.settings) if message.HasField("settings") else None,
        position=ClusterPosition(epoch=message.position.epoch[:_TEXT_MAX], revision=message.position.revision),
        unreachable_planners=frozenset(name[:_TEXT_MAX] for name in message.unreachable_planners[:_UNREACHABLE_MAX]),
    )


def _buckets(values: Iterable[int], where: str) -> tuple[int, ...]:
    digests = tuple(values)
    if len(digests) != BUCKET_COUNT:
        raise WireError(f"{where}.bucket_digests: {len(digests)} sums, a plan has {BUCKET_COUNT}")
    return digests


def _ack(message: pb.Ack) -> Ack:
    try:
        level = AckLevel(message.level)
    except ValueError as error:
        raise WireError(f"ack.level: {message.level} is not known") from error
    return Ack(
        nonce=message.nonce,
        level=level,
        digest=message.digest,
        programmed_digest=message.programmed_digest,
        applied_at_ns=_nanoseconds(message.applied_at, "ack.applied_at") if message.HasField("applied_at") else 0,
        drift=_drift(message.drift) if message.HasField("drift") else None,
        recovered=tuple(ServiceKey(name.namespace, name.name) for name in message.recovered[:_RECOVERED_MAX]),
    )


def _drift(message: pb.DriftReport) -> Drift:
    if not 0 <= message.duration.ToNanoseconds() < 1 << 63:
        raise WireError("ack.drift.duration: is not the duration of a repair")
    return Drift(
        repairs=message.repairs,
        repaired_at_ns=_nanoseconds(message.repaired_at, "ack.drift.repaired_at"),
        duration_ns=message.duration.ToNanoseconds(),
        kinds=tuple(kind[:_KIND_MAX] for kind in message.kinds[:_KINDS_MAX]),
        objects=message.objects,
        process=message.process[:_TEXT_MAX],
        process_id=message.process_id,
    )


def _nanoseconds(message: Timestamp, where: str) -> int:
    try:
        nanoseconds = message.ToNanoseconds()
    except ValueError as error:
        raise WireError(f"{where}: {error}") from error
    if not 0 <= nanoseconds < 1 << 63:
        raise WireError(f"{where}: is not within the years 1970 to 2262")
    return nanoseconds


def _failure(message: pb.ServiceFailure) -> Failure:
    try:
        stage = FailureStage(message.stage)
    except ValueError as error:
        raise WireError(f"nack.failures.stage: {message.stage} is not known") from error
    key = _service(message.service, "nack.failures.service")
    return Failure(service=key, stage=stage, message=message.message[:_TEXT_MAX])


def _conditions(message: pb.Conditions) -> Conditions:
    if len(message.conditions) > _CONDITIONS_MAX:
        raise WireError(f"conditions: {len(message.conditions)} are listed, at most {_CONDITIONS_MAX}")
    listed = tuple(map(_condition, message.conditions))
    return Conditions(conditions=listed, total=max(message.total, len(listed)))


def _condition(message: pb.ServiceCondition) -> Condition:
    if message.kind <= 0:
        raise WireError(f"conditions.kind: {message.kind} is no kind")
    return Condition(
        service=_service(message.service, "conditions.service"),
        kind=message.kind,
        message=message.message[:_TEXT_MAX],
        since_ns=_nanoseconds(message.since, "conditions.since"),
    )


def _service(message: types_pb2.NamespacedName, where: str) -> ServiceKey:
    key = ServiceKey(message.namespace, message.name)
    if not key.name or len(key.namespace) + len(key.name) > _TEXT_MAX:
        raise WireError(f"{where}: namespace and name are both needed")
    return key
