# SPDX-License-Identifier: Apache-2.0
"""A planner's control API with one Service and three nodes, which writes down every call and fails when told to.

The Service `kit/web` has pods web-stable-1 to web-stable-3 and web-canary-1. Every wait finds all nodes converged after
a moment, unless a fault says otherwise. Calls that no rule is about answer UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import grpc
import grpc.aio

from pointsman.control.v1 import control_service_pb2 as control
from pointsman.control.v1 import control_service_pb2_grpc as control_grpc
from pointsman.control.v1 import override_service_pb2 as pb
from pointsman.control.v1 import override_service_pb2_grpc as pb_grpc
from pointsman.types.v1 import types_pb2

FAULTS = ("unavailable", "conflict", "lagging", "expired")
_CONVERGES_SECONDS = 0.1
_STABLE, _CANARY = 3, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, as it ended."""

    method: str
    request: Any
    code: grpc.StatusCode
    is_converged: bool = False
    has_deadline_for_answer: bool = True
    """Of WaitConverged: the call lives longer than the wait."""
    at: float = field(default_factory=time.monotonic)


class ControlApi(control_grpc.ControlServiceServicer, pb_grpc.OverrideServiceServicer):
    """Both services."""

    def __init__(self, faults: Iterable[str]) -> None:
        self._faults = set(faults)
        self._held: dict[tuple[str, str], pb.Override] = {}
        self.calls: list[Call] = []

    # -- ControlService ----------------------------------------------------------------------------------------------

    async def GetService(self, request: control.GetServiceRequest, context: Any) -> control.GetServiceResponse:  # noqa: N802 - the name in the proto
        """The Service, whichever was asked for."""
        await self._done("GetService", request, context)
        answer = control.GetServiceResponse()
        answer.summary.service.name.CopyFrom(request.name)
        one = answer.endpoint_slices.add(service_name=request.name.name)
        one.name.CopyFrom(types_pb2.NamespacedName(namespace=request.name.namespace, name=f"{request.name.name}-kit"))
        one.ports.add(name="http", protocol=types_pb2.PROTOCOL_TCP, port=8080)
        names = [f"web-stable-{n + 1}" for n in range(_STABLE)] + [f"web-canary-{n + 1}" for n in range(_CANARY)]
        for number, name in enumerate(names, start=1):
            each = one.endpoints.add(address=bytes((198, 19, 0, number)), ready=True, serving=True)
            each.target.kind = "Pod"
            each.target.name.CopyFrom(types_pb2.NamespacedName(namespace=request.name.namespace, name=name))
        return answer

    async def WaitConverged(self, request: control.WaitConvergedRequest, context: Any) -> control.WaitConvergedResponse:  # noqa: N802 - the name in the proto
        """All nodes converge after a moment; with the fault `lagging`, one does not at first."""
        await asyncio.sleep(_CONVERGES_SECONDS)
        is_lagging = self._take("lagging")
        left = context.time_remaining()
        wait = request.timeout.ToSeconds() if request.HasField("timeout") else 30
        self.calls.append(
            Call(
                method="WaitConverged",
                request=request,
                code=grpc.StatusCode.OK,
                is_converged=not is_lagging,
                has_deadline_for_answer=left is None or left + _CONVERGES_SECONDS + 0.5 >= wait,
            )
        )
        answer = control.WaitConvergedResponse(converged=not is_lagging, nodes=3, needed=3, reached=3 - is_lagging)
        if is_lagging:
            answer.laggards.add(name="node-3", state=control.NodeStatus.STATE_STALE, reason="its enforcer is frozen")
        return answer

    # -- OverrideService ---------------------------------------------------------------------------------------------

    async def ApplyOverride(self, request: pb.ApplyOverrideRequest, context: Any) -> pb.ApplyOverrideResponse:  # noqa: N802 - the name in the proto
        """Create or change one."""
        wish = request.override
        key = (wish.name.namespace, wish.name.name)
        present = self._held.get(key)
        if present is not None and self._take("conflict"):
            present.spec.reason = "somebody else was here"
            present.etag = _etag(present)
        if not wish.owner or not wish.spec.WhichOneof("kind"):
            await self._fail("ApplyOverride", request, context, grpc.StatusCode.INVALID_ARGUMENT, "owner, spec")
        if self._take("unavailable"):
            await self._fail("ApplyOverride", request, context, grpc.StatusCode.UNAVAILABLE, "the store is away")
        made = pb.Override()
        made.CopyFrom(wish)
        made.etag = _etag(wish)
        known = present.etag if present is not None else ""
        if wish.etag != known and not (made.etag == known and not wish.etag):
            await self._fail("ApplyOverride", request, context, grpc.StatusCode.ABORTED, f"the etag is {known!r}")
        if not request.validate_only:
            self._held[key] = made
        await self._done("ApplyOverride", request, context)
        return pb.ApplyOverrideResponse(override=made)

    async def RenewOverride(self, request: pb.RenewOverrideRequest, context: Any) -> pb.RenewOverrideResponse:  # noqa: N802 - the name in the proto
        """Renew one; with the fault `expired`, it is too late once."""
        key = (request.name.namespace, request.name.name)
        if self._take("expired"):
            self._held.pop(key, None)
        if key not in self._held:
            await self._fail("RenewOverride", request, context, grpc.StatusCode.NOT_FOUND, "it expired")
        await self._done("RenewOverride", request, context)
        return pb.RenewOverrideResponse(override=self._held[key])

    async def DeleteOverride(self, request: pb.DeleteOverrideRequest, context: Any) -> pb.DeleteOverrideResponse:  # noqa: N802 - the name in the proto
        """Delete one."""
        key = (request.name.namespace, request.name.name)
        if key not in self._held:
            await self._fail("DeleteOverride", request, context, grpc.StatusCode.NOT_FOUND, "there is none")
        if request.etag != self._held[key].etag:
            await self._fail("DeleteOverride", request, context, grpc.StatusCode.ABORTED, "read it first")
        if not request.validate_only:
            del self._held[key]
        await self._done("DeleteOverride", request, context)
        return pb.DeleteOverrideResponse()

    async def GetOverride(self, request: pb.GetOverrideRequest, context: Any) -> pb.GetOverrideResponse:  # noqa: N802 - the name in the proto
        """Read one."""
        found = self._held.get((request.name.namespace, request.name.name))
        if found is None:
            await self._fail("GetOverride", request, context, grpc.StatusCode.NOT_FOUND, "there is none")
        await self._done("GetOverride", request, context)
        return pb.GetOverrideResponse(override=found)

    async def ListOverrides(self, request: pb.ListOverridesRequest, context: Any) -> pb.ListOverridesResponse:  # noqa: N802 - the name in the proto
        """Read all."""
        await self._done("ListOverrides", request, context)
        return pb.ListOverridesResponse(overrides=[self._held[key] for key in sorted(self._held)])

    # -- the book ----------------------------------------------------------------------------------------------------

    def _take(self, fault: str) -> bool:
        """Whether a fault is due; each is, once."""
        is_due = fault in self._faults
        self._faults.discard(fault)
        return is_due

    async def _done(self, method: str, request: Any, _context: Any) -> None:
        self.calls.append(Call(method=method, request=request, code=grpc.StatusCode.OK))

    async def _fail(self, method: str, request: Any, context: Any, code: grpc.StatusCode, text: str) -> None:
        self.calls.append(Call(method=method, request=request, code=code))
        await context.abort(code, f"contract kit: {text}")


def _etag(override: pb.Override) -> str:
    data = override.spec.SerializeToString(deterministic=True) + override.owner.encode()
    return blake2b(data, digest_size=8).hexdigest()


@asynccontextmanager
async def serving(api: ControlApi, address: str) -> AsyncIterator[str]:
    """Serve it in plaintext; gives the address."""
    server = grpc.aio.server()
    control_grpc.add_ControlServiceServicer_to_server(api, server)
    pb_grpc.add_OverrideServiceServicer_to_server(api, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"{address.rpartition(':')[0]}:{port}"
    finally:
        await server.stop(0)
