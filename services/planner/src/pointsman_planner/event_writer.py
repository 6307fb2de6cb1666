# SPDX-License-Identifier: Apache-2.0
"""Writes Events on Services to the API server, beside everything else: nothing waits for it.

`core/service_events.py` decides what and when. Requests go through one thread of their own, since the client blocks and
threads that review tokens must not wait for it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import quote

import msgspec
import structlog

from pointsman_chassis.api_access import ApiAccess, ApiAccessError
from pointsman_chassis.clock import Clock
from pointsman_chassis.metrics import Registry
from pointsman_model.names import ServiceKey
from pointsman_planner.core.messages import Condition
from pointsman_planner.core.service_events import Answer, Fate, ServiceEvent, ServiceEvents

CONTROLLER: Final = "pointsman.io/planner"
_INSTANCE_CHARACTERS_MAX: Final = 128
_ANSWER_SECONDS: Final = 10.0
"""For one Event, however slowly the bytes come."""
_CONFLICT: Final = 409
_TRANSIENT: Final = frozenset({0, 401, 429})
"""Nobody answered, the token is being rotated, or it is too much at once; so are errors from 500 on."""


class _Metadata(msgspec.Struct):
    uid: str = ""


class _Service(msgspec.Struct):
    metadata: _Metadata


class EventMetrics:
    """The figures of Events."""

    def __init__(self, registry: Registry) -> None:
        self.events = registry.counter(
            "pointsman_planner_events_total",
            "Events on Services by what became of them: written, repeated (the same shortly before), crowded (enough "
            "of this Service), overflowed, unknown, refused, away (the API server).",
            ["outcome"],
        )
        self.queued = registry.gauge("pointsman_planner_events_queued", "Events that wait to be written.")


class EventWriter:
    """Events of one planner."""

    def __init__(
        self,
        *,
        open_access: Callable[[], ApiAccess],
        planner_id: str,
        knows: Callable[[ServiceKey], bool],
        metrics: EventMetrics,
        clock: Clock,
    ) -> None:
        """`knows` says whether there is such a Service: a node's word alone makes no request."""
        self._open_access = open_access
        self._instance = planner_id[:_INSTANCE_CHARACTERS_MAX]
        self._knows = knows
        self._metrics = metrics
        self._clock = clock
        self._events = ServiceEvents()
        self._wake = asyncio.Event()

    def begun(self, node: str, conditions: Iterable[Condition]) -> None:
        """Conditions begin on a node. Returns at once."""
        now, now_ns = self._clock.monotonic(), self._clock.wall_ns()
        for each in conditions:
            is_known = self._knows(each.service)
            fate = self._events.begun(node, each, now=now, now_ns=now_ns) if is_known else Fate.UNKNOWN
            if fate is not Fate.QUEUED:
                self._metrics.events.labels(fate.value).inc()
        self._metrics.queued.set(len(self._events))
        self._wake.set()

    async def run(self) -> None:
        """Write, for ever."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="events")
        try:
            while True:
                wait = self._events.wait_seconds(self._clock.monotonic())
                if wait == math.inf:
                    self._wake.clear()
                    await self._wake.wait()
                elif wait > 0:
                    await self._clock.sleep(wait)
                else:
                    await self._write_head(thread)
        finally:
            thread.shutdown(wait=False, cancel_futures=True)

    async def _write_head(self, thread: ThreadPoolExecutor) -> None:
        event = self._events.head
        answer, error = await self._ask(thread, event)
        if not self._events.answered(answer, now=self._clock.monotonic()):
            return
        self._metrics.events.labels(answer.value).inc()
        self._metrics.queued.set(len(self._events))
        if answer is not Answer.WRITTEN:
            structlog.get_logger("events").warning(
                "an Event was not written", service=str(event.service), node=event.node, note=event.note, error=error
            )

    async def _ask(self, thread: ThreadPoolExecutor, event: ServiceEvent) -> tuple[Answer, str]:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await asyncio.get_running_loop().run_in_executor(thread, self._post, event)
        except TimeoutError:
            return Answer.AWAY, f"no answer within {_ANSWER_SECONDS:g} s"
        except ApiAccessError as error:
            return _answer(error.status), f"{error}; see deploy/components/events for the rights that are needed"
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return Answer.REFUSED, f"the API server's Service cannot be read: {error}"
        return Answer.WRITTEN, ""

    def _post(self, event: ServiceEvent) -> None:
        """On the thread. The uid is asked for because `kubectl describe` looks for Events by it."""
        access, service = self._open_access(), event.service
        base = f"/api/v1/namespaces/{quote(service.namespace, safe='')}"
        content = access.get(f"{base}/services/{quote(service.name, safe='')}")
        uid = msgspec.json.decode(content, type=_Service).metadata.uid
        access.post(f"{base}/events", msgspec.json.encode(event_object(event, uid=uid, instance=self._instance)))


def event_object(event: ServiceEvent, *, uid: str, instance: str) -> dict[str, Any]:
    """The Event as core/v1 JSON, `instance` being the planner that reports it."""
    at = dt.datetime.fromtimestamp(event.at_ns / 1e9, dt.UTC)
    seconds = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    service = event.service
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": service.namespace, "name": event.name},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Service",
            "namespace": service.namespace,
            "name": service.name,
            "uid": uid,
        },
        "related": {"apiVersion": "v1", "kind": "Node", "name": event.node},
        "type": "Warning",
        "reason": event.cause.reason,
        "action": event.cause.action,
        "message": event.note,
        "eventTime": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "firstTimestamp": seconds,
        "lastTimestamp": seconds,
        "count": 1,
        "source": {"component": CONTROLLER, "host": event.node},
        "reportingComponent": CONTROLLER,
        "reportingInstance": instance,
    }


def _answer(status: int) -> Answer:
    if status == _CONFLICT:
        return Answer.WRITTEN  # by another planner, or by an attempt whose answer got lost
    return Answer.AWAY if status in _TRANSIENT or status >= 500 else Answer.REFUSED
