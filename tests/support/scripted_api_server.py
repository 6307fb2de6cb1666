# SPDX-License-Identifier: Apache-2.0
"""A scripted API server on loopback: real HTTP, answers as the test lays them down."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_chassis.settings import Duration
from pointsman_chassis.tracing import Tracing
from pointsman_watcher.core.object_store import ObjectStore
from pointsman_watcher.core.resources import SERVICES, Resource
from pointsman_watcher.feed import ClusterFeed
from pointsman_watcher.kube.client import KubeClient
from pointsman_watcher.kube.config import Access
from pointsman_watcher.kube.machine import ReflectorMachine
from pointsman_watcher.kube.reflector import Reflector
from pointsman_watcher.metrics import WatcherMetrics
from pointsman_watcher.settings import KubernetesSettings

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

QUICK = KubernetesSettings(
    initial_list="chunkedList",
    backoff_initial=Duration(0.01),
    backoff_max=Duration(0.05),
    stall_timeout=Duration(5),
    absent_probe_interval=Duration(0.05),
)


class Watch:
    """A watch in progress, held by the test."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self.query = dict(request.query)
        self._request = request
        self._response = response
        self.ended = asyncio.Event()

    async def send(self, *lines: bytes) -> None:
        await self._response.write(b"".join(lines))

    def end(self) -> None:
        """End in order."""
        self.ended.set()

    def cut(self) -> None:
        """Break the connection."""
        assert self._request.transport is not None
        self._request.transport.abort()
        self.ended.set()


class ScriptedApiServer:
    """Lists are answered from `lists` (the last for ever), watches are handed to the test by `next_watch`.

    A question for the server's version (a list of one object) is answered by `version`: "" = it does not say.
    """

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[web.Request] = []
        self.lists: list[Answer] = []
        self.version = ""
        self.version_questions = 0
        self.watch_answers: list[Answer] = []
        self._watches: asyncio.Queue[Watch] = asyncio.Queue()
        self._open: list[Watch] = []

    def queries(self) -> list[dict[str, str]]:
        return [dict(request.query) for request in self.requests]

    async def next_watch(self) -> Watch:
        async with asyncio.timeout(10):
            return await self._watches.get()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("limit") == "1":
            self.version_questions += 1
            body = {"metadata": {"resourceVersion": self.version}, "items": []}
            return await reply(body)(request)
        self.requests.append(request)
        if "watch" not in request.query:
            script = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
            return await script(request)
        if self.watch_answers:
            return await self.watch_answers.pop(0)(request)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        watch = Watch(request, response)
        self._open.append(watch)
        self._watches.put_nowait(watch)
        await watch.ended.wait()
        return response

    def close(self) -> None:
        for watch in self._open:
            watch.end()


def reply(body: bytes | dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """An answer with this body."""
    encoded = json.dumps(body).encode() if isinstance(body, dict) else body

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=encoded, status=status, headers=headers, content_type="application/json")

    return answer


def refusal(
    code: int, message: str = "no", headers: dict[str, str] | None = None, *, continue_token: str = ""
) -> Answer:
    """A Status."""
    metadata = {"continue": continue_token} if continue_token else {}
    status = {"kind": "Status", "metadata": metadata, "status": "Failure", "message": message, "code": code}
    return reply(status, code, headers)


@dataclass
class World:
    """A reflector between a scripted API server and a real feed."""

    server: ScriptedApiServer
    kubeconfig: Path
    registry: Registry = field(default_factory=lambda: Registry(process=False))
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics = WatcherMetrics(self.registry)
        self.feed = ClusterFeed(
            store=ObjectStore(epoch="e", log_entries_max=1000),
            tracing=Tracing(),
            metrics=self.metrics,
            clock=SystemClock(),
        )

    def start(self, resource: Resource = SERVICES, settings: KubernetesSettings = QUICK) -> ReflectorMachine:
        access = Access(kubeconfig=str(self.kubeconfig), context="", clock=SystemClock())
        machine = ReflectorMachine(resource, settings, random_source=random.Random(1))
        reflector = Reflector(
            resource,
            client=KubeClient(access, settings),
            machine=machine,
            sink=self.feed,
            metrics=self.metrics,
            clock=SystemClock(),
        )
        self.accesses.append(access)
        self.tasks.append(asyncio.create_task(reflector.run()))
        return machine

    def names(self) -> list[str]:
        return sorted(key.name for key in self.feed.store.present_keys())

    async def until(self, condition: Callable[[], object]) -> None:
        """Return once the condition holds; fails after 10 s."""
        async with asyncio.timeout(10):
            while not condition():
                for task in self.tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.002)

    async def until_names(self, names: Sequence[str]) -> None:
        await self.until(lambda: self.names() == sorted(names))

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for access in self.accesses:
            await access.close()


def write_kubeconfig(path: Path, server: str, user: dict[str, Any] | None = None) -> None:
    """A kubeconfig with one cluster and one user (JSON is YAML)."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(document))
