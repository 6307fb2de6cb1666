# SPDX-License-Identifier: Apache-2.0
"""Bytes of `StreamNodePlanResponse`, put together from parts that were encoded once and are shared by many nodes.

A protobuf message is the concatenation of its fields in any order, so a transaction is a small head of this node's
own (nonce, digest) followed by fields that all nodes of a view share. Only the head is written for each node: about
1 us against 20 us for building a message object. Field numbers are those of plan_service.proto; a test reads every
message back with the stubs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_model.cluster import ClusterPosition
from pointsman_model.names import Family, ServiceKey
from pointsman_model.remembered import RememberedClient
from pointsman_model.wire.positions import position_to_pb
from pointsman_model.wire.remembered import memory_to_pb
from pointsman_planner.core.ownership import Member

MESSAGE_BYTES_MAX = 1 << 20
CAPABILITIES = ("affinity", "conditions")
"""Of this planner, as proto/README.md names them."""
ITEM_BYTES_MAX = MESSAGE_BYTES_MAX - (32 << 10)
"""Room for fields in one part; the rest is for the head: buckets (3 KiB), node facts and 64 origins."""

_TAG_RESPONSE_TRANSACTION = b"\x12"
_TAG_NONCE = b"\x08"
_TAG_PART = b"\x10"
_COMMIT = b"\x18\x01"
_TAG_POSITION = b"\x22"
_TAG_UPDATE = b"\x2a"
_TAG_REMOVAL = b"\x32"
_TAG_REPLACED_BUCKETS = b"\x3a"
_REPLACES_ALL = b"\x40\x01"
_TAG_NODE = b"\x4a"
_TAG_DIGEST = b"\x51"
_IN_SYNC = b"\x58\x01"
_TAG_ORIGIN = b"\x62"
_PACK_FIXED64 = struct.Struct("<Q").pack


def varint(value: int) -> bytes:
    """A protobuf base 128 varint of a non-negative number."""
    if value < 0x80:
        return bytes((value,))
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _field(tag: bytes, data: bytes) -> bytes:
    return b"".join((tag, varint(len(data)), data))


def _name(key: ServiceKey) -> bytes:
    """A NamespacedName message."""
    namespace = _field(b"\x0a", key.namespace.encode()) if key.namespace else b""
    return namespace + (_field(b"\x12", key.name.encode()) if key.name else b"")


def update_field(key: ServiceKey, plan: bytes) -> bytes:
    """A `Transaction.updates` field, tag and length included."""
    return _field(_TAG_UPDATE, _field(b"\x0a", _name(key)) + _field(b"\x12", plan))


def removal_field(key: ServiceKey) -> bytes:
    """A `Transaction.removals` field."""
    return _field(_TAG_REMOVAL, _name(key))


def origin_field(
    service: ServiceKey, traceparent: str, trigger_time_ns: int, observed_at_ns: int, family: Family | None = None
) -> bytes:
    """A `Transaction.origins` field; times are nanoseconds since the epoch, 0 = unknown."""
    origin = pb.ChangeOrigin()
    origin.service.namespace, origin.service.name = service
    if traceparent:
        origin.trace.traceparent = traceparent
    if trigger_time_ns:
        origin.trigger_time.FromNanoseconds(trigger_time_ns)
    if observed_at_ns:
        origin.observed_at.FromNanoseconds(observed_at_ns)
    if family is not None:
        origin.family = types_pb2.IPFamily.ValueType(family)
    return _field(_TAG_ORIGIN, origin.SerializeToString())


def node_field(facts: bytes) -> bytes:
    """A `Transaction.node` field from an encoded NodeFacts."""
    return _field(_TAG_NODE, facts)


def position_field(position: ClusterPosition) -> bytes:
    """A `Transaction.position` field."""
    return _field(_TAG_POSITION, position_to_pb(position).SerializeToString())


def welcome(
    planner_id: str,
    heartbeat_interval_seconds: float,
    capabilities: Sequence[str] = (),
    candidates: Iterable[Member] = (),
) -> bytes:
    """The first message of a stream."""
    message = pb.Welcome(
        planner_id=planner_id,
        heartbeat_interval=_duration(heartbeat_interval_seconds),
        capabilities=capabilities,
        candidates=map(_candidate, candidates),
    )
    return pb.StreamNodePlanResponse(welcome=message).SerializeToString()


class RedirectReason(IntEnum):
    """Why a node is sent elsewhere (equals `pointsman.plan.v1.Redirect.Reason`)."""

    NOT_OWNER = 1
    DRAINING = 2
    OVERLOADED = 3


def redirect(
    candidates: Iterable[Member], reason: RedirectReason, *, grace_seconds: float, delay_seconds: float = 0.0
) -> bytes:
    """Go elsewhere: to these, not before the delay; the stream is served for the grace."""
    message = pb.Redirect(candidates=map(_candidate, candidates), grace=_duration(grace_seconds))
    message.reason = pb.Redirect.Reason.ValueType(reason)
    if delay_seconds:
        message.delay.CopyFrom(_duration(delay_seconds))
    return pb.StreamNodePlanResponse(redirect=message).SerializeToString()


def _candidate(member: Member) -> pb.Candidate:
    return pb.Candidate(planner_id=member.planner_id, address=member.address)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def affinity(clients: Iterable[RememberedClient]) -> bytes:
    """Clients to remember, at most `wire.remembered.ENTRIES_SENT_MAX`."""
    return pb.StreamNodePlanResponse(affinity=memory_to_pb(clients)).SerializeToString()


def heartbeat(now_ns: int, position: ClusterPosition | None, candidates: Iterable[Member] = ()) -> bytes:
    """Proof of life; `position` is given only when the node has everything up to it, `candidates` when they are new."""
    sent_at = Timestamp()
    sent_at.FromNanoseconds(now_ns)
    message = pb.Heartbeat(sent_at=sent_at, candidates=map(_candidate, candidates))
    if position is not None:
        message.position.CopyFrom(position_to_pb(position))
    return pb.StreamNodePlanResponse(heartbeat=message).SerializeToString()


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionFrame:
    """A transaction ready to be written: references to shared fields, and what is this node's own."""

    nonce: int
    position: bytes
    """A `position` field."""
    items: Sequence[bytes]
    """`removals` and `updates` fields in the order in which they should be programmed."""
    digest: int
    in_sync: bool = True
    """Whether the enforcer holds the whole plan after it. Ours always bring the whole difference, so it always does."""
    replaces_all: bool = False
    replaced_buckets: Sequence[int] = ()
    node: bytes = b""
    """A `node` field, or nothing."""
    origins: Sequence[bytes] = ()
    """`origins` fields."""

    def parts(self) -> Iterator[bytes]:
        """The messages, each at most MESSAGE_BYTES_MAX as no item is above ITEM_BYTES_MAX; made as they are asked for.

        A caller that writes one part at a time therefore holds one part, and not a whole cold start for each node.
        """
        nonce = _TAG_NONCE + varint(self.nonce) + self.position
        head = self._head()
        start, number = 0, 0
        while True:
            end = _part_end(self.items, start)
            is_last = end == len(self.items)
            tail = self._tail() if is_last else b""
            body = b"".join((nonce, _TAG_PART, varint(number), head, *self.items[start:end], tail))
            yield b"".join((_TAG_RESPONSE_TRANSACTION, varint(len(body)), body))
            if is_last:
                return
            start, number, head = end, number + 1, b""

    def _head(self) -> bytes:
        buckets = b""
        if self.replaces_all:
            buckets = _REPLACES_ALL
        elif self.replaced_buckets:
            buckets = _field(_TAG_REPLACED_BUCKETS, b"".join(map(varint, self.replaced_buckets)))
        return b"".join((buckets, self.node, *self.origins))

    def _tail(self) -> bytes:
        in_sync = _IN_SYNC if self.in_sync else b""
        return b"".join((_COMMIT, _TAG_DIGEST, _PACK_FIXED64(self.digest), in_sync))


def _part_end(items: Sequence[bytes], start: int) -> int:
    """Index after the last item that still fits; at least one item goes into a part."""
    size, end = 0, start
    while end < len(items):
        size += len(items[end])
        if size > ITEM_BYTES_MAX and end > start:
            break
        end += 1
    return end
