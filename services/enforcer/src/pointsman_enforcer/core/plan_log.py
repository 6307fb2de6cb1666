# SPDX-License-Identifier: Apache-2.0
"""The plan on disk as bytes: a header, then one record for each transaction.

    header  8 bytes magic and version
    record  4 bytes length, 4 bytes CRC-32 of length and payload, payload = a serialised pointsman.plan.v1.Transaction

The first record of a fresh file is a snapshot (it replaces everything), each further one a change, so a change costs
its own size whatever the plan's. Reading stops at the first record that is torn, corrupt or nonsense: what came before
is a plan that this node really had, and the planner will send what is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final
from zlib import crc32

from google.protobuf.message import DecodeError

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_enforcer.core.errors import PlanProtocolError
from pointsman_enforcer.core.messages import TransactionBuilder, transaction_to_pb
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Transaction

MAGIC: Final = b"pmplan\x00\x01"
"""Six letters and a version. Another version is not read: the planner sends the plan again."""
RECORD_BYTES_MAX: Final = 1 << 28
_SNAPSHOT_SERVICES: Final = 1000
_HEAD: Final = struct.Struct("<II")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What a file held.

    `good_bytes` is the length of the part that is sound; `problem` says what follows it, empty when nothing does.
    """

    store: PlanStore
    good_bytes: int
    records: int
    problem: str = ""


def encode_record(transaction: Transaction) -> bytes:
    """The record of one transaction. ValueError when it is larger than any reader would accept."""
    return _frame(transaction_to_pb(transaction).SerializeToString())


def encode_snapshot(transaction: Transaction) -> Iterator[bytes]:
    """A whole file in pieces, from `PlanStore.snapshot`: the header, then records of bounded size."""
    yield MAGIC
    items = list(transaction.updates.items())
    first = True
    while first or items:
        batch, items = dict(items[:_SNAPSHOT_SERVICES]), items[_SNAPSHOT_SERVICES:]
        part = replace(
            transaction,
            updates=batch,
            replaces_all=first,
            facts=transaction.facts if first else None,
            in_sync=transaction.in_sync and not items,
            digest=0 if items else transaction.digest,
        )
        yield encode_record(part)
        first = False


def load(data: bytes) -> LoadResult:
    """Read a file's bytes; never raises. A store is incomplete unless some record brought it in sync."""
    store = PlanStore()
    if data[: len(MAGIC)] != MAGIC:
        problem = "the file is empty" if not data else "this is not a plan file of this version"
        return LoadResult(store=store, good_bytes=0, records=0, problem=problem)
    offset, records, problem = len(MAGIC), 0, ""
    while offset < len(data):
        payload, problem = _payload(data, offset)
        if not problem:
            problem = _replay(store, payload)
        if problem:
            problem = f"record {records} at byte {offset}: {problem}"
            store.is_complete = False
            break
        offset += _HEAD.size + len(payload)
        records += 1
    return LoadResult(store=store, good_bytes=offset, records=records, problem=problem)


def _frame(payload: bytes) -> bytes:
    if len(payload) > RECORD_BYTES_MAX:
        raise ValueError(f"a record of {len(payload)} bytes is over the limit of {RECORD_BYTES_MAX}")
    return _HEAD.pack(len(payload), _checksum(payload)) + payload


def _payload(data: bytes, offset: int) -> tuple[bytes, str]:
    """The payload of the record at `offset`, or what is wrong with it."""
    if len(data) - offset < _HEAD.size:
        return b"", "its head is torn"
    length, checksum = _HEAD.unpack_from(data, offset)
    if length > RECORD_BYTES_MAX:
        return b"", f"its length of {length} bytes is impossible"
    start = offset + _HEAD.size
    payload = data[start : start + length]
    if len(payload) < length:
        return b"", f"it is torn: {len(payload)} of {length} bytes are there"
    if _checksum(payload) != checksum:
        return b"", "its checksum is wrong"
    return payload, ""


def _checksum(payload: bytes) -> int:
    """Over length and payload, so that zeros written by a crashed file system are no valid record."""
    return crc32(payload, crc32(len(payload).to_bytes(4, "little") + b"pm"))


def _replay(store: PlanStore, payload: bytes) -> str:
    """Apply one record; what is wrong with it, or nothing."""
    try:
        message = pb.Transaction.FromString(payload)
        message.part = 0
        transaction = TransactionBuilder(message.nonce).add(message)
    except (DecodeError, PlanProtocolError) as error:
        return str(error)
    if transaction is None:
        return "it is no complete transaction"
    store.apply(transaction)
    if transaction.digest and store.digest != transaction.digest:
        return f"the plan's digest is {store.digest:016x}, the record says {transaction.digest:016x}"
    return ""
