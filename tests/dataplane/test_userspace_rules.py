# SPDX-License-Identifier: Apache-2.0
"""Rules and listeners of userspace mode together: who may go where, refusals, and the way from and to other modes.

Each is tried with rules of nftables mode and of both variants of iptables mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pointsman_enforcer.dataplane.base import Dataplane, KernelError
from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.userspace.backend import UserspaceDataplane
from pointsman_enforcer.dataplane.userspace.target import parse_listener
from pointsman_enforcer.dataplane.xtables.tools import Variant
from pointsman_model.names import parse_address, parse_prefix
from pointsman_model.plan import NodeFacts, ServicePlan
from support.enforcer_plans import cluster_ip, endpoints
from support.userspace_world import DEADLINE_SECONDS, NamingServer, ProxyWorld

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
NODE, VIP, PORT, SERVER = "10.9.0.1", "172.30.0.41", 80, "10.9.0.2"
FACTS = NodeFacts(name="node", addresses=(parse_address(NODE),))
SETTINGS = NodeSettings(cluster_cidrs=(parse_prefix("10.8.0.0/16"),))
PLAN = ServicePlan(ports=(cluster_ip(VIP, PORT, endpoints(SERVER)),))


@pytest.fixture
def world() -> Iterator[ProxyWorld]:
    with ProxyWorld() as made:
        made.namespace.address("void", f"{SERVER}/32")
        made.namespace.route("172.30.0.0/16", "dev", "void")
        with NamingServer(made, SERVER):
            yield made


Open = Callable[[], Dataplane[Any]]


def by(variant: Variant | None) -> Open:
    """Opens userspace mode with rules of iptables mode, or of nftables mode."""
    return lambda: UserspaceDataplane(node_settings=SETTINGS, variant=variant)


def direct(variant: Variant | None) -> Open:
    """Opens the mode whose rules these are."""
    if variant is None:
        return lambda: NftablesDataplane(node_settings=SETTINGS)
    return lambda: IptablesDataplane(node_settings=SETTINGS, variant=variant)


VARIANTS = pytest.mark.parametrize("variant", [None, *Variant], ids=["nftables", *(each.value for each in Variant)])


def started(world: ProxyWorld, opens: Open) -> Any:
    """A dataplane that has read the kernel and may be given plans."""
    made = world.namespace.call(opens)
    made.configure(FACTS)

    async def start() -> None:
        await made.observe()
        await made.prepare()

    asyncio.run(start())
    return made


def program(dataplane: Any, plan: ServicePlan = PLAN) -> bytes:
    """Bring the plan into the kernel, and remove what nobody asks for; the rendering."""

    async def apply() -> bytes:
        claimed = dataplane.claim(plan, b"")
        rendering: bytes = dataplane.render(plan, claimed)
        await dataplane.apply(dataplane.diff(claimed, rendering))
        for change in dataplane.leftover():
            await dataplane.apply(change)
        return rendering

    return asyncio.run(apply())


def asked(world: ProxyWorld, address: str = VIP, port: int = PORT, *, source: str = "") -> str:
    with world.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(DEADLINE_SECONDS)
        if source:
            client.bind((source, 0))
        client.connect((address, port))
        return client.makefile("rb", buffering=0).readline().decode().strip()


def rules(world: ProxyWorld, variant: Variant | None) -> str:
    """What the kernel has."""
    if variant is None:
        return world.namespace.ruleset()
    return world.namespace.run(f"iptables-{variant.value}-save") + world.namespace.run("ipset", "save")


@VARIANTS
def test_a_listener_is_reached_through_its_frontend_and_not_directly(
    world: ProxyWorld, variant: Variant | None
) -> None:
    with contextlib.closing(started(world, by(variant))) as dataplane:
        program(dataplane)
        assert asked(world) == SERVER
        assert dataplane.proxy.counters.accepted == 1
        (listener,) = map(parse_listener, dataplane.proxy.served())
        with pytest.raises(ConnectionRefusedError):
            asked(world, NODE, listener.port)


@VARIANTS
def test_what_the_kernel_refuses_the_proxy_does_not_serve(
    world: ProxyWorld, variant: Variant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(started(world, by(variant))) as dataplane:

        async def refuse(_change: object) -> None:
            raise KernelError("refused on purpose")

        monkeypatch.setattr(dataplane._rules, "apply", refuse)
        with pytest.raises(KernelError, match="on purpose"):
            program(dataplane)
        assert dataplane.proxy.served() == {}
        monkeypatch.undo()
        program(dataplane)
        assert asked(world) == SERVER


@VARIANTS
def test_services_change_over_from_the_mode_of_the_rules_and_back(world: ProxyWorld, variant: Variant | None) -> None:
    with contextlib.closing(started(world, direct(variant))) as other:
        program(other)
        assert asked(world) == SERVER
    with contextlib.closing(started(world, by(variant))) as userspace:
        assert asked(world) == SERVER
        program(userspace)
        assert asked(world) == SERVER
        assert userspace.proxy.counters.accepted == 1
        with contextlib.closing(started(world, direct(variant))) as other:
            program(other)
            assert asked(world) == SERVER
        assert userspace.proxy.counters.accepted == 1


@VARIANTS
def test_a_new_process_listens_elsewhere_than_old_rules_lead(world: ProxyWorld, variant: Variant | None) -> None:
    with contextlib.closing(started(world, by(variant))) as old:
        program(old)
        before = set(old.proxy.served())
    with contextlib.closing(started(world, by(variant))) as new:
        program(new)
        assert asked(world) == SERVER
        assert before.isdisjoint(new.proxy.served())


@VARIANTS
def test_observing_again_keeps_what_is_served_and_takes_what_nobody_asks_for(
    world: ProxyWorld, variant: Variant | None
) -> None:
    with contextlib.closing(started(world, by(variant))) as dataplane:
        rendering = program(dataplane)
        asyncio.run(dataplane.observe())
        assert program(dataplane) == rendering
        assert asked(world) == SERVER
        asyncio.run(dataplane.observe())
        program(dataplane, ServicePlan())
        assert dataplane.proxy.served() == {}
        assert VIP not in rules(world, variant)


@VARIANTS
def test_cleanup_leaves_neither_tables_nor_listeners(world: ProxyWorld, variant: Variant | None) -> None:
    with contextlib.closing(started(world, by(variant))) as dataplane:
        program(dataplane)
        asyncio.run(dataplane.cleanup())
        assert "ointsman" not in rules(world, variant).lower()
        assert dataplane.proxy.served() == {}


@VARIANTS
def test_each_address_of_this_host_is_a_client_of_its_own(world: ProxyWorld, variant: Variant | None) -> None:
    other = "10.9.0.3"
    world.namespace.address("void", f"{other}/32")
    plan = replace(PLAN, ports=(cluster_ip(VIP, PORT, endpoints(SERVER, other)),), affinity_timeout_seconds=60)
    picks = {}
    with NamingServer(world, other), contextlib.closing(started(world, by(variant))) as dataplane:
        program(dataplane, plan)
        for source in (NODE, SERVER, other):
            picks[source] = asked(world, source=source)
            assert asked(world, source=source) == picks[source]
        (memory,) = dataplane.proxy.memories.values()
        assert {client for client, _ in memory.clients()} == {parse_address(source) for source in picks}


@VARIANTS
def test_while_no_process_is_there_clients_are_refused_at_once(world: ProxyWorld, variant: Variant | None) -> None:
    with contextlib.closing(started(world, by(variant))) as dataplane:
        program(dataplane)
        assert asked(world) == SERVER
    with pytest.raises(ConnectionRefusedError):
        asked(world)
    with contextlib.closing(started(world, by(variant))) as dataplane:
        with pytest.raises(ConnectionRefusedError):
            asked(world)
        program(dataplane)
        assert asked(world) == SERVER
