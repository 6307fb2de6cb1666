# SPDX-License-Identifier: Apache-2.0
"""StreamNodePlan on gRPC: who is let in, what becomes of what enforcers say, and time.

All decisions are the core's. `plan_stream` moves the bytes of a stream, `handover` says whether its node belongs here,
`entrance` when it gets its first transaction. One timer for all streams asks for heartbeats and ends silent streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import structlog

from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import PeerError, PointsmanError, StaleVersionError, UnavailableError, grpc_status
from pointsman_chassis.server import raw_stream_stream
from pointsman_chassis.tracing import SpanGroup, Tracing, trace_fields
from pointsman_model.cluster import Change
from pointsman_model.names import ServiceKey
from pointsman_model.remembered import RememberedClient
from pointsman_model.wire import WireError
from pointsman_planner.api.change_spans import ChangeSpans, under
from pointsman_planner.api.condition_report import ConditionReport
from pointsman_planner.api.entrance import Entrance
from pointsman_planner.api.handover import Handover
from pointsman_planner.api.node_identity import identities, may_stream
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.api.plan_stream import Context, PlanStream
from pointsman_planner.core import framing
from pointsman_planner.core.messages import AffinityReport, Condition, Conditions, Hello, Nack, Resync
from pointsman_planner.core.node_session import NodeSession
from pointsman_planner.core.override import OverrideChange
from pointsman_planner.core.ownership import Member, Verdict
from pointsman_planner.core.planner import Applied, Batch, Planner
from pointsman_planner.core.standing import Patience, Standings, connected_status, disconnected_status
from pointsman_planner.core.status import NodeState, NodeStatus
from pointsman_planner.metrics import PlannerMetrics

SERVICE = "pointsman.plan.v1.PlanService"
_HELLO_TIMEOUT_SECONDS = 10.0
_SILENT_INTERVALS_MAX = 3
_TURNED_AWAY_SECONDS = 5.0
"""Time for an enforcer that is not served to hang up, unless its heartbeats are quicker."""


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
        handover: Handover,
        entrance: Entrance,
        checks_identity: bool = False,
    ) -> None:
        self._planner = planner
        self._interval = heartbeat_interval_seconds
        self._turned_away_seconds = min(_TURNED_AWAY_SECONDS, 2 * heartbeat_interval_seconds)
        self._metrics = metrics
        self._conditions = ConditionReport(metrics)
        self.spans = ChangeSpans(tracing=tracing, clock=clock)
        self._clock = clock
        self._report = report
        self._checks_identity = checks_identity
        self._handover = handover
        self._entrance = entrance
        self._told_changes = handover.changes
        self._streams: dict[str, PlanStream] = {}
        self.standings = Standings()
        """The states of the nodes served here, as they were when each was looked at last."""
        self.planner_id = planner_id
        self.patience = Patience(heartbeat_seconds=heartbeat_interval_seconds)
        self.on_status: Callable[[NodeStatus], None] | None = None
        """Told of every status that is reported; for whoever watches."""
        self.on_affinity: Callable[[Collection[RememberedClient]], None] | None = None
        """Told of clients that a node remembers and other nodes would send elsewhere."""
        self.on_trouble: Callable[[str, Sequence[Condition]], None] = lambda _node, _begun: None
        """Told of the conditions that begin on a node."""
        self.on_services: Callable[[Iterable[ServiceKey]], None] | None = None
        """Told of the services of which any fact changed, once their streams are awake."""

    def methods(self) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]]:
        """For `GrpcServer.add_raw_service`."""
        return {"StreamNodePlan": raw_stream_stream(self.stream_node_plan, request_deserializer=None)}

    @property
    def streams(self) -> Mapping[str, PlanStream]:
        """Open streams by node. Not to be changed by the caller."""
        return self._streams

    def status(self, session: NodeSession) -> NodeStatus:
        """How far a connected node has come."""
        now_ns = self._clock.wall_ns()
        status = connected_status(
            session, self._planner, planner_id=self.planner_id, now_ns=now_ns, patience=self.patience
        )
        return replace(status, since_ns=self.standings.since_ns(session.node, status.state, now_ns))

    def _tell(self, status: NodeStatus) -> None:
        self._report(status)
        if self.on_status is not None:
            self.on_status(status)

    def apply(self, batch: Batch) -> Applied:
        """Take in a batch of the cluster and wake the streams it concerns."""
        spans = self._computing(batch.changes)
        changes = under(batch.changes, spans)
        if self._planner.is_in_sync:
            oldest_ns = min((change.observed_at_ns for change in changes if change.observed_at_ns), default=0)
            if oldest_ns:
                self._metrics.feed_lag.observe(max(self._clock.wall_ns() - oldest_ns, 0) / 1e9, spans.exemplar)
        taken = batch if changes is batch.changes else replace(batch, changes=changes)
        return self._taken(lambda: self._planner.apply(taken), spans)

    def override(self, changes: Sequence[OverrideChange]) -> Applied:
        """Take in overrides and wake the streams they concern."""
        spans = self._computing(changes)
        changes = under(changes, spans)
        return self._taken(lambda: self._planner.override(changes), spans)

    def _computing(self, changes: Sequence[Change] | Sequence[OverrideChange]) -> SpanGroup:
        traces = (change.traceparent for change in changes)
        return self.spans.computing(traces, start_ns=self._clock.wall_ns())

    def _taken(self, take: Callable[[], Applied], spans: SpanGroup) -> Applied:
        was_in_sync = self._planner.is_in_sync
        started_ns = self._clock.wall_ns()
        applied = take()
        ended_ns = self._clock.wall_ns()
        for session in applied.marked:
            self.standings.fell_behind(session.node, ended_ns)
            stream = self._streams.get(session.node)
            if stream is not None:
                stream.wake()
        if not was_in_sync and self._planner.is_in_sync:
            for stream in self._streams.values():
                self._let_in(stream)
        if self.on_services is not None:
            self.on_services(applied.touched_services)
        if was_in_sync:
            self._metrics.compute.observe((ended_ns - started_ns) / 1e9, spans.exemplar)
            self._metrics.fan_out.observe(len(applied.marked))
        if spans.spans:
            spans.set("pointsman.services", applied.services)
            spans.set("pointsman.nodes", len(applied.marked))
            spans.end(ended_ns)
        return applied

    async def stream_node_plan(self, _requests: Any, context: Context) -> None:
        """One stream, from hello to its end."""
        try:
            hello = await self._hello(context)
        except PointsmanError as error:
            self._metrics.rejected.labels("hello").inc()
            await context.abort(grpc_status(error), str(error))
            return
        if self._checks_identity and not may_stream(identities(context), hello.node_name):
            self._metrics.rejected.labels("identity").inc()
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"neither certificate nor token is that of node {hello.node_name}"
            )
            return
        verdict = self._handover.judge(hello.node_name, hello.unreachable_planners)
        if verdict is not Verdict.SERVE:
            await self._turn_away(context, hello, verdict)
            return
        stream = self._open(hello, context)
        try:
            await stream.carry(self._welcome(stream.candidates), lambda data: self._receive(stream, data))
        finally:
            self._close(stream)
        if stream.failure is not None:
            await context.abort(grpc_status(stream.failure), str(stream.failure))

    async def _turn_away(self, context: Context, hello: Hello, verdict: Verdict) -> None:
        """Say where to go, and wait a while for the enforcer to hang up."""
        structlog.get_logger("plan_service").info("enforcer sent on", node=hello.node_name, reason=verdict.value)
        await context.write(self._welcome(self._handover.candidates(hello.node_name)))
        await context.write(self._handover.redirect(hello.node_name, verdict, grace_seconds=self._turned_away_seconds))
        try:
            async with asyncio.timeout(self._turned_away_seconds):
                while await context.read() is not grpc.aio.EOF:
                    pass
        except TimeoutError:
            return

    def _welcome(self, candidates: Sequence[Member]) -> bytes:
        return framing.welcome(self.planner_id, self._interval, framing.CAPABILITIES, candidates)

    async def _hello(self, context: Context) -> Hello:
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

    def _open(self, hello: Hello, context: Context) -> PlanStream:
        older = self._streams.get(hello.node_name)
        if older is not None:
            self._metrics.rejected.labels("superseded").inc()
            older.fail(StaleVersionError(f"a newer stream of node {hello.node_name} took over"))
        session = self._planner.open(hello, now_ns=self._clock.wall_ns())
        session.hold()
        stream = self._streams[hello.node_name] = PlanStream(
            session, context, clock=self._clock, metrics=self._metrics, spans=self.spans
        )
        stream.candidates = self._handover.candidates(hello.node_name)
        self._metrics.streams.set(len(self._streams))
        self._tell(self.status(session))
        structlog.get_logger("plan_service").info(
            "enforcer connected", node=hello.node_name, instance=hello.instance_id, version=hello.version
        )
        if self._planner.is_in_sync:
            self._let_in(stream)
        return stream

    def _let_in(self, stream: PlanStream) -> None:
        """Its first transaction, now or when it is its turn; or another time."""
        if not self._entrance.ask(stream):
            message = self._handover.overloaded(stream.session.node, waiting=self._entrance.waiting)
            stream.send(message)
            stream.ends_at = self._clock.monotonic() + self._turned_away_seconds

    def _close(self, stream: PlanStream) -> None:
        node = stream.session.node
        self._entrance.done(stream)
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
        self.standings.forget(node)
        self._tell(disconnected_status(status, reason, now_ns=self._clock.wall_ns()))
        structlog.get_logger("plan_service").info("enforcer disconnected", node=node, reason=reason)

    def _receive(self, stream: PlanStream, data: bytes) -> None:
        session, now_ns = stream.session, self._clock.wall_ns()
        message = decode_message(data)
        if isinstance(message, AffinityReport):
            session.last_heard_ns = now_ns
            if self.on_affinity is not None:
                self.on_affinity(message.clients)
            return
        mismatches, conditions = session.mismatches, session.conditions
        acknowledged = session.receive(message, now_ns=now_ns)
        if session.mismatches != mismatches:
            self._metrics.mismatches.inc(session.mismatches - mismatches)
        if acknowledged is not None:
            stream.is_served = True
            self._entrance.done(stream)
            example = self.spans.acknowledged(session.node, acknowledged, now_ns=now_ns)
            self._metrics.acknowledged.observe(max(now_ns - acknowledged.built_ns, 0) / 1e9, example)
        elif isinstance(message, Nack):
            self._metrics.nacks.inc(len(message.failures))
            self._log_nack(session, message)
        elif isinstance(message, Conditions):
            self.on_trouble(session.node, self._conditions.told(session.node, conditions, message))
        elif isinstance(message, Resync):
            self._metrics.resyncs.inc()
            structlog.get_logger("plan_service").warning("node asked for a resync", node=session.node)
        if session.has_work:
            stream.wake()
        self._tell(self.status(session))

    def _log_nack(self, session: NodeSession, nack: Nack) -> None:
        traces = next((each.traceparents for each in session.flights if each.nonce == nack.nonce), ())
        for failure in nack.failures[:10]:
            structlog.get_logger("plan_service").warning(
                "node refused a service",
                **(trace_fields(traces[-1]) if traces else {}),
                node=session.node,
                service=str(failure.service),
                stage=failure.stage.name,
                error=failure.message,
                refused=len(nack.failures),
            )

    def _tell_candidates(self) -> None:
        """After a change of membership: a node that stays must know whom to dial when its planner dies."""
        if self._handover.changes != self._told_changes:
            self._told_changes = self._handover.changes
            for node, stream in self._streams.items():
                stream.tell_candidates(self._handover.candidates(node))

    async def keep_time(self) -> None:
        """Ask for heartbeats and end silent streams, for ever."""
        while True:
            await self._clock.sleep(self._interval / 4)
            now = self._clock.monotonic()
            self._entrance.keep_time()
            self._tell_candidates()
            for stream in list(self._streams.values()):
                if stream.ends_at is not None and now >= stream.ends_at:
                    stream.finish()
                elif now - stream.heard_at > _SILENT_INTERVALS_MAX * self._interval:
                    self._metrics.rejected.labels("silence").inc()
                    stream.fail(UnavailableError(f"node {stream.session.node} was silent for three intervals"))
                elif now - stream.sent_at >= 0.75 * self._interval:
                    stream.ask_heartbeat()
                self._look_at(stream.session)

    def _look_at(self, session: NodeSession) -> None:
        """Time alone makes a node late or silent: then it is reported though it said nothing."""
        if not session.in_flight and self._clock.wall_ns() - session.last_heard_ns < self.patience.silence_ns:
            return
        before = self.standings.state(session.node)
        status = self.status(session)
        if status.state is not before or status.state is NodeState.UNRESPONSIVE:
            self._tell(status)
