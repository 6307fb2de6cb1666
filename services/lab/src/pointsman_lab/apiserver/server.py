# SPDX-License-Identifier: Apache-2.0
"""The HTTP shell of the API server: sockets, TLS, authentication, and the way from a request to its answer.

aiohttp's low-level server calls one handler for everything; the table of resources is the router. Several already bound
sockets can be served at once, since a lab listens in more than one network namespace.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.admin import PREFIX, Admin
from pointsman_lab.apiserver.auth import Authenticator
from pointsman_lab.apiserver.documents import document
from pointsman_lab.apiserver.encoding import encode_json
from pointsman_lab.apiserver.errors import ApiError
from pointsman_lab.apiserver.faults import Faults
from pointsman_lab.apiserver.identities import Holder, Identities
from pointsman_lab.apiserver.negotiation import JSON_TYPE, BodyReader, accepted_form
from pointsman_lab.apiserver.rendering import WatchRenderer
from pointsman_lab.apiserver.stats import Stats
from pointsman_lab.apiserver.target import number, parse_target, watch_options
from pointsman_lab.apiserver.verbs import Call, Verbs
from pointsman_lab.apiserver.watchstream import WatchStream, WatchTimes

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Mapping, Sequence

    from pointsman_lab.apiserver.registry import Registry
    from pointsman_lab.apiserver.target import Target

_BODY_MAX_BYTES: Final = 512 * 1024 * 1024
_CHUNK_BYTES: Final = 1024 * 1024
_SHUTDOWN_SECONDS: Final = 1.0
_BASE_HEADERS: Final = {"Cache-Control": "no-cache, private"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How the server listens and whom it serves.

    Without `tls` it speaks plain HTTP. `tokens` maps bearer tokens to users; `anonymous` lets requests without
    credentials pass. A watch without timeoutSeconds ends after `watch_seconds` to twice that, as a real one does.
    """

    tls: ssl.SSLContext | None = None
    tokens: Mapping[str, str | Holder] = field(default_factory=dict)
    anonymous: bool = True
    bookmark_seconds: float = 30.0
    watch_seconds: float = 1800.0


class ApiServer:
    """Serves a registry over HTTP; `faults` and `stats` are for the lab and its tests."""

    def __init__(self, registry: Registry, options: ServerOptions | None = None) -> None:
        self.registry = registry
        self.faults = Faults()
        self.stats = Stats()
        self._options = options or ServerOptions()
        self.identities = Identities(self._options.tokens)
        self._auth = Authenticator(self.identities, anonymous=self._options.anonymous)
        self._bodies = BodyReader()
        self._verbs = Verbs(registry, self.identities, self._bodies)
        self._admin = Admin(registry, self.faults, self.stats, self._drop)
        self._watches: set[WatchStream] = set()
        self._runner: web.ServerRunner | None = None
        self._addresses: list[tuple[str, int]] = []

    async def start(self, sockets: Sequence[socket.socket] = (), *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on the given bound sockets, or on host and port when there are none.

        Raises:
            OSError: when an address cannot be listened on.
        """
        server = web.Server(self._handle, request_factory=_new_request, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        tls = self._options.tls
        if sockets:
            for listener in sockets:
                await web.SockSite(self._runner, listener, ssl_context=tls, backlog=512).start()
        else:
            await web.TCPSite(self._runner, host, port, ssl_context=tls, backlog=512).start()
        self._addresses = [address[:2] for address in self._runner.addresses]

    async def stop(self) -> None:
        """End the watches, then the server; the sockets are closed."""
        self.drop_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The (host, port) pairs listened on, known once started."""
        return list(self._addresses)

    @property
    def url(self) -> str:
        """The URL of the first address."""
        host, port = self._addresses[0]
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._options.tls else 'http'}://{shown}:{port}"

    def drop_watches(self, resource: str = "", *, abrupt: bool = False) -> int:
        """Close the open watches of a resource (empty: all), cleanly or as broken connections; gives their number."""
        chosen = [watch for watch in self._watches if resource in ("", watch.resource.plural)]
        for watch in chosen:
            watch.close(abrupt=abrupt)
        return len(chosen)

    def _drop(self, resource: str, abrupt: bool) -> int:  # noqa: FBT001 - the callback form of drop_watches
        return self.drop_watches(resource, abrupt=abrupt)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._answer(request)
        except ApiError as error:
            response = _refusal(error)
        self.stats.answers[response.status] += 1
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        user = self._auth.user_of(request)
        path = request.path
        if path.startswith(PREFIX):
            body = self._bodies.read(request.headers.get("Content-Type", ""), await request.read())
            return _json(encode_json(await self._admin.answer(request.method, path, body)))
        found = document(request, path)
        if found is not None:
            return found
        target = parse_target(request.method, path, request.query)
        if target is None:
            return web.Response(status=404, text="404 page not found\n", headers=_BASE_HEADERS)
        return await self._resource(request, target, user)

    async def _resource(self, request: web.BaseRequest, target: Target, user: str) -> web.StreamResponse:
        plural = target.resource.plural
        self.stats.requests[target.verb, plural] += 1
        refusal = self.faults.next_refusal(plural, target.verb)
        if refusal:
            raise errors.injected(refusal.code, refusal.retry_after_seconds)
        if target.verb == "watch":
            return await self._watch(request, target)
        call = Call(
            target=target,
            query=request.query,
            accept=request.headers.get("Accept", ""),
            content_type=request.headers.get("Content-Type", ""),
            raw=await request.read() if request.can_read_body else b"",
            user=user,
            user_agent=request.headers.get("User-Agent", ""),
        )
        answer = self._verbs.answer(call)
        if not answer.chunked:
            return _json(answer.body, answer.status)
        self.stats.list_bytes[plural] += len(answer.body)
        return await _send_in_chunks(request, answer.body)

    async def _watch(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        options = watch_options(target, request.query)
        form = accepted_form(request.headers.get("Accept", ""))
        base = self._options.watch_seconds
        timeout = number(request.query, "timeoutSeconds") or base * (1 + random.random())
        response = web.StreamResponse(headers={**_BASE_HEADERS, "Content-Type": JSON_TYPE})
        response.enable_chunked_encoding()
        stream = WatchStream(
            store=self.registry.store,
            resource=target.resource,
            options=options,
            renderer=WatchRenderer(target.resource, form, request.query.get("includeObject", "")),
            faults=self.faults,
            stats=self.stats,
            times=WatchTimes(timeout=timeout, bookmark_interval=self._options.bookmark_seconds),
            send=response.write,
            abort=lambda: _abort(request),
        )
        self._watches.add(stream)
        try:
            await response.prepare(request)
            await stream.run()
        except ConnectionError:
            return response
        finally:
            self._watches.discard(stream)
        return response


def _abort(request: web.BaseRequest) -> None:
    if isinstance(request.transport, asyncio.WriteTransport):
        request.transport.abort()


def _new_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_BODY_MAX_BYTES)


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type=JSON_TYPE, headers=_BASE_HEADERS)


def _refusal(error: ApiError) -> web.Response:
    response = _json(encode_json(error.status), error.code)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


async def _send_in_chunks(request: web.BaseRequest, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={**_BASE_HEADERS, "Content-Type": JSON_TYPE})
    response.enable_chunked_encoding()
    await response.prepare(request)
    view = memoryview(body)
    for start in range(0, len(body), _CHUNK_BYTES):
        await response.write(bytes(view[start : start + _CHUNK_BYTES]))
    await response.write_eof()
    return response
