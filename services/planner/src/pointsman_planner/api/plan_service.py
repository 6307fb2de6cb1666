# SPDX-License-Identifier: Apache-2.0
"""StreamNodePlan on gRPC: reads bytes into the session, writes the bytes it gives, keeps time.

All decisions are the core's. Each stream is two tasks. The handler writes: it waits to be woken, then writes whatever
the session wants to send, one part at a time, so flow control of a slow node holds up only that node, and its changes
pile up as a set of keys. A reader feeds the session. One timer for all streams asks for heartbeats and ends silent
streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
import structlog

from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import PeerError, PointsmanError, StaleVersionError, UnavailableError, grpc_status
from pointsman_chassis.server import raw_stream_stream
from pointsman_chassis.tracing import AttributeValue, Tracing
from pointsman_model.wire import WireError
from pointsman_planner.api.condition_report import ConditionReport
from pointsman_planner.api.node_identity import identities, may_stream
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core import framing
from pointsman_planner.core.messages import Conditions, Hello, Nack, ProtocolViolationError, Resync
from pointsman_planner.core.node_session import NodeSession
from pointsman_planner.core.override import OverrideChange
from pointsman_planner.core.planner import Applied, Batch, Planner
from pointsman_planner.core.standing import Patience, connected_status, disconnected_status
from pointsman_planner.core.status import NodeStatus
from pointsman_planner.metrics import PlannerMetrics

SERVICE = "pointsman.plan.v1.PlanService"
_HELLO_TIMEOUT_SECONDS = 10.0
_SILENT_INTERVALS_MAX = 3

_Context = Any
"""grpc.aio's servicer context; its class is not public."""


class _Stream:
    """One open stream: its session, the wish to write, and why it must end."""

    __slots__ = ("failure", "handler", "heard_at", "is_heartbeat_due", "is_over", "sent_at", "session", "wake")

    def __init__(self, session: NodeSession, now: float) -> None:
        self.session = session
        self.wake = asyncio.Event()
        self.is_heartbeat_due = False
        self.is_over = False
        """The enforcer closed its side."""
        self.failure: PointsmanError | None = None
        self.handler = asyncio.current_task()
        self.heard_at = self.sent_at = now

    def fail(self, error: PointsmanError) -> None:
        """End the stream with this error, also when a write is stuck."""
        if self.failure is None:
            self.failure = error
            if self.handler is not None:
                self.handler.cancel()


class PlanService:
    """Serves StreamNodePlan for one planner."""

    def __init__(
        self,
        *,
        planner: Planner,
        planner_id: str,
        heartbeat_interval_seconds: float,
        metrics: PlannerMetrics,
        tracing: Tracing,
        clock: Clock,
        report: Callable[[NodeStatus], None],
        checks_identity: bool = False,
    ) -> None:
        self._planner = planner
        self._planner_id = planner_id
        self._welcome = framing.welcome(planner_id, heartbeat_interval_seconds, framing.CAPABILITIES)
        self._interval = heartbeat_interval_seconds
        self._metrics = metrics
        self._conditions = ConditionReport(metrics)
        self._tracing = tracing
        self._clock = clock
        self._report = report
        self._checks_identity = checks_identity
        self._streams: dict[str, _Stream] = {}

    def methods(self) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]]:
        """For `GrpcServer.add_raw_service`."""
        return {"StreamNodePlan": raw_stream_stream(self.stream_node_plan, request_deserializer=None)}

    def status(self, session: NodeSession) -> NodeStatus:
        """How far a connected node has come."""
        return connected_status(
            session,
            self._planner,
            planner_id=self._planner_id,
            now_ns=self._clock.wall_ns(),
            patience=Patience(heartbeat_seconds=self._interval),
        )

    def apply(self, batch: Batch) -> Applied:
        """Take in a batch of the cluster and wake the streams it concerns."""
        return self._taken(lambda: self._planner.apply(batch))

    def override(self, changes: Sequence[OverrideChange]) -> Applied:
        """Take in overrides and wake the streams they concern."""
        return self._taken(lambda: self._planner.override(changes))

    def _taken(self, take: Callable[[], Applied]) -> Applied:
        was_in_sync = self._planner.is_in_sync
        started_ns = self._clock.wall_ns()
        applied = take()
        ended_ns = self._clock.wall_ns()
        for session in applied.marked:
            stream = self._streams.get(session.node)
            if stream is not None:
                stream.wake.set()
        if was_in_sync:
            self._metrics.compute.observe((ended_ns - started_ns) / 1e9)
        for traceparent in applied.traceparents:
            attributes = {"pointsman.services": applied.services, "pointsman.nodes": len(applied.marked)}
            self._tracing.span("plan.compute", parent=traceparent, start_ns=started_ns, attributes=attributes).end(
                ended_ns
            )
        return applied

    async def stream_node_plan(self, _requests: Any, context: _Context) -> None:
        """One stream, from hello to its end."""
        try:
            hello = await self._hello(context)
        except PointsmanError as error:
            self._metrics.rejected.labels("hello").inc()
            await context.abort(grpc_status(error), str(error))
            return
        if self._checks_identity and not may_stream(identities(context.auth_context()), hello.node_name):
            self._metrics.rejected.labels("identity").inc()
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"the certificate does not name node {hello.node_name}"
            )
            return
        stream = self._open(hello)
        reader = asyncio.create_task(self._read(stream, context), name=f"reader {hello.node_name}")
        try:
            await self._write(stream, context)
        except asyncio.CancelledError:
            if stream.failure is None:
                raise
            if stream.handler is not None:
                stream.handler.uncancel()
        finally:
            reader.cancel()
            self._close(stream)
        if stream.failure is not None:
            await context.abort(grpc_status(stream.failure), str(stream.failure))

    async def _hello(self, context: _Context) -> Hello:
        try:
            async with asyncio.timeout(_HELLO_TIMEOUT_SECONDS):
                data = await context.read()
            if data is grpc.aio.EOF:
                raise PeerError("the stream ended before hello")
            message = decode_message(data)
        except TimeoutError as error:
            raise PeerError(f"no hello within {_HELLO_TIMEOUT_SECONDS:.0f} s") from error
        except WireError as error:
            raise PeerError(f"first message: {error}") from error
        if not isinstance(message, Hello):
            raise PeerError(f"the first message must be hello, got {type(message).__name__.lower()}")
        return message

    def _open(self, hello: Hello) -> _Stream:
        older = self._streams.get(hello.node_name)
        if older is not None:
            self._metrics.rejected.labels("superseded").inc()
            older.fail(StaleVersionError(f"a newer stream of node {hello.node_name} took over"))
        session = self._planner.open(hello, now_ns=self._clock.wall_ns())
        stream = self._streams[hello.node_name] = _Stream(session, self._clock.monotonic())
        stream.wake.set()
        self._metrics.streams.set(len(self._streams))
        self._report(self.status(session))
        structlog.get_logger("plan_service").info(
            "enforcer connected", node=hello.node_name, instance=hello.instance_id, version=hello.version
        )
        return stream

    def _close(self, stream: _Stream) -> None:
        node = stream.session.node
        self._conditions.gone(stream.session.conditions)
        if self._streams.get(node) is stream:
            del self._streams[node]
        else:
            self._planner.close(stream.session)
            return
        status = self.status(stream.session)
        self._planner.close(stream.session)
        self._metrics.streams.set(len(self._streams))
        reason = str(stream.failure) if stream.failure is not None else "closed by the enforcer"
        self._report(disconnected_status(status, reason))
        structlog.get_logger("plan_service").info("enforcer disconnected", node=node, reason=reason)

    async def _write(self, stream: _Stream, context: _Context) -> None:
        await context.write(self._welcome)
        session = stream.session
        while not stream.is_over:
            await stream.wake.wait()
            stream.wake.clear()
            while session.has_work:
                await self._write_transaction(stream, context)
            if stream.is_heartbeat_due:
                stream.is_heartbeat_due = False
                await context.write(session.heartbeat(now_ns=self._clock.wall_ns()))
                stream.sent_at = self._clock.monotonic()

    async def _write_transaction(self, stream: _Stream, context: _Context) -> None:
        session = stream.session
        started_ns = self._clock.wall_ns()
        frame = session.next_transaction(now_ns=started_ns)
        if frame is None:
            return
        traceparents = session.traces_in_flight
        size = 0
        for part in frame.parts():
            size += len(part)
            await context.write(part)
        self._metrics.transactions.inc()
        self._metrics.bytes_sent.inc(size)
        stream.sent_at = self._clock.monotonic()
        ended_ns = self._clock.wall_ns()
        for traceparent in traceparents:
            attributes: dict[str, AttributeValue] = {
                "k8s.node.name": session.node,
                "pointsman.nonce": frame.nonce,
                "pointsman.bytes": size,
            }
            self._tracing.span("plan.send", parent=traceparent, start_ns=started_ns, attributes=attributes).end(
                ended_ns
            )

    async def _read(self, stream: _Stream, context: _Context) -> None:
        try:
            while True:
                data = await context.read()
                if data is grpc.aio.EOF:
                    stream.is_over = True
                    stream.wake.set()
                    return
                self._receive(stream, data)
        except (WireError, ProtocolViolationError) as error:
            self._metrics.rejected.labels("protocol").inc()
            stream.fail(PeerError(f"node {stream.session.node}: {error}"))
        except grpc.aio.BaseError as error:
            stream.fail(UnavailableError(f"node {stream.session.node}: the stream broke: {error}"))

    def _receive(self, stream: _Stream, data: bytes) -> None:
        session, now_ns = stream.session, self._clock.wall_ns()
        stream.heard_at = self._clock.monotonic()
        message = decode_message(data)
        mismatches, conditions = session.mismatches, session.conditions
        acknowledged = session.receive(message, now_ns=now_ns)
        if session.mismatches != mismatches:
            self._metrics.mismatches.inc(session.mismatches - mismatches)
        if acknowledged is not None:
            self._metrics.acknowledged.observe(max(now_ns - acknowledged.built_ns, 0) / 1e9)
            for traceparent in acknowledged.traceparents:
                self._tracing.span(
                    "ack",
                    parent=traceparent,
                    start_ns=acknowledged.built_ns,
                    attributes={"k8s.node.name": session.node},
                ).end(now_ns)
        elif isinstance(message, Nack):
            self._metrics.nacks.inc(len(message.failures))
            self._log_nack(session.node, message)
        elif isinstance(message, Conditions):
            self._conditions.told(session.node, conditions, message)
        elif isinstance(message, Resync):
            self._metrics.resyncs.inc()
            structlog.get_logger("plan_service").warning("node asked for a resync", node=session.node)
        if session.has_work:
            stream.wake.set()
        self._report(self.status(session))

    def _log_nack(self, node: str, nack: Nack) -> None:
        for failure in nack.failures[:10]:
            structlog.get_logger("plan_service").warning(
                "node refused a service",
                node=node,
                service=str(failure.service),
                stage=failure.stage.name,
                error=failure.message,
                refused=len(nack.failures),
            )

    async def keep_time(self) -> None:
        """Ask for heartbeats and end silent streams, for ever."""
        while True:
            await self._clock.sleep(self._interval / 4)
            now = self._clock.monotonic()
            for stream in list(self._streams.values()):
                if now - stream.heard_at > _SILENT_INTERVALS_MAX * self._interval:
                    self._metrics.rejected.labels("silence").inc()
                    stream.fail(UnavailableError(f"node {stream.session.node} was silent for three intervals"))
                elif now - stream.sent_at >= 0.75 * self._interval:
                    stream.is_heartbeat_due = True
                    stream.wake.set()
