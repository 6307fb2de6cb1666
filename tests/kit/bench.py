# SPDX-License-Identifier: Apache-2.0
"""What the checks of an enforcer share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kit.plan_book import PlanBook
from kit.planner import PATIENCE_SECONDS, KitPlanner, KitStream
from kit.verdicts import require
from pointsman.plan.v1 import plan_service_pb2 as pb


@dataclass(slots=True)
class Bench:
    """What the checks share: a planner that the enforcer knows, one that it does not, and what it must hold."""

    planner: KitPlanner
    other: KitPlanner
    is_fresh: bool = False
    """The enforcer begins without a plan."""
    interval_seconds: float = 1.0
    """Heartbeat interval; most waits are multiples of it."""
    patience_seconds: float = PATIENCE_SECONDS
    """How long an answer may take."""
    refusal_seconds: float = 6.0
    """How long planners refuse, to see how dialing is spaced."""
    book: PlanBook = field(default_factory=PlanBook)
    stream: KitStream | None = None

    async def redial(self) -> KitStream:
        """End the stream, if there is one, and wait for the next."""
        if self.stream is not None:
            self.stream.end()
        self.stream = await self.planner.stream()
        self.stream.patience_seconds = self.patience_seconds
        return self.stream

    async def synced(self) -> KitStream:
        """A stream on which the enforcer has acknowledged what is in the book."""
        stream = self.stream
        if stream is None or stream.is_ended or (stream.is_greeted and stream.nonce == 0):
            stream = await self.redial()
        if stream.nonce == 0:
            await self.greet(stream)
            nonce = await stream.send(self.book, self.book.held, replaces_all=True)
            await self.holds(stream, nonce)
        return stream

    async def greet(self, stream: KitStream, **words: Any) -> None:
        """Welcome the enforcer, with the interval of this bench."""
        await stream.greet(interval_seconds=self.interval_seconds, **words)

    def forget(self) -> None:
        """Begin anew after a broken rule: nobody knows what the enforcer holds now."""
        if self.stream is not None:
            self.stream.end()
        self.stream = None

    async def holds(self, stream: KitStream, nonce: int) -> pb.Ack:
        """The enforcer acknowledges this transaction, and the digest is that of the book."""
        ack = await stream.acknowledged(nonce)
        require(ack.digest == self.book.digest, f"ack.digest is {ack.digest:x}, the plan sent has {self.book.digest:x}")
        return ack
