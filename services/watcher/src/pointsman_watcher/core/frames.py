# SPDX-License-Identifier: Apache-2.0
"""Messages of WatchCluster put together from bytes that are encoded already.

Protobuf allows it: a message is the concatenation of its fields, and an embedded message is its length and its bytes.
So one object is encoded once, however many subscribers get it in however many different deltas.
"""

from collections.abc import Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_model.cluster import ResourceVersions
from pointsman_model.wire.positions import resource_versions_to_pb

_RESPONSE_DELTA: Final = b"\x12"  # WatchClusterResponse.delta = 2, length-delimited
_DELTA_REVISION: Final = b"\x08"  # Delta.revision = 1, varint
_DELTA_CHANGE: Final = b"\x12"  # Delta.changes = 2, length-delimited
_DELTA_COMPLETE: Final = b"\x18\x01"  # Delta.complete = 3, varint: true
_DELTA_VERSIONS: Final = b"\x22"  # Delta.resource_versions = 4, length-delimited
_NANOSECONDS: Final = 1_000_000_000

DELTA_OVERHEAD_BYTES: Final = 96
"""More than the fields around the changes of one delta can take."""


def varint(number: int) -> bytes:
    """A non-negative integer as protobuf writes it."""
    if number < 0x80:
        return bytes((number,))
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def change_frame(body: bytes, meta: bytes, trace: bytes = b"") -> bytes:
    """One element of `Delta.changes`."""
    return b"".join((_DELTA_CHANGE, varint(len(body) + len(meta) + len(trace)), body, meta, trace))


def delta_response(revision: int, frames: Sequence[bytes], *, versions: ResourceVersions | None) -> bytes:
    """A WatchClusterResponse with one delta, complete, or (without `versions`) one part of it that is not the last."""
    end = b"" if versions is None else _DELTA_COMPLETE + _versions_field(_DELTA_VERSIONS, versions)
    delta = b"".join((_DELTA_REVISION, varint(revision), *frames, end))
    return b"".join((_RESPONSE_DELTA, varint(len(delta)), delta))


def _versions_field(tag: bytes, versions: ResourceVersions) -> bytes:
    encoded = resource_versions_to_pb(versions).SerializeToString()
    return b"".join((tag, varint(len(encoded)), encoded))


def encode_meta(resource_version: str, observed_at_ns: int) -> bytes:
    """`resource_version` and `observed_at` of a Change."""
    return pb.Change(resource_version=resource_version, observed_at=_timestamp(observed_at_ns)).SerializeToString()


def encode_trace(traceparent: str) -> bytes:
    """`trace` of a Change; nothing for an empty one."""
    if not traceparent:
        return b""
    return pb.Change(trace=types_pb2.TraceContext(traceparent=traceparent)).SerializeToString()


def decode_trace(trace: bytes) -> str:
    """What `encode_trace` was given."""
    return pb.Change.FromString(trace).trace.traceparent


def opened_response(*, epoch: str, revision: int, is_resume: bool, heartbeat_interval_ms: int) -> bytes:
    """The first message of a stream."""
    start = pb.Opened.START_RESUME if is_resume else pb.Opened.START_SNAPSHOT
    opened = pb.Opened(epoch=epoch, revision=revision, start=start, heartbeat_interval_ms=heartbeat_interval_ms)
    return pb.WatchClusterResponse(opened=opened).SerializeToString()


def in_sync_response(revision: int, versions: ResourceVersions) -> bytes:
    """Everything up to `opened.revision` was sent."""
    in_sync = pb.InSync(revision=revision, resource_versions=resource_versions_to_pb(versions))
    return pb.WatchClusterResponse(in_sync=in_sync).SerializeToString()


def heartbeat_response(revision: int, sent_at_ns: int, versions: ResourceVersions, last_contact_ns: int) -> bytes:
    """Proof of life, and how far the API server was read; `last_contact_ns` 0 = never heard of it."""
    heartbeat = pb.Heartbeat(
        revision=revision, sent_at=_timestamp(sent_at_ns), resource_versions=resource_versions_to_pb(versions)
    )
    if last_contact_ns:
        heartbeat.last_contact.CopyFrom(_timestamp(last_contact_ns))
    return pb.WatchClusterResponse(heartbeat=heartbeat).SerializeToString()


def _timestamp(nanoseconds: int) -> Timestamp:
    seconds, nanos = divmod(nanoseconds, _NANOSECONDS)
    return Timestamp(seconds=seconds, nanos=nanos)
