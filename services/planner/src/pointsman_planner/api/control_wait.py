# SPDX-License-Identifier: Apache-2.0
"""WaitConverged: reads the request, feeds `core/convergence.py` with statuses until it decides or the time is over."""

from __future__ import annotations

import asyncio
from typing import Final

from google.protobuf.duration_pb2 import Duration

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import NotInSyncError, PeerError, SlowConsumerError, UnavailableError
from pointsman_model.cluster import ClusterPosition, ResourceVersions
from pointsman_model.names import ServiceKey
from pointsman_model.wire.positions import position_from_pb, position_to_pb, resource_versions_from_pb
from pointsman_planner.api.node_board import NodeBoard, node_key
from pointsman_planner.api.watch_scopes import NodeSelection
from pointsman_planner.core.convergence import Convergence, Decision, Laggard, Quorum, Target
from pointsman_planner.core.label_selector import parse_label_selector
from pointsman_planner.core.messages import AckLevel
from pointsman_planner.core.planner import Planner
from pointsman_planner.metrics import ControlMetrics

WAITS_MAX: Final = 256
NAMES_MAX: Final = 5000
TIMEOUT_SECONDS_DEFAULT: Final = 30.0
TIMEOUT_SECONDS_MAX: Final = 600.0
LAGGARDS_MAX: Final = 1000
_LOOK_SECONDS: Final = 0.5
"""How often nodes of other planners are asked for: nobody tells when they have come further."""
_PAUSE_SECONDS: Final = 0.01
"""Between two evaluations: acks of a thousand nodes are one look at each, not a thousand looks at all."""


class Waits:
    """Serves WaitConverged for one planner."""

    def __init__(self, *, planner: Planner, board: NodeBoard, clock: Clock, metrics: ControlMetrics) -> None:
        self._planner = planner
        self._board = board
        self._clock = clock
        self._metrics = metrics
        self._count = 0
        self._is_closed = False

    def close(self) -> None:
        """This planner is going away: whoever waits asks another one."""
        self._is_closed = True

    async def wait(self, request: pb.WaitConvergedRequest) -> pb.WaitConvergedResponse:
        """The answer, once it is known or the time is over.

        Raises:
            PeerError: the request cannot be.
            NotInSyncError: its position is one that this planner cannot compare with.
            SlowConsumerError: too many calls wait.
            UnavailableError: this planner is going away.
        """
        target, timeout = self._target(request), _timeout_seconds(request)
        selection = selection_of(request.nodes, self._planner)
        chosen = sorted(filter(selection.selects, selection.names or self._planner.cluster.nodes))
        if not chosen:
            raise PeerError("nodes: no node is selected; what would be waited for?")
        convergence = Convergence(target, _quorum(request), chosen)
        if self._count >= WAITS_MAX:
            self._metrics.refused.labels("too_many").inc()
            raise SlowConsumerError(f"{WAITS_MAX} calls wait here, as many as may; ask another planner")
        self._count += 1
        self._metrics.waits.set(self._count)
        try:
            await self._until_decided(convergence, self._clock.monotonic() + timeout, frozenset(request.nodes.names))
        finally:
            self._count -= 1
            self._metrics.waits.set(self._count)
        return _response(convergence.decision(), self._planner.position)

    async def _until_decided(self, convergence: Convergence, deadline: float, named: frozenset[str]) -> None:
        wake = asyncio.Event()
        reader = self._board.node_log.open(self._board.node_log.token, (), wake.set)
        try:
            ask = convergence.waiting
            next_look = 0.0
            while True:
                wake.clear()
                reader.take()
                if self._clock.monotonic() >= next_look:
                    ask, next_look = convergence.waiting, self._clock.monotonic() + _LOOK_SECONDS
                await self._look(convergence, ask, named)
                left = deadline - self._clock.monotonic()
                if convergence.is_decided or left <= 0:
                    return
                if self._is_closed:
                    raise UnavailableError("this planner is going away; ask another one")
                await asyncio.sleep(min(_PAUSE_SECONDS, left))
                await _wait(wake, min(left, max(next_look - self._clock.monotonic(), 0.0)))
                dirty = set(reader.take().keys)
                ask = tuple(name for name in convergence.waiting if node_key(name) in dirty)
        finally:
            reader.close()

    async def _look(self, convergence: Convergence, names: tuple[str, ...], named: frozenset[str]) -> None:
        """Judge some nodes, all by the planner's state of one moment."""
        records = await self._board.records(names)
        convergence.planner_at(self._planner.position)
        for name in names:
            if self._board.is_there(name) or name in records:
                convergence.take(self._board.status(name, records))
            elif name not in named:
                convergence.drop(name)

    def _target(self, request: pb.WaitConvergedRequest) -> Target:
        kind = request.WhichOneof("target")
        position, service = self._planner.position, None
        is_of_api_server = False
        if kind == "service":
            service = ServiceKey(request.service.name.namespace, request.service.name.name)
            if not (service.namespace and service.name):
                raise PeerError("service.name: namespace and name are both needed")
            wanted = ResourceVersions(
                services=request.service.service_resource_version,
                endpoint_slices=request.service.endpoint_slice_resource_version,
            )
            if any(wanted):
                position, is_of_api_server = ClusterPosition(resource_versions=wanted), True
        elif kind == "resource_versions":
            wanted = resource_versions_from_pb(request.resource_versions)
            if not any(wanted):
                raise PeerError("resource_versions: all are 0; name at least one")
            position, is_of_api_server = ClusterPosition(resource_versions=wanted), True
        elif kind == "position":
            position = position_from_pb(request.position)
            if position.epoch != self._planner.position.epoch and not any(position.resource_versions):
                raise NotInSyncError(
                    f"position: epoch {position.epoch[:64]!r} is not the one that this planner follows, and without "
                    "resource versions the two cannot be compared; ask the planner that named it"
                )
        elif kind is None:
            raise PeerError("target: set exactly one of service, resource_versions, position, now")
        return Target(position=position, service=service, level=_level(request), is_of_api_server=is_of_api_server)


def selection_of(message: pb.NodeSelector, planner: Planner) -> NodeSelection:
    """The selection that a selector means.

    Raises:
        PeerError: it names too many nodes, or its label selector cannot be read.
    """
    if len(message.names) > NAMES_MAX:
        raise PeerError(f"nodes.names: {len(message.names)} names, at most {NAMES_MAX}")
    try:
        selector = parse_label_selector(message.label_selector)
    except ValueError as error:
        raise PeerError(f"nodes.{error}") from error
    return NodeSelection(planner=planner, names=message.names, selector=selector)


async def _wait(wake: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        return


def _level(request: pb.WaitConvergedRequest) -> AckLevel:
    try:
        return AckLevel(request.level or AckLevel.PROGRAMMED)
    except ValueError as error:
        raise PeerError(f"level: {request.level} is not known") from error


def _quorum(request: pb.WaitConvergedRequest) -> Quorum:
    kind = request.WhichOneof("quorum")
    if kind == "count" and request.count < 1:
        raise PeerError("count: 0 nodes are no quorum; leave it out to wait for all")
    if kind == "percent" and not 1 <= request.percent <= 100:
        raise PeerError(f"percent: {request.percent} is not within 1 and 100")
    return Quorum(count=request.count, percent=request.percent)


def _timeout_seconds(request: pb.WaitConvergedRequest) -> float:
    if not request.HasField("timeout"):
        return TIMEOUT_SECONDS_DEFAULT
    seconds = _seconds(request.timeout)
    if not 0 <= seconds <= TIMEOUT_SECONDS_MAX:
        raise PeerError(f"timeout: {seconds:g} s is not within 0 and {TIMEOUT_SECONDS_MAX:g} s")
    return seconds


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _response(decision: Decision, position: ClusterPosition) -> pb.WaitConvergedResponse:
    return pb.WaitConvergedResponse(
        converged=decision.is_converged,
        nodes=decision.nodes,
        reached=decision.reached,
        needed=decision.needed,
        laggards=map(_laggard_to_pb, decision.laggards[:LAGGARDS_MAX]),
        position=position_to_pb(position),
    )


def _laggard_to_pb(laggard: Laggard) -> pb.Laggard:
    message = pb.Laggard(
        name=laggard.name,
        state=pb.NodeStatus.State.ValueType(laggard.state),
        reason=laggard.reason,
        programmed=position_to_pb(laggard.programmed),
    )
    if laggard.since_ns:
        message.since.FromNanoseconds(laggard.since_ns)
    return message
