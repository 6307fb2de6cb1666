# SPDX-License-Identifier: Apache-2.0
"""What stands before every handler of a server: who calls, how often, how much, and whether he may.

One interceptor for all services. It makes a handler of every method that reads the request itself, so that a call which
never sends one ends in time, and that ends streams whose caller may not have them any more. What a caller is and may do
is decided by a `Gate`, which each service has of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, Final, Generic, Protocol, TypeVar

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from pointsman_chassis.caller import NOBODY, Caller, Proof
from pointsman_chassis.clock import Clock
from pointsman_chassis.duration import Duration
from pointsman_chassis.errors import (
    ForbiddenError,
    OverloadError,
    PeerError,
    PointsmanError,
    UnauthenticatedError,
    UnavailableError,
    grpc_status,
)
from pointsman_chassis.grpc_options import MESSAGE_BYTES_MAX
from pointsman_chassis.metrics import Registry
from pointsman_chassis.rate import RateLimiter
from pointsman_chassis.settings import Settings

G = TypeVar("G")
_LOOK_SECONDS_MAX: Final = 3600.0
"""A proof's end is looked for at least so often: clocks are set."""
_REASONS: Final[dict[type[PointsmanError], str]] = {
    UnauthenticatedError: "unauthenticated",
    ForbiddenError: "forbidden",
    UnavailableError: "unavailable",
}


class CallLimits(Settings, frozen=True, kw_only=True):
    """What callers may ask of a server. Who is over them is refused with RESOURCE_EXHAUSTED, and counted."""

    calls_max: int = 20_000
    """Calls and streams that are open at once."""
    calls_per_identity_max: int = 64
    """Of them, those of one identity."""
    calls_per_second: float = 100.0
    """Calls that one identity may begin, each second."""
    calls_burst: int = 400
    """Calls that it may begin at once after a pause."""
    request_bytes_max: int = MESSAGE_BYTES_MAX
    """Largest message of a caller."""
    request_timeout: Duration = Duration(10)
    """Time from a connection to the end of its TLS handshake, and from the beginning of a call to its first message."""

    def __post_init__(self) -> None:
        """Refuse what would let nobody in."""
        if min(self.calls_max, self.calls_per_identity_max, self.calls_burst) < 1 or self.calls_per_second <= 0:
            raise ValueError("callsMax, callsPerIdentityMax, callsBurst and callsPerSecond must be above 0")
        if not 1024 <= self.request_bytes_max <= MESSAGE_BYTES_MAX:
            raise ValueError(f"requestBytesMax must be within 1024 and {MESSAGE_BYTES_MAX}")
        if not 0.1 <= self.request_timeout <= 300:
            raise ValueError("requestTimeout must be within 100ms and 5m")


class Gate(Protocol[G]):
    """Decides who a caller is, and what it may do."""

    async def identify(self, context: Any) -> Caller:
        """Who calls. Raises UnauthenticatedError for a proof that is worth nothing, UnavailableError without answer."""

    async def authorize(self, caller: Caller, method: str, request: Any) -> G:
        """What the caller is granted for a method (`/package.Service/Method`); no request is known of a stream of them.

        Raises:
            UnauthenticatedError: only callers with a proof may.
            ForbiddenError: this one may not.
        """

    def recheck_seconds(self, caller: Caller, method: str) -> float:
        """How often a stream's rights are looked at again; infinity = never."""

    async def recheck(self, context: GuardedContext[G], method: str, request: Any) -> None:
        """Raises as the two above when a stream may not go on with what it was granted.

        UnavailableError ends no stream: what was granted stays until somebody can be asked.
        """


class GuardMetrics:
    """Figures of a guard; names begin with the prefix of its service."""

    def __init__(self, registry: Registry, prefix: str) -> None:
        self.refused = registry.counter(
            f"{prefix}_calls_refused_total",
            "Calls refused or ended before their handler was done: unauthenticated, forbidden, unavailable, rate, "
            "too_many, too_many_of_identity, oversized, no_request, malformed.",
            ["reason"],
        )
        self.open = registry.gauge(f"{prefix}_calls_open", "Calls and streams that are open.")


class GuardedContext(Generic[G]):
    """A servicer context that also knows who calls and what was granted; all else is gRPC's."""

    def __init__(self, context: Any, guard: Guard[G], decode: Callable[[bytes], Any] | None) -> None:
        self.caller: Caller = NOBODY
        self.granted: G | None = None
        self._context = context
        self._guard = guard
        self._decode = decode
        self._has_begun = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """The next message of the caller.

        Raises:
            PeerError: it is none, or the first one does not come in time.
            OverloadError: it is too large.
        """
        data = await self._context.read() if self._has_begun else await self._guard.in_time(self._context.read())
        self._has_begun = True
        return data if data is grpc.aio.EOF else self._guard.decoded(data, self._decode)

    async def requests(self) -> AsyncIterator[Any]:
        """All messages of the caller."""
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message


class Guard(grpc.aio.ServerInterceptor, Generic[G]):
    """The interceptor. One for each server."""

    def __init__(self, *, gate: Gate[G], limits: CallLimits, metrics: GuardMetrics, clock: Clock) -> None:
        self._gate = gate
        self.limits = limits
        self._metrics = metrics
        self._clock = clock
        self._rates = RateLimiter(per_second=limits.calls_per_second, burst=limits.calls_burst)
        self._open: Counter[str] = Counter()
        self._count = 0

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """A handler that stands before the real one."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method

        async def guarded(_requests: Any, context: Any) -> Any:
            return await self._serve(method, handler, GuardedContext(context, self, handler.request_deserializer))

        # On the wire, a method that reads its one message itself is the same as one that is handed it.
        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(guarded, request_deserializer=None, response_serializer=handler.response_serializer)

    def decoded(self, data: bytes, decode: Callable[[bytes], Any] | None) -> Any:
        """A message; PeerError when it is not one, OverloadError when it is too large."""
        if len(data) > self.limits.request_bytes_max:
            self._metrics.refused.labels("oversized").inc()
            raise OverloadError(f"the message has {len(data)} bytes; at most {self.limits.request_bytes_max} are taken")
        try:
            return data if decode is None else decode(data)
        except DecodeError as error:
            self._metrics.refused.labels("malformed").inc()
            raise PeerError("the request is not a message of this method") from error

    async def in_time(self, first: Awaitable[Any]) -> Any:
        """The first message of a call; PeerError when it does not come."""
        try:
            async with asyncio.timeout(self.limits.request_timeout):
                return await first
        except TimeoutError as error:
            self._metrics.refused.labels("no_request").inc()
            raise PeerError(f"no request within {self.limits.request_timeout}") from error

    async def _serve(self, method: str, handler: Any, context: GuardedContext[G]) -> Any:
        """One call from its beginning to its end."""
        try:
            with self._place():
                context.caller = await self._gate.identify(context)
                self._seconds_left(context.caller)
                with self._place_of(_key(context)):
                    return await self._authorized(method, handler, context)
        except PointsmanError as error:
            reason = _REASONS.get(type(error))
            if reason is not None:
                self._metrics.refused.labels(reason).inc()
                structlog.get_logger("guard").info(
                    "call refused", method=method, caller=str(context.caller), peer=context.peer(), error=str(error)
                )
            await context.abort(grpc_status(error), str(error))

    async def _authorized(self, method: str, handler: Any, context: GuardedContext[G]) -> Any:
        request = None if handler.request_streaming else await self._first(context)
        context.granted = await self._gate.authorize(context.caller, method, request)
        behaviour = _behaviour(handler)
        argument = context.requests() if handler.request_streaming else request
        if not handler.response_streaming:
            return await behaviour(argument, context)
        async with self._supervised(method, request, context):
            if inspect.isasyncgenfunction(behaviour):
                async with aclosing(behaviour(argument, context)) as messages:
                    async for message in messages:
                        await context.write(message)
            else:
                await behaviour(argument, context)
        return None

    async def _first(self, context: GuardedContext[G]) -> Any:
        """The only message of a call."""
        request = await context.read()
        if request is grpc.aio.EOF:
            self._metrics.refused.labels("no_request").inc()
            raise PeerError("the call ended before its request")
        return request

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A call among all."""
        if self._count >= self.limits.calls_max:
            self._metrics.refused.labels("too_many").inc()
            raise OverloadError(f"{self.limits.calls_max} calls are open here, as many as may be; come back later")
        self._count += 1
        self._metrics.open.set(self._count)
        try:
            yield
        finally:
            self._count -= 1
            self._metrics.open.set(self._count)

    @contextmanager
    def _place_of(self, key: str) -> Iterator[None]:
        """A call among those of one identity; callers without one count only among all."""
        if not key:
            yield
            return
        wait = self._rates.take(key, self._clock.monotonic())
        if wait:
            self._metrics.refused.labels("rate").inc()
            raise OverloadError(
                f"more than {self.limits.calls_per_second:g} calls a second of one identity; come back in {wait:.2f} s"
            )
        if self._open[key] >= self.limits.calls_per_identity_max:
            self._metrics.refused.labels("too_many_of_identity").inc()
            raise OverloadError(f"{self._open[key]} calls of this identity are open, as many as may be; end some")
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

    @asynccontextmanager
    async def _supervised(self, method: str, request: Any, context: GuardedContext[G]) -> AsyncIterator[None]:
        """Ends the body when the caller's proof is over, or its right to this stream."""
        handler = asyncio.current_task()
        ended: list[PointsmanError] = []

        async def look() -> None:
            try:
                await self._until_revoked(method, request, context)
            except PointsmanError as error:
                ended.append(error)
                if handler is not None:
                    handler.cancel()

        watch = asyncio.create_task(look(), name=f"rights of {method}")
        try:
            yield
        except asyncio.CancelledError:
            if not ended:
                raise
            if handler is not None:
                handler.uncancel()
            raise ended[0] from None
        finally:
            watch.cancel()

    async def _until_revoked(self, method: str, request: Any, context: GuardedContext[G]) -> None:
        caller = context.caller
        interval = self._gate.recheck_seconds(caller, method)
        while True:
            left = self._seconds_left(caller)
            if math.isinf(min(interval, left)):
                return
            await self._clock.sleep(min(interval, left, _LOOK_SECONDS_MAX))
            if not math.isinf(interval):
                try:
                    await self._gate.recheck(context, method, request)
                except (UnavailableError, OverloadError):
                    continue

    def _seconds_left(self, caller: Caller) -> float:
        """How long the proof is good. TLS looks at a certificate only when a connection begins, and that can last."""
        left = math.inf if caller.expires_at is None else caller.expires_at - self._clock.wall_ns() / 1e9
        if left <= 0:
            raise UnauthenticatedError(
                f"the {caller.proof.value} of {caller} has expired; connect again with the present one"
            )
        return left


def _behaviour(handler: Any) -> Callable[[Any, Any], Any]:
    kinds = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
    found: Callable[[Any, Any], Any] = next(each for each in kinds if each is not None)
    return found


def _key(context: GuardedContext[Any]) -> str:
    """Whose calls are counted together; empty for callers that nobody tells apart."""
    caller = context.caller
    if caller.proof is Proof.PLAINTEXT:
        return ""
    if not caller.is_known:
        return f"peer:{peer_host(context.peer())}"
    # Enforcers with tokens are all one user: the node that a token is bound to tells them apart.
    return f"{caller.proof.value}:{caller.user}:{','.join(sorted(caller.names))}"


def peer_host(peer: str) -> str:
    """The address in gRPC's name of a peer (`ipv4:127.0.0.1:4711`), or all of it."""
    return peer.rpartition(":")[0] or peer
