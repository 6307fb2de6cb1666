# SPDX-License-Identifier: Apache-2.0
"""OverrideService on gRPC: reads from memory, changes through the desk."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from pointsman.control.v1 import override_service_pb2 as pb
from pointsman.control.v1 import override_service_pb2_grpc as pb_grpc
from pointsman.types.v1 import types_pb2
from pointsman_chassis.errors import NotFoundError, NotInSyncError, errors_to_status
from pointsman_planner.api.override_codec import key_from_pb, override_from_pb, override_to_pb
from pointsman_planner.api.override_desk import OverrideDesk
from pointsman_planner.api.paging import fitting, page_of
from pointsman_planner.api.sight import sight_of
from pointsman_planner.core.override import Override, OverrideKey
from pointsman_planner.core.rights import Sight
from pointsman_planner.feed.override_feed import Ending

SERVICE = "pointsman.control.v1.OverrideService"
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_Context = Any
"""grpc.aio's servicer context; its class is not public."""


class OverrideService(pb_grpc.OverrideServiceServicer):
    """Serves OverrideService for one planner."""

    def __init__(self, desk: OverrideDesk) -> None:
        self._desk = desk

    async def ApplyOverride(self, request: pb.ApplyOverrideRequest, context: _Context) -> pb.ApplyOverrideResponse:  # noqa: N802 - the name in the proto
        """Create an override, or change one."""
        async with errors_to_status(context):
            self._require_in_sync()
            wish = override_from_pb(request.override)
            trace = _traceparent(context)
            done = await self._desk.apply(wish, validate_only=request.validate_only, traceparent=trace)
            return pb.ApplyOverrideResponse(override=override_to_pb(done), warnings=self._desk.advice(done))

    async def RenewOverride(self, request: pb.RenewOverrideRequest, context: _Context) -> pb.RenewOverrideResponse:  # noqa: N802 - the name in the proto
        """Make an override last for its TTL from now."""
        async with errors_to_status(context):
            self._require_in_sync()
            done = await self._desk.renew(key_from_pb(request.name), request.etag)
            return pb.RenewOverrideResponse(override=override_to_pb(done))

    async def DeleteOverride(self, request: pb.DeleteOverrideRequest, context: _Context) -> pb.DeleteOverrideResponse:  # noqa: N802 - the name in the proto
        """End an override."""
        async with errors_to_status(context):
            self._require_in_sync()
            key = key_from_pb(request.name)
            await self._desk.delete(key, request.etag, validate_only=request.validate_only)
            return pb.DeleteOverrideResponse()

    async def GetOverride(self, request: pb.GetOverrideRequest, context: _Context) -> pb.GetOverrideResponse:  # noqa: N802 - the name in the proto
        """One override, and what it does now."""
        async with errors_to_status(context):
            self._require_in_sync()
            key = key_from_pb(request.name)
            held = self._desk.feed.held.get(key)
            if held is None:
                raise NotFoundError(f"there is no override {key}")
            advice = self._desk.advice(held.override)
            return pb.GetOverrideResponse(override=override_to_pb(held.override), warnings=advice)

    async def ListOverrides(self, request: pb.ListOverridesRequest, context: _Context) -> pb.ListOverridesResponse:  # noqa: N802 - the name in the proto
        """Overrides, by name."""
        async with errors_to_status(context):
            self._require_in_sync()
            held = self._desk.feed.held
            keys = sorted(key for key, each in held.items() if _is_wanted(each.override, request, sight_of(context)))
            page = page_of(keys, request.page_size, request.page_token)
            found, token = fitting(page, (override_to_pb(held[OverrideKey(*key)].override) for key in page.keys))
            return pb.ListOverridesResponse(overrides=found, next_page_token=token)

    async def WatchOverrides(  # noqa: N802 - the name in the proto
        self, request: pb.WatchOverridesRequest, context: _Context
    ) -> AsyncIterator[pb.WatchOverridesResponse]:
        """Overrides, and every change of them."""
        async with errors_to_status(context):
            self._require_in_sync()
            async for message in self._watched(request, sight_of(context)):
                yield message

    async def _watched(
        self, request: pb.WatchOverridesRequest, sight: Sight
    ) -> AsyncIterator[pb.WatchOverridesResponse]:
        with self._desk.feed.subscribe() as subscription:
            present = [each.override for _, each in sorted(self._desk.feed.held.items())]
            for override in present:
                if _is_wanted(override, request, sight):
                    yield pb.WatchOverridesResponse(applied=override_to_pb(override))
            yield pb.WatchOverridesResponse(synced=pb.OverridesSynced())
            while True:
                for override, ending in await subscription.take():
                    if _is_wanted(override, request, sight):
                        yield _change_to_pb(override, ending)

    def _require_in_sync(self) -> None:
        if not self._desk.planner.is_in_sync:
            raise NotInSyncError("the planner has not seen the whole cluster yet; try again in a moment")


def _change_to_pb(override: Override, ending: Ending | None) -> pb.WatchOverridesResponse:
    message = override_to_pb(override)
    if ending is None:
        return pb.WatchOverridesResponse(applied=message)
    return pb.WatchOverridesResponse(removed=pb.RemovedOverride(override=message, reason=_REASONS[ending]))


_REASONS = {
    Ending.DELETED: pb.RemovedOverride.REASON_DELETED,
    Ending.EXPIRED: pb.RemovedOverride.REASON_EXPIRED,
    Ending.LOST: pb.RemovedOverride.REASON_LOST,
}


def _is_wanted(override: Override, request: pb.ListOverridesRequest | pb.WatchOverridesRequest, sight: Sight) -> bool:
    if not sight.sees(override.key.namespace):
        return False
    if request.owner and override.owner != request.owner:
        return False
    service: types_pb2.NamespacedName = request.service
    if not request.HasField("service"):
        return True
    return override.key.namespace == service.namespace and service.name in {"", override.service_name}


def _traceparent(context: _Context) -> str:
    """The caller's W3C trace, so that a change by a controller is one trace from its call to each kernel."""
    for name, value in context.invocation_metadata() or ():
        if name == "traceparent" and isinstance(value, str) and _TRACEPARENT.fullmatch(value):
            return value
    return ""
