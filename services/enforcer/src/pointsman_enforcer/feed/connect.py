# SPDX-License-Identifier: Apache-2.0
"""Puts a PlanStream together. Imported only when there is time for gRPC: it costs as much as programming a plan."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from os import uname
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

import grpc.aio

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.channel import open_channel
from pointsman_chassis.clock import Clock
from pointsman_enforcer.core.conditions import ServiceConditions
from pointsman_enforcer.core.dialing import Dialer
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.planner_directory import PlannerDirectory, PlannerMemory
from pointsman_enforcer.dataplane import exec  # noqa: A004 - the door is named after what passes it
from pointsman_enforcer.dataplane.base import Dataplane, ProxyMode
from pointsman_enforcer.disk.planner_file import save_planners
from pointsman_enforcer.feed.known_planners import names_to_resolve
from pointsman_enforcer.feed.plan_stream import PlanStream, StreamEvents
from pointsman_enforcer.feed.planner_lookup import PlannerFinder
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.wire.plan import settings_to_pb

__all__ = ["StreamEvents", "make_hello", "make_stream"]

_MODES: Final = {
    ProxyMode.NFTABLES: pb.PROXY_MODE_NFTABLES,
    ProxyMode.IPTABLES: pb.PROXY_MODE_IPTABLES,
    ProxyMode.IPVS: pb.PROXY_MODE_IPVS,
    ProxyMode.USERSPACE: pb.PROXY_MODE_USERSPACE,
}
_XTABLES: Final = ("iptables", "ipset")
_TOOLS: Final = {
    ProxyMode.NFTABLES: ("nft",),
    ProxyMode.IPTABLES: _XTABLES,
    ProxyMode.IPVS: (*_XTABLES, "ipvsadm"),
    ProxyMode.USERSPACE: ("nft", *_XTABLES),
}
"""What people may want to know of the host, by mode."""


async def make_stream(
    *,
    config: EnforcerConfiguration,
    directory: PlannerDirectory,
    node: str,
    instance: str,
    dataplane: Dataplane[Any],
    store: PlanStore,
    conditions: ServiceConditions,
    events: StreamEvents,
    clock: Clock,
) -> PlanStream:
    """The stream of this node to the planners of a directory, see `planner_directory`."""
    tools = {name: await asyncio.to_thread(_tool_version, name) for name in _TOOLS[dataplane.mode]}
    host = {"kernel": uname().release, **tools}

    def channel(address: str) -> grpc.aio.Channel:
        return open_channel(address, security=config.security)

    async def remember(memory: PlannerMemory) -> None:
        await asyncio.to_thread(save_planners, Path(config.state_directory), memory)

    finder = PlannerFinder(names=names_to_resolve(config), lookup=config.planner_lookup)
    return PlanStream(
        dialer=Dialer(directory, random=SystemRandom()),
        open_channel=channel,
        make_hello=make_hello(node=node, instance=instance, dataplane=dataplane, host=host),
        look_up=finder.look_up,
        remember=remember,
        store=store,
        conditions=conditions,
        events=events,
        clock=clock,
    )


def make_hello(
    *, node: str, instance: str, dataplane: Dataplane[Any], host: dict[str, str]
) -> Callable[[Sequence[str]], pb.Hello]:
    """A function that says who we are, and whom we cannot reach; the settings in effect may change with the facts."""

    def hello(unreachable: Sequence[str]) -> pb.Hello:
        return pb.Hello(
            node_name=node,
            instance_id=instance,
            version=program_version(),
            mode=_MODES[dataplane.mode],
            capabilities=sorted(dataplane.capabilities),
            settings=settings_to_pb(dataplane.settings),
            host=host,
            unreachable_planners=unreachable,
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
