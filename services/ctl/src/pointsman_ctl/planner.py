# SPDX-License-Identifier: Apache-2.0
"""Calls to a planner: the first of the configured ones that answers, and gRPC's words turned into ours."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1.control_service_pb2_grpc import ControlServiceStub
from pointsman.control.v1.override_service_pb2_grpc import OverrideServiceStub
from pointsman_chassis.channel import open_channel
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.tls import TransportSecurity
from pointsman_ctl.errors import PlannerError, UsageError
from pointsman_ctl.settings import Context

if TYPE_CHECKING:
    from pointsman.control.v1.control_service_pb2_grpc import ControlServiceAsyncStub
    from pointsman.control.v1.override_service_pb2_grpc import OverrideServiceAsyncStub

M = TypeVar("M", bound=Message)
PAGE_SIZE: Final = 2000
_PROBE_SECONDS_MAX: Final = 5.0
_HEAD_START_SECONDS: Final = 1.0
_ATTEMPTS: Final = 5
_CONNECTING: Final = re.compile(r"failed to connect to all addresses; last error: .*?ipv[46]:\S+: (.+)", re.DOTALL)
_DIALLED: Final = re.compile(r"unix(-abstract)?:.+|(dns:)?/*(\[[^\]]+\]|[^\[\]:/]+):\d{1,5}")
_TLS: Final = re.compile(r"tls|ssl|verification|certificate|security handshaker|socket closed", re.IGNORECASE)
_TLS_HINT: Final = (
    "is it a planner's port, and do the certificates fit? --tls-ca is the CA of the planner's, --tls-cert is from a CA "
    "that the planner knows, --tls-server-name is a name in the planner's; `pointsmanctl check` looks at each"
)
_ASK_ANOTHER: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.FAILED_PRECONDITION}
)
_HINTS: Final = MappingProxyType(
    {
        grpc.StatusCode.UNAVAILABLE: "is a planner there, and reachable from here? `--server` names others",
        grpc.StatusCode.DEADLINE_EXCEEDED: "give it longer with --request-timeout, or ask another with --server",
        grpc.StatusCode.UNAUTHENTICATED: "show a certificate (--tls-cert, --tls-key, --tls-ca) or a --token-file",
        grpc.StatusCode.PERMISSION_DENIED: "rights are given by `access.rules` of the planners or by RBAC on the group "
        "pointsman.io, see docs/security.md",
        grpc.StatusCode.FAILED_PRECONDITION: "a planner that started just now answers once it has seen the cluster",
        grpc.StatusCode.NOT_FOUND: "`pointsmanctl status`, `services` and `override list` name what there is",
        grpc.StatusCode.UNIMPLEMENTED: "the planner is older than this command",
        grpc.StatusCode.RESOURCE_EXHAUSTED: "it is asked for too much at once; try again, or ask another with --server",
        grpc.StatusCode.ABORTED: "somebody changed it meanwhile: read it again, then repeat",
    }
)


class Planner:
    """One planner's control API."""

    def __init__(self, address: str, channel: grpc.aio.Channel, timeout_seconds: float) -> None:
        """Made by `connect`; `timeout_seconds` bounds each call."""
        self.address = address
        self._timeout_seconds = timeout_seconds
        self.control: ControlServiceAsyncStub = ControlServiceStub(channel)
        self.overrides: OverrideServiceAsyncStub = OverrideServiceStub(channel)

    async def ask(self, call: Callable[..., Awaitable[M]], request: Message, *, longer_seconds: float = 0.0) -> M:
        """One answer.

        Raises:
            PlannerError: it refused, or did not answer in time.
        """
        try:
            return await call(request, timeout=self._timeout_seconds + longer_seconds)
        except grpc.aio.AioRpcError as error:
            raise refused(self.address, error) from error

    async def nodes(self, selector: pb.NodeSelector | None = None) -> list[pb.NodeStatus]:
        """Every node, or those selected, by name."""
        found: list[pb.NodeStatus] = []
        request = pb.ListNodesRequest(page_size=PAGE_SIZE, nodes=selector)
        while True:
            page = await self.ask(self.control.ListNodes, request)
            found.extend(page.nodes)
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    async def services(self, namespace: str = "", label_selector: str = "") -> list[pb.ServiceSummary]:
        """Every Service, or those selected, by name."""
        found: list[pb.ServiceSummary] = []
        request = pb.ListServicesRequest(page_size=PAGE_SIZE, namespace=namespace, label_selector=label_selector)
        while True:
            page = await self.ask(self.control.ListServices, request)
            found.extend(page.services)
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    async def node_plan(self, node: str) -> pb.GetNodePlanResponse:
        """All pages of a node's plan as one; read anew when it changed between two pages.

        Raises:
            PlannerError: also when it changes faster than it can be read.
        """
        for _ in range(_ATTEMPTS):
            whole = await self._read_plan(node)
            if whole is not None:
                return whole
        raise PlannerError(
            f"the plan of {node} changes faster than it can be read from {self.address}; try again",
            grpc.StatusCode.ABORTED,
        )

    async def _read_plan(self, node: str) -> pb.GetNodePlanResponse | None:
        whole = pb.GetNodePlanResponse()
        request = pb.GetNodePlanRequest(node_name=node, page_size=PAGE_SIZE)
        while True:
            page = await self.ask(self.control.GetNodePlan, request)
            if request.page_token and page.digest != whole.digest:
                return None
            whole.node.CopyFrom(page.node)
            whole.position.CopyFrom(page.position)
            whole.digest = page.digest
            whole.services.extend(page.services)
            request.page_token = page.next_page_token
            if not request.page_token:
                return whole


def refused(address: str, error: grpc.aio.AioRpcError) -> PlannerError:
    """What gRPC raised, in our words."""
    hint = _HINTS.get(error.code(), "")
    said = (error.details() or "no reason given").strip()
    connecting = _CONNECTING.search(said)
    if connecting:
        said = f"cannot connect: {connecting[1]}"
        hint = _TLS_HINT if _TLS.search(connecting[1]) else hint
    message = f"planner {address}: {said} ({error.code().name})"
    return PlannerError(f"{message}\n  hint: {hint}" if hint else message, error.code())


@contextlib.asynccontextmanager
async def connect(context: Context, *, timeout_seconds: float) -> AsyncIterator[Planner]:
    """The first of the context's planners that can be reached.

    Raises:
        PlannerError: none can be; says of each why not.
        UsageError: none is named, or not as HOST:PORT; TLS files are missing or unusable.
    """
    if not context.servers:
        raise UsageError("no planner is named: give --server HOST:PORT, or `servers` in the context")
    async with contextlib.AsyncExitStack() as stack:
        planners = []
        for address in context.servers:
            channel = await stack.enter_async_context(_open(address, context.security))
            planners.append(Planner(address, channel, timeout_seconds))
        # Whoever has no choice need not look first.
        yield planners[0] if len(planners) == 1 else await _first_to_answer(planners, timeout_seconds)


async def _first_to_answer(planners: Sequence[Planner], seconds: float) -> Planner:
    """The first in this order, unless it is away or hangs: each has a head start before the next one is asked too.

    Raises:
        PlannerError: none does; says of each why not.
    """
    looks: dict[asyncio.Task[PlannerError | None], Planner] = {}
    try:
        for planner in planners:
            looks[asyncio.create_task(_failure_to_reach(planner, seconds))] = planner
            is_last = len(looks) == len(planners)
            found = await _one_that_answered(looks, None if is_last else _HEAD_START_SECONDS)
            if found is not None:
                return found
    finally:
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
    failures = [failure for look in looks if (failure := look.result()) is not None]
    raise PlannerError("\n".join(map(str, failures)), failures[-1].status)


async def _one_that_answered(
    looks: Mapping[asyncio.Task[PlannerError | None], Planner], seconds: float | None
) -> Planner | None:
    """The first one, once one has; None once all have failed, or `seconds` are over."""
    ends = time.monotonic() + seconds if seconds is not None else None
    while True:
        found = next((each for look, each in looks.items() if look.done() and look.result() is None), None)
        pending = [look for look in looks if not look.done()]
        left = max(ends - time.monotonic(), 0.0) if ends is not None else None
        if found is not None or not pending or left == 0.0:
            return found
        await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)


def _open(address: str, security: TransportSecurity) -> grpc.aio.Channel:
    if not _DIALLED.fullmatch(address):
        raise UsageError(f"{address!r} names no planner: write HOST:PORT, such as 10.0.0.5:7444 or [fd00::5]:7444")
    _refuse_unusable(security)
    try:
        return open_channel(address, security=security)
    except ConfigError as error:
        flags = "--tls-cert, --tls-key and --tls-ca, or --token-file and --tls-ca, or --insecure on this machine"
        raise UsageError(f"{error}\n  hint: {flags}; or `security` in the configuration (--config)") from error


def _refuse_unusable(security: TransportSecurity) -> None:
    """PEM that cannot be used: of that gRPC would say only that there is no connection."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    what = security.ca_file
    try:
        if security.ca_file:
            tls.load_verify_locations(security.ca_file)
        if security.cert_file:
            what = f"{security.cert_file} with {security.key_file}"
            tls.load_cert_chain(security.cert_file, security.key_file, password="")
    except ssl.SSLError as error:
        hint = "a CA and a certificate are PEM files; the key is that of the certificate, PEM, without a passphrase"
        raise UsageError(f"cannot use {what}: {error.reason or error}\n  hint: {hint}") from error
    except OSError:
        pass  # what cannot be read is said by whoever opens the channel


async def _failure_to_reach(planner: Planner, seconds: float) -> PlannerError | None:
    """Why a planner cannot be asked at all; whatever it refuses to us it would refuse everywhere."""
    try:
        await planner.control.ListNodes(pb.ListNodesRequest(page_size=1), timeout=min(seconds, _PROBE_SECONDS_MAX))
    except grpc.aio.AioRpcError as error:
        return refused(planner.address, error) if error.code() in _ASK_ANOTHER else None
    return None


async def messages(address: str, call: Any) -> AsyncIterator[Any]:
    """The messages of a stream.

    Raises:
        PlannerError: it ended otherwise than in order.
    """
    try:
        async for message in call:
            yield message
    except grpc.aio.AioRpcError as error:
        raise refused(address, error) from error
