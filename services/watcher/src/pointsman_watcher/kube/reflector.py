# SPDX-License-Identifier: Apache-2.0
"""Follows one resource of the API server for ever: asks what the machine says, and hands what comes to the feed."""

from typing import Final, Protocol

import structlog

from pointsman_chassis.clock import Clock
from pointsman_watcher.core.decode import (
    Bookmark,
    Garbage,
    Item,
    Observed,
    PageError,
    Rejected,
    WatchFailure,
    decode_event,
    decode_page,
)
from pointsman_watcher.core.resources import Resource
from pointsman_watcher.kube.client import KubeClient, WatchStream
from pointsman_watcher.kube.errors import (
    KubeError,
    PageTooLargeError,
    RefusedError,
    StalledError,
    UnansweredError,
)
from pointsman_watcher.kube.machine import Ending, Phase, ReflectorMachine, Request
from pointsman_watcher.metrics import WatcherMetrics

_ADVICE: Final = {
    401: "check the token, certificate or exec plugin of the kubeconfig or service account; it is read again now",
    403: "grant get, list and watch on it (deploy/base/watcher holds the ClusterRole)",
}


class Sink(Protocol):
    """What a reflector fills; `ClusterFeed` is one."""

    def contact(self, received_ns: int) -> None:
        """The API server said something."""

    def observe(self, resource: Resource, items: list[Item], received_ns: int, version: str) -> None:
        """Watch events, in order, perhaps none: with them, all up to `version` was read."""

    def replace(self, resource: Resource, items: list[Item], received_ns: int, version: str) -> None:
        """A complete list, of that version."""


class Reflector:
    """One resource. `run` ends only by cancellation."""

    def __init__(
        self,
        resource: Resource,
        *,
        client: KubeClient,
        machine: ReflectorMachine,
        sink: Sink,
        metrics: WatcherMetrics,
        clock: Clock,
    ) -> None:
        self._resource = resource
        self._client = client
        self._machine = machine
        self._sink = sink
        self._metrics = metrics
        self._clock = clock
        self._log = structlog.get_logger("reflector").bind(resource=resource.plural)
        self._collected: list[Item] = []

    @property
    def name(self) -> str:
        """Name of its task."""
        return f"reflector of {self._resource.plural}"

    async def run(self) -> None:
        """List, watch, recover."""
        while True:
            if self._machine.delay_seconds > 0:
                await self._clock.sleep(self._machine.delay_seconds)
            request = self._machine.next_request()
            try:
                if request.is_watch:
                    await self._watch(request)
                elif request.is_initial:
                    await self._page(request)
                else:
                    await self._probe(request)
            except KubeError as error:
                self._failed(error)

    async def _page(self, request: Request) -> None:
        """One page of a list; the last one makes the list complete."""
        if not any(name == "continue" for name, _ in request.parameters):
            self._collected = []
        body = await self._client.read_page(self._resource.path, request.parameters)
        received_ns = self._contact()
        try:
            page = decode_page(self._resource, body)
        except PageError as error:
            raise UnansweredError(str(error)) from error
        self._collected += page.items
        if self._machine.page_received(page.resource_version, page.continue_token):
            self._complete(received_ns)

    async def _probe(self, request: Request) -> None:
        """Ask for the server's present version, and nothing else."""
        body = await self._client.read_page(self._resource.path, request.parameters)
        self._contact()
        try:
            version = decode_page(self._resource, body).resource_version
        except PageError as error:
            raise UnansweredError(str(error)) from error
        read = self._machine.resource_version
        if self._machine.version_probed(version):
            self._log.warning("the API server came back older than it was; listing anew", read=read, now=version)

    async def _watch(self, request: Request) -> None:
        """One watch, from its opening to its end."""
        self._collected = []
        brought_events = False
        skipped = 0
        async with self._client.open_watch(self._resource.path, request.parameters) as stream:
            while True:
                try:
                    lines = await stream.read_lines()
                except StalledError as error:
                    return self._ended(Ending.STALLED, str(error), brought_events=brought_events)
                except UnansweredError as error:
                    return self._ended(Ending.LOST, str(error), brought_events=brought_events)
                if lines is None:
                    return self._ended(Ending.CLOSED, "", brought_events=brought_events)
                skipped = self._note_skipped(stream, skipped)
                brought_events = brought_events or bool(lines)
                failure = self._take(lines, self._contact())
                if failure is not None:
                    return self._broken(failure, brought_events=brought_events)

    def _take(self, lines: list[bytes], received_ns: int) -> WatchFailure | Garbage | None:
        """Apply everything that came together as one batch; returns what ends the watch, if anything does."""
        batch: list[Item] = []
        version = ""
        failure: WatchFailure | Garbage | None = None
        for line in lines:
            event = decode_event(self._resource, line)
            if isinstance(event, Observed | Rejected):
                batch.append(event)
                version = event.resource_version or version
            elif isinstance(event, Bookmark):
                version = event.resource_version or version
                if event.ends_initial and self._machine.phase is not Phase.WATCHING:
                    self._collected += batch
                    batch = []
                    self._machine.initial_events_ended(event.resource_version)
                    self._complete(received_ns)
            else:
                failure = event
                break
        if self._machine.phase is Phase.WATCHING:
            if version:
                self._machine.version_seen(version)
            if batch or version:
                self._sink.observe(self._resource, batch, received_ns, self._machine.resource_version)
        else:
            self._collected += batch
        return failure

    def _complete(self, received_ns: int) -> None:
        collected, self._collected = self._collected, []
        self._metrics.lists.labels(self._resource.plural, self._machine.way).inc()
        self._sink.replace(self._resource, collected, received_ns, self._machine.resource_version)

    def _broken(self, failure: WatchFailure | Garbage, *, brought_events: bool) -> None:
        if isinstance(failure, Garbage):
            return self._ended(Ending.GARBAGE, failure.message, brought_events=brought_events)
        if failure.code == 401:
            self._client.access.doubt()
        message = f"{failure.code}: {failure.message}"
        return self._ended(Ending.ERROR, message, brought_events=brought_events, code=failure.code)

    def _ended(self, ending: Ending, message: str, *, brought_events: bool, code: int = 0) -> None:
        self._metrics.watch_ends.labels(self._resource.plural, ending.value).inc()
        words = self._machine.watch_ended(ending, brought_events=brought_events, code=code)
        if ending is Ending.CLOSED:
            self._log.debug("watch ended", action=words)
        else:
            self._log.warning("watch ended", reason=ending.value, error=message, action=words)

    def _failed(self, error: KubeError) -> None:
        """Any request that brought no answer of use."""
        if isinstance(error, RefusedError):
            self._refused(error)
            return
        self._metrics.request_failures.labels(self._resource.plural, "0").inc()
        too_large = isinstance(error, PageTooLargeError)
        words = self._machine.page_too_large() if too_large else self._machine.unanswered()
        self._log.warning("no answer from the API server", error=str(error), action=words)

    def _refused(self, error: RefusedError) -> None:
        self._contact()
        self._metrics.request_failures.labels(self._resource.plural, str(error.status)).inc()
        if error.status == 401:
            self._client.access.doubt()
        words = self._machine.refused(error.status, error.message, retry_after_seconds=error.retry_after_seconds)
        advice = _ADVICE.get(error.status)
        extra = {"advice": advice} if advice else {}
        self._log.warning("API server refused", error=str(error), action=words, **extra)
        if self._machine.phase is Phase.ABSENT:
            self._sink.replace(self._resource, [], self._clock.wall_ns(), "")

    def _note_skipped(self, stream: WatchStream, seen: int) -> int:
        if stream.skipped_count > seen:
            self._metrics.rejected_objects.labels(self._resource.plural).inc(stream.skipped_count - seen)
            self._log.warning("watch event is too large and was skipped; the object's last good state is kept")
        return stream.skipped_count

    def _contact(self) -> int:
        now_ns = self._clock.wall_ns()
        self._metrics.last_contact.labels(self._resource.plural).set(now_ns / 1e9)
        self._sink.contact(now_ns)
        return now_ns
