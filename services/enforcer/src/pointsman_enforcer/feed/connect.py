# SPDX-License-Identifier: Apache-2.0
"""Puts a PlanStream together. Imported only when there is time for gRPC: it costs as much as programming a plan."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from os import uname
from typing import Any, Final

import grpc.aio

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.channel import open_channel
from pointsman_chassis.clock import Clock
from pointsman_enforcer.core.conditions import ServiceConditions
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.dataplane import exec  # noqa: A004 - the door is named after what passes it
from pointsman_enforcer.dataplane.base import Dataplane, ProxyMode
from pointsman_enforcer.feed.plan_stream import PlanStream, StreamEvents, dial_order
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.wire.plan import settings_to_pb

__all__ = ["StreamEvents", "make_hello", "make_stream"]

_MODES: Final = {
    ProxyMode.NFTABLES: pb.PROXY_MODE_NFTABLES,
    ProxyMode.IPTABLES: pb.PROXY_MODE_IPTABLES,
    ProxyMode.IPVS: pb.PROXY_MODE_IPVS,
    ProxyMode.USERSPACE: pb.PROXY_MODE_USERSPACE,
}


async def make_stream(
    *,
    config: EnforcerConfiguration,
    node: str,
    instance: str,
    dataplane: Dataplane[Any],
    store: PlanStore,
    conditions: ServiceConditions,
    events: StreamEvents,
    clock: Clock,
) -> PlanStream:
    """The stream of this node to the configured planners."""
    host = {"kernel": uname().release, "nft": await asyncio.to_thread(_tool_version, "nft")}

    def channel(address: str) -> grpc.aio.Channel:
        return open_channel(address, security=config.security)

    return PlanStream(
        addresses=dial_order(config.planner_addresses, node),
        open_channel=channel,
        make_hello=make_hello(node=node, instance=instance, dataplane=dataplane, host=host),
        store=store,
        conditions=conditions,
        events=events,
        clock=clock,
    )


def make_hello(*, node: str, instance: str, dataplane: Dataplane[Any], host: dict[str, str]) -> Callable[[], pb.Hello]:
    """A function that says who we are; the settings in effect may change with the node's facts."""

    def hello() -> pb.Hello:
        return pb.Hello(
            node_name=node,
            instance_id=instance,
            version=program_version(),
            mode=_MODES[dataplane.mode],
            capabilities=sorted(dataplane.capabilities),
            settings=settings_to_pb(dataplane.settings),
            host=host,
        )

    return hello


def program_version() -> str:
    """Version of this distribution."""
    try:
        return version("pointsman-enforcer")
    except PackageNotFoundError:
        return "unknown"


def _tool_version(name: str) -> str:
    """What a tool says it is; the enforcer does not need it, people do."""
    path = exec.find(name)
    if path is None:
        return ""
    try:
        return exec.run([path, "--version"]).strip().partition("\n")[0]
    except exec.CommandError:
        return ""
