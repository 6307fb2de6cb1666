# SPDX-License-Identifier: Apache-2.0
"""The exceptions a Pointsman process raises on purpose, split by who must act, and the one gRPC status mapping.

PointsmanError
  ConfigError          the operator must act: the process ends with status 2 and this message
  UnsupportedError     this node, kernel or peer cannot do what is asked: status 3
  NotInSyncError       asked too early: nothing is served before the first full state
  PeerError            the other side broke the protocol or sent a value nobody may send
  LocalProtocolError   we broke the protocol: a bug of ours
  NotFoundError        the request names something that is not there
  UnavailableError     a dependency is away for now: retry
  UnauthenticatedError the caller has not shown who it is, or not any more
  ForbiddenError       the caller may not do that; the message names the right that is missing
  OverloadError        more than is allowed at once, or in a time: come back later
  SlowConsumerError    a reader fell behind its bound: it must resynchronise
  StaleVersionError    the request was built on a state that is gone: read again, then retry
  ApplyError           the kernel refused a batch: the reconciler retries and bisects

Third-party exceptions are wrapped where the IO happens and chained with `raise ... from`. A message says what was
attempted, on what, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import grpc


class PointsmanError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(PointsmanError):
    """The configuration is wrong; the message lists every problem with its field path."""


class UnsupportedError(PointsmanError):
    """This node, kernel or peer lacks something that the request needs."""


class NotInSyncError(PointsmanError):
    """The first full state has not been seen yet."""


class PeerError(PointsmanError):
    """The remote side broke the protocol."""


class LocalProtocolError(PointsmanError):
    """This side broke the protocol: a bug, reported with what was about to happen."""


class UnavailableError(PointsmanError):
    """A dependency does not answer now; the same request may work later."""


class UnauthenticatedError(PointsmanError):
    """The caller has not shown who it is, or its proof is over."""


class ForbiddenError(PointsmanError):
    """The caller may not do what it asks for."""


class OverloadError(PointsmanError):
    """More than is allowed at once, or in a time."""


class SlowConsumerError(PointsmanError):
    """A reader exceeded its bound and has to resynchronise."""


class StaleVersionError(PointsmanError):
    """The request was based on a version that is no longer there."""


class NotFoundError(PointsmanError):
    """The request names something that is not there."""


class ApplyError(PointsmanError):
    """The kernel refused a batch."""


EXIT_FAILURE: Final = 1
EXIT_CONFIG: Final = 2
EXIT_UNSUPPORTED: Final = 3

_STATUS: Final[Mapping[type[PointsmanError], str]] = MappingProxyType(
    {
        ConfigError: "INVALID_ARGUMENT",
        UnsupportedError: "UNIMPLEMENTED",
        NotInSyncError: "FAILED_PRECONDITION",
        PeerError: "INVALID_ARGUMENT",
        LocalProtocolError: "INTERNAL",
        UnavailableError: "UNAVAILABLE",
        UnauthenticatedError: "UNAUTHENTICATED",
        ForbiddenError: "PERMISSION_DENIED",
        OverloadError: "RESOURCE_EXHAUSTED",
        SlowConsumerError: "RESOURCE_EXHAUSTED",
        NotFoundError: "NOT_FOUND",
        StaleVersionError: "ABORTED",
        ApplyError: "UNAVAILABLE",
    }
)
"""Names of grpc.StatusCode."""


def grpc_status(error: PointsmanError) -> grpc.StatusCode:
    """The status a server answers with when a handler raises `error`; UNKNOWN for a class without a row."""
    import grpc  # noqa: PLC0415 - gRPC costs 15 MB and a node's start; who has no calls to answer does without

    for kind in type(error).__mro__:
        if issubclass(kind, PointsmanError) and kind in _STATUS:
            return grpc.StatusCode[_STATUS[kind]]
    return grpc.StatusCode.UNKNOWN


def exit_status(error: BaseException) -> int:
    """The exit status of a process that ends because of `error`."""
    if isinstance(error, ConfigError):
        return EXIT_CONFIG
    if isinstance(error, UnsupportedError):
        return EXIT_UNSUPPORTED
    return EXIT_FAILURE


def errors_to_status(context: grpc.aio.ServicerContext[Any, Any]) -> AbstractAsyncContextManager[None, None]:
    """Around a handler's body: a PointsmanError becomes the call's gRPC status and its message; the rest passes."""
    return _ErrorsToStatus(context)


class _ErrorsToStatus(AbstractAsyncContextManager[None, None]):
    """A class, because a generator cannot tell the type checker that it swallows nothing: `abort` raises too."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, PointsmanError):
            await self._context.abort(grpc_status(error), str(error))
