# SPDX-License-Identifier: Apache-2.0
"""Rules and listeners of userspace mode together: who may go where, refusals, and the way from and to nftables mode."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pointsman_enforcer.dataplane.base import Dataplane, KernelError
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.userspace.backend import UserspaceDataplane
from pointsman_enforcer.dataplane.userspace.target import parse_listener
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


def started(world: ProxyWorld, kind: type[NftablesDataplane | UserspaceDataplane]) -> Any:
    """A dataplane that has read the kernel and may be given plans."""
    made: Dataplane[Any] = world.namespace.call(lambda: kind(node_settings=SETTINGS))
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


def asked(world: ProxyWorld, address: str = VIP, port: int = PORT) -> str:
    with world.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(DEADLINE_SECONDS)
        client.connect((address, port))
        return client.makefile("rb", buffering=0).readline().decode().strip()


def test_a_listener_is_reached_through_its_frontend_and_not_directly(world: ProxyWorld) -> None:
    with contextlib.closing(started(world, UserspaceDataplane)) as dataplane:
        program(dataplane)
        assert asked(world) == SERVER
        assert dataplane.proxy.counters.accepted == 1
        (listener,) = map(parse_listener, dataplane.proxy.served())
        with pytest.raises(ConnectionRefusedError):
            asked(world, NODE, listener.port)


def test_what_the_kernel_refuses_the_proxy_does_not_serve(world: ProxyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(started(world, UserspaceDataplane)) as dataplane:

        async def refuse(_change: object) -> None:
            raise KernelError("refused on purpose")

        monkeypatch.setattr(dataplane._rules, "apply", refuse)
        with pytest.raises(KernelError, match="on purpose"):
            program(dataplane)
        assert dataplane.proxy.served() == {}
        monkeypatch.undo()
        program(dataplane)
        assert asked(world) == SERVER


def test_services_change_over_from_nftables_mode_and_back_in_the_same_tables(world: ProxyWorld) -> None:
    with contextlib.closing(started(world, NftablesDataplane)) as nftables:
        program(nftables)
        assert asked(world) == SERVER
    with contextlib.closing(started(world, UserspaceDataplane)) as userspace:
        assert asked(world) == SERVER
        program(userspace)
        assert asked(world) == SERVER
        assert userspace.proxy.counters.accepted == 1
        with contextlib.closing(started(world, NftablesDataplane)) as nftables:
            program(nftables)
            assert asked(world) == SERVER
        assert userspace.proxy.counters.accepted == 1


def test_a_new_process_listens_elsewhere_than_old_rules_lead(world: ProxyWorld) -> None:
    with contextlib.closing(started(world, UserspaceDataplane)) as old:
        program(old)
        before = set(old.proxy.served())
    with contextlib.closing(started(world, UserspaceDataplane)) as new:
        program(new)
        assert asked(world) == SERVER
        assert before.isdisjoint(new.proxy.served())


def test_observing_again_keeps_what_is_served_and_takes_what_nobody_asks_for(world: ProxyWorld) -> None:
    with contextlib.closing(started(world, UserspaceDataplane)) as dataplane:
        rendering = program(dataplane)
        asyncio.run(dataplane.observe())
        assert program(dataplane) == rendering
        assert asked(world) == SERVER
        asyncio.run(dataplane.observe())
        program(dataplane, ServicePlan())
        assert dataplane.proxy.served() == {}
        assert VIP not in world.namespace.ruleset()


def test_cleanup_leaves_neither_tables_nor_listeners(world: ProxyWorld) -> None:
    with contextlib.closing(started(world, UserspaceDataplane)) as dataplane:
        program(dataplane)
        asyncio.run(dataplane.cleanup())
        assert world.namespace.ruleset() == ""
        assert dataplane.proxy.served() == {}
