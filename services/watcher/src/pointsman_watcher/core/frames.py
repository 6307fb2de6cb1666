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

_RESPONSE_DELTA: Final = b"\x12"  # WatchClusterResponse.delta = 2, length-delimited
_DELTA_REVISION: Final = b"\x08"  # Delta.revision = 1, varint
_DELTA_CHANGE: Final = b"\x12"  # Delta.changes = 2, length-delimited
_DELTA_COMPLETE: Final = b"\x18\x01"  # Delta.complete = 3, varint: true
_NANOSECONDS: Final = 1_000_000_000

DELTA_OVERHEAD_BYTES: Final = 32
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


def delta_response(revision: int, frames: Sequence[bytes], *, is_complete: bool) -> bytes:
    """A WatchClusterResponse with one delta or one part of it."""
    delta = b"".join(
        (_DELTA_REVISION, varint(revision), *frames, _DELTA_COMPLETE if is_complete else b""),
    )
    return b"".join((_RESPONSE_DELTA, varint(len(delta)), delta))


def encode_meta(resource_version: str, observed_at_ns: int) -> bytes:
    """`resource_version` and `observed_at` of a Change."""
    seconds, nanos = divmod(observed_at_ns, _NANOSECONDS)
    observed_at = Timestamp(seconds=seconds, nanos=nanos)
    return pb.Change(resource_version=resource_version, observed_at=observed_at).SerializeToString()


def encode_trace(traceparent: str) -> bytes:
    """`trace` of a Change; nothing for an empty one."""
    if not traceparent:
        return b""
    return pb.Change(trace=types_pb2.TraceContext(traceparent=traceparent)).SerializeToString()


def opened_response(*, epoch: str, revision: int, is_resume: bool, heartbeat_interval_ms: int) -> bytes:
    """The first message of a stream."""
    start = pb.Opened.START_RESUME if is_resume else pb.Opened.START_SNAPSHOT
    opened = pb.Opened(epoch=epoch, revision=revision, start=start, heartbeat_interval_ms=heartbeat_interval_ms)
    return pb.WatchClusterResponse(opened=opened).SerializeToString()


def in_sync_response(revision: int) -> bytes:
    """Everything up to `opened.revision` was sent."""
    return pb.WatchClusterResponse(in_sync=pb.InSync(revision=revision)).SerializeToString()


def heartbeat_response(revision: int, sent_at_ns: int) -> bytes:
    """Proof of life."""
    seconds, nanos = divmod(sent_at_ns, _NANOSECONDS)
    heartbeat = pb.Heartbeat(revision=revision, sent_at=Timestamp(seconds=seconds, nanos=nanos))
    return pb.WatchClusterResponse(heartbeat=heartbeat).SerializeToString()
