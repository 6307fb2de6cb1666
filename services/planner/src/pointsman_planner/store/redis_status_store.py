# SPDX-License-Identifier: Apache-2.0
"""Node status in Redis: one hash for each node, so that any planner can answer for all of them.

Only the newest status of a node is ever waiting, writes go out in pipelines of bounded size, every command has a
timeout. What comes back from Redis is shown to people and decides nothing; a value that does not parse is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import redis.asyncio
import structlog
from redis.exceptions import RedisError

from pointsman_chassis.backoff import Backoff
from pointsman_model.cluster import ClusterPosition
from pointsman_model.names import ServiceKey
from pointsman_planner.core.messages import Conditions, Drift, Failure, FailureStage
from pointsman_planner.core.status import NodeState, NodeStatus
from pointsman_planner.metrics import PlannerMetrics

_PIPELINE_NODES_MAX = 200
_NODES_MAX = 20_000
_FLUSH_SECONDS = 0.1
_TIMEOUT_SECONDS = 2.0
_EXPIRY_SECONDS = 24 * 3600
"""A node that nobody has heard of for a day is gone; Redis needs no other cleaning."""


class RedisStatusStore:
    """Writes status asynchronously; see the module."""

    def __init__(
        self,
        *,
        url: str,
        key_prefix: str,
        metrics: PlannerMetrics,
        flush_seconds: float = _FLUSH_SECONDS,
    ) -> None:
        self._client = redis.asyncio.from_url(
            url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            max_connections=4,
        )
        self._prefix = key_prefix
        self._metrics = metrics
        self._flush_seconds = flush_seconds
        self._dirty: dict[str, NodeStatus] = {}
        self._wake = asyncio.Event()
        self._is_degraded = False

    def report(self, status: NodeStatus) -> None:
        """Keep the newest status of a node until it is written; more nodes than fit are counted and left out."""
        if status.name not in self._dirty and len(self._dirty) >= _NODES_MAX:
            self._metrics.status_failures.inc()
            return
        self._dirty[status.name] = status
        self._wake.set()

    async def read(self, nodes: Iterable[str]) -> dict[str, NodeStatus]:
        """Last known status; empty while Redis is away."""
        names = list(nodes)
        if not names:
            return {}
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                pipeline = self._client.pipeline(transaction=False)
                for name in names:
                    pipeline.hgetall(self._key(name))
                found = await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            self._degrade(error)
            return {}
        statuses = {name: _from_hash(name, fields) for name, fields in zip(names, found, strict=True) if fields}
        return {name: status for name, status in statuses.items() if status is not None}

    async def run(self) -> None:
        """Write what was reported, for ever."""
        backoff = Backoff(initial_seconds=0.2, maximum_seconds=10.0)
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._flush_seconds)
            self._wake.clear()
            try:
                await self._write()
            except (RedisError, OSError, TimeoutError) as error:
                self._degrade(error)
                await asyncio.sleep(backoff.next_seconds())
                self._wake.set()
                continue
            backoff.reset()
            self._recover()
            if self._dirty:
                self._wake.set()

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.aclose()

    async def _write(self) -> None:
        pipeline = self._client.pipeline(transaction=False)
        # Taken off first: a report that comes during the write is newer and is written next.
        batch = {name: self._dirty.pop(name) for name in list(self._dirty)[:_PIPELINE_NODES_MAX]}
        for name, status in batch.items():
            pipeline.hset(self._key(name), mapping=_to_hash(status))
            pipeline.expire(self._key(name), _EXPIRY_SECONDS)
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await pipeline.execute()
        except BaseException:
            self._dirty = batch | self._dirty
            raise

    def _key(self, node: str) -> str:
        return f"{self._prefix}node:{node}"

    def _degrade(self, error: Exception) -> None:
        self._metrics.status_failures.inc()
        if not self._is_degraded:
            self._is_degraded = True
            self._metrics.status_degraded.set(1)
            structlog.get_logger("status_store").error(
                "node status cannot be shared; endpoint changes are not affected", error=str(error)
            )

    def _recover(self) -> None:
        if self._is_degraded:
            self._is_degraded = False
            self._metrics.status_degraded.set(0)
            structlog.get_logger("status_store").info("node status is shared again")


class _StoredFailure(msgspec.Struct, frozen=True):
    namespace: str
    name: str
    stage: int
    message: str


def _to_hash(status: NodeStatus) -> dict[Any, Any]:
    failures = [_StoredFailure(f.service.namespace, f.service.name, int(f.stage), f.message) for f in status.failures]
    return {
        "state": int(status.state),
        "planner": status.planner_id,
        "mode": status.mode,
        "instance": status.instance_id,
        "sent_epoch": status.sent.epoch,
        "sent_revision": status.sent.revision,
        "programmed_epoch": status.programmed.epoch,
        "programmed_revision": status.programmed.revision,
        "desired_digest": status.desired_digest,
        "programmed_digest": status.programmed_digest,
        "pending": status.pending_services,
        "last_seen_ns": status.last_seen_ns,
        "failures": msgspec.json.encode(failures),
        "drift": msgspec.json.encode(status.drift),
        "conditions": msgspec.json.encode(status.conditions),
    }


def _from_hash(name: str, fields: Mapping[bytes, bytes]) -> NodeStatus | None:
    try:
        text = {key.decode(): value.decode() for key, value in fields.items()}
        stored = msgspec.json.decode(text["failures"], type=list[_StoredFailure])
        return NodeStatus(
            name=name,
            state=NodeState(int(text["state"])),
            planner_id=text["planner"],
            mode=int(text["mode"]),
            instance_id=text["instance"],
            sent=ClusterPosition(epoch=text["sent_epoch"], revision=int(text["sent_revision"])),
            programmed=ClusterPosition(epoch=text["programmed_epoch"], revision=int(text["programmed_revision"])),
            desired_digest=int(text["desired_digest"]),
            programmed_digest=int(text["programmed_digest"]),
            pending_services=int(text["pending"]),
            failures=tuple(
                Failure(service=ServiceKey(f.namespace, f.name), stage=FailureStage(f.stage), message=f.message)
                for f in stored
            ),
            last_seen_ns=int(text["last_seen_ns"]),
            drift=_drift(text.get("drift", "null")),
            conditions=_conditions(text.get("conditions", "{}")),
        )
    except (KeyError, ValueError, msgspec.MsgspecError):
        return None


def _drift(text: str) -> Drift | None:
    """A report in JSON; ValueError when a number does not fit the message it will be shown in."""
    drift = msgspec.json.decode(text, type=Drift | None)
    if drift is not None:
        numbers = (drift.repairs, drift.repaired_at_ns, drift.duration_ns, drift.objects)
        if not all(0 <= number < 1 << 63 for number in numbers) or not 0 <= drift.process_id < 1 << 32:
            raise ValueError("a number is out of range")
    return drift


def _conditions(text: str) -> Conditions:
    """Conditions in JSON; ValueError as `_drift`."""
    found = msgspec.json.decode(text, type=Conditions)
    is_fitting = all(0 <= each.since_ns < 1 << 63 and 0 < each.kind < 1 << 31 for each in found.conditions)
    if not is_fitting or not 0 <= found.total < 1 << 32:
        raise ValueError("a number is out of range")
    return found
