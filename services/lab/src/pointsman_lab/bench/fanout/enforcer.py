# SPDX-License-Identifier: Apache-2.0
"""A light enforcer: follows StreamNodePlan over a socket of its own, and keeps digests of plans instead of plans.

It programs no kernel. What it acknowledges is the digest of what it was really sent, so a planner cannot tell it from
a node; a digest that does not come out is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import grpc
import grpc.aio

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.digest import BUCKET_COUNT, bucket_of
from pointsman_model.names import ServiceKey

METHOD = "/pointsman.plan.v1.PlanService/StreamNodePlan"
_MASK = (1 << 64) - 1
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 4 << 20))
_RETRY_SECONDS = 0.2
SLOW_SECONDS = 2.0
"""How long a slow node takes for a transaction."""


class Manner(StrEnum):
    """How a node behaves."""

    LIVE = "live"
    SLOW = "slow"
    """Acknowledges late."""
    DEAD = "dead"
    """Says hello, then neither reads nor writes."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the nodes of one process saw."""

    acks: list[tuple[int, int]] = field(default_factory=list)
    """Revision and CLOCK_MONOTONIC nanoseconds of each acknowledgement by a live node."""
    bytes_received: int = 0
    """Of transactions, as gRPC messages, by live nodes."""
    transactions: int = 0
    mismatches: int = 0
    broken: int = 0
    """Streams that ended without being cut here."""


class LightEnforcer:
    """One node; `run` until cancelled. The digest of a plan comes from `digest`, which may remember."""

    def __init__(
        self, node: str, address: str, manner: Manner, tally: Tally, digest: Callable[[ServiceKey, bytes], int]
    ) -> None:
        self.manner = manner
        self.is_in_sync = False
        self._node = node
        self._address = address
        self._tally = tally
        self._digest = digest
        self._digests: dict[ServiceKey, int] = {}
        self._total = 0
        self._parts: list[pb.Transaction] = []
        self._call: Any = None
        self._is_cut = False

    def cut(self) -> None:
        """Break the stream; the node dials again at once."""
        self._is_cut = True
        self.is_in_sync = False
        if self._call is not None:
            self._call.cancel()

    async def run(self) -> None:
        """Dial, follow, and dial again, for ever."""
        while True:
            self._is_cut = False
            async with grpc.aio.insecure_channel(self._address, options=_OPTIONS) as channel:
                try:
                    await self._follow(channel)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    pass
                except asyncio.CancelledError:
                    if not self._is_cut:
                        raise
            self.is_in_sync = False
            if not self._is_cut:
                self._tally.broken += self.manner is not Manner.DEAD
                await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self, channel: grpc.aio.Channel) -> None:
        call: Any = channel.stream_stream(METHOD)()
        self._call, self._parts = call, []
        await self._write(call, pb.StreamNodePlanRequest(hello=self._hello()))
        if self.manner is Manner.DEAD:
            await call.code()
            return
        while (data := await call.read()) is not grpc.aio.EOF:
            message = pb.StreamNodePlanResponse.FromString(data)
            if message.HasField("transaction"):
                await self._take(call, message.transaction, len(data))
            elif message.HasField("heartbeat"):
                await self._write(call, pb.StreamNodePlanRequest(heartbeat=pb.Heartbeat(digest=self._total)))

    @staticmethod
    async def _write(call: Any, message: pb.StreamNodePlanRequest) -> None:
        await call.write(message.SerializeToString())

    def _hello(self) -> pb.Hello:
        sums = [0] * BUCKET_COUNT
        for key, digest in self._digests.items():
            bucket = bucket_of(key)
            sums[bucket] = (sums[bucket] + digest) & _MASK
        return pb.Hello(node_name=self._node, instance_id="fanout", mode=pb.PROXY_MODE_NFTABLES, bucket_digests=sums)

    async def _take(self, call: Any, part: pb.Transaction, size: int) -> None:
        self._parts.append(part)
        if self.manner is Manner.LIVE:
            self._tally.bytes_received += size
        if not part.commit:
            return
        parts, self._parts = self._parts, []
        self._commit(parts)
        if self.manner is Manner.SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        if self._total != part.digest:
            self._tally.mismatches += 1
        ack = pb.Ack(
            nonce=part.nonce,
            level=pb.ACK_LEVEL_PROGRAMMED,
            position=part.position,
            digest=self._total,
            programmed_digest=self._total,
        )
        await self._write(call, pb.StreamNodePlanRequest(ack=ack))
        self.is_in_sync = True
        if self.manner is Manner.LIVE:
            self._tally.transactions += 1
            self._tally.acks.append((part.position.revision, time.monotonic_ns()))

    def _commit(self, parts: list[pb.Transaction]) -> None:
        if parts[0].replaces_all:
            self._digests = {}
        elif parts[0].replaced_buckets:
            gone = frozenset(parts[0].replaced_buckets)
            self._digests = {key: value for key, value in self._digests.items() if bucket_of(key) not in gone}
        for part in parts:
            for name in part.removals:
                self._digests.pop(ServiceKey(name.namespace, name.name), None)
            for update in part.updates:
                key = ServiceKey(update.name.namespace, update.name.name)
                self._digests[key] = self._digest(key, update.plan)
        self._total = sum(self._digests.values()) & _MASK
