# SPDX-License-Identifier: Apache-2.0
"""Calls to a planner: the first of the configured ones that answers, and gRPC's words turned into ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
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
_ATTEMPTS: Final = 5
_CONNECTING: Final = re.compile(r"failed to connect to all addresses; last error: .*?ipv[46]:\S+: (.+)", re.DOTALL)
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
    said = f"cannot connect: {connecting[1]}" if connecting else said
    message = f"planner {address}: {said} ({error.code().name})"
    return PlannerError(f"{message}\n  hint: {hint}" if hint else message, error.code())


@contextlib.asynccontextmanager
async def connect(context: Context, *, timeout_seconds: float) -> AsyncIterator[Planner]:
    """The first of the context's planners that can be reached.

    Raises:
        PlannerError: none can be; says of each why not.
        UsageError: TLS files are missing or unusable.
    """
    async with contextlib.AsyncExitStack() as stack:
        failures: list[PlannerError] = []
        for address in context.servers:
            channel = await stack.enter_async_context(_open(address, context.security))
            planner = Planner(address, channel, timeout_seconds)
            # Whoever has no choice need not look first.
            failure = await _failure_to_reach(planner, timeout_seconds) if len(context.servers) > 1 else None
            if failure is None:
                yield planner
                return
            failures.append(failure)
        raise PlannerError("\n".join(map(str, failures)), failures[-1].status)


def _open(address: str, security: TransportSecurity) -> grpc.aio.Channel:
    try:
        return open_channel(address, security=security)
    except ConfigError as error:
        flags = "--tls-cert, --tls-key and --tls-ca, or --token-file and --tls-ca, or --insecure on this machine"
        raise UsageError(f"{error}\n  hint: {flags}; or `security` in the configuration (--config)") from error


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
