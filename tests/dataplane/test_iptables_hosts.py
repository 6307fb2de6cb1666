# SPDX-License-Identifier: Apache-2.0
"""iptables mode on hosts as they are: a lock that others hold, no IPv6, either tool, other modes before and after."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pointsman_chassis.errors import UnsupportedError
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.dataplane.base import KernelError
from pointsman_enforcer.dataplane.iptables import rounds
from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane
from pointsman_enforcer.dataplane.iptables.counts import INVALID_DROPPED, LOCALHOST_ACCEPTED
from pointsman_enforcer.dataplane.nftables.message import Family as NftFamily
from pointsman_enforcer.dataplane.node_settings import EVERYWHERE, NodeSettings
from pointsman_enforcer.dataplane.xtables import families, tools
from pointsman_enforcer.dataplane.xtables.tools import Variant, detect
from pointsman_model.names import Family
from support.affinity_world import NODE_PORT
from support.enforcer_plans import FACTS, load_balancer, numbered
from support.iptables_affinity_world import IptablesAffinityWorld
from support.netns import NetNs
from support.nft_world import ECHO_PORT
from support.traffic import answered

pytestmark = pytest.mark.root
PATIENCE_SECONDS = 20.0
PROGRAMS = ("iptables-{}", "iptables-{}-save", "iptables-{}-restore")


@pytest.fixture
def node() -> Iterator[NetNs]:
    with NetNs("hosts") as made:
        yield made


@pytest.fixture(params=list(Variant), ids=[variant.value for variant in Variant])
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.param
    return found


def opened(node: NetNs, variant: Variant) -> IptablesDataplane:
    return node.call(partial(IptablesDataplane, node_settings=NodeSettings(), variant=variant))


async def started(dataplane: IptablesDataplane) -> None:
    dataplane.configure(FACTS)
    await dataplane.observe()
    await dataplane.prepare()


@contextlib.contextmanager
def lock_held(path: Path) -> Iterator[int]:
    """The lock that every user of legacy iptables takes; not the machine's own, which others need."""
    held = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield held
    finally:
        os.close(held)


def test_a_change_waits_for_whoever_holds_the_lock(
    node: NetNs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    dataplane = opened(node, Variant.LEGACY)

    async def main() -> None:
        await started(dataplane)
        with lock_held(tmp_path / "lock") as held:
            change = dataplane.diff(b"", dataplane.render(numbered(1), b""))
            applying = asyncio.create_task(dataplane.apply(change))
            done, _ = await asyncio.wait([applying], timeout=0.5)
            assert not done, "somebody else is writing"
            fcntl.flock(held, fcntl.LOCK_UN)
            await asyncio.wait_for(applying, PATIENCE_SECONDS)
        dataplane.close()

    asyncio.run(main())
    assert "10.0.1.1:8080" in node.run("iptables-legacy-save", "-t", "nat")


def test_a_lock_that_is_not_let_go_refuses_the_change_and_leaves_nothing_of_it(
    node: NetNs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    monkeypatch.setattr(tools, "LOCK_SECONDS", 1)
    dataplane = opened(node, Variant.LEGACY)

    async def main() -> None:
        await started(dataplane)
        change = dataplane.diff(b"", dataplane.render(numbered(1), b""))
        with lock_held(tmp_path / "lock"), pytest.raises(KernelError, match="xtables lock") as caught:
            await dataplane.apply(change)
        assert caught.value.outcome_known
        assert "172.30.0.1" not in node.run("ipset", "save", "pointsman-vips4")
        await dataplane.apply(change)
        dataplane.close()

    asyncio.run(main())
    assert "10.0.1.1:8080" in node.run("iptables-legacy-save", "-t", "nat")


def only_these(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    """A host on which no other programs are installed."""
    for name in (*names, "ipset"):
        (folder / name).symlink_to(Path(shutil.which(name) or name))
    monkeypatch.setattr(tools.exec, "find", lambda name: shutil.which(name, path=str(folder)))


def ipv4_is_served_alone(node: NetNs, variant: Variant) -> None:
    dataplane = opened(node, variant)

    async def main() -> None:
        await started(dataplane)
        plan = load_balancer()
        rendering = dataplane.render(plan, b"")
        await dataplane.apply(dataplane.diff(b"", rendering))
        read_back = dataplane.read_back
        dataplane.watch(lambda: None)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := read_back(rendering, 0, 1000)) is None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert (found.reads > 0, found.differing) == (True, 0)
        node.run(f"iptables-{variant.value}", "-t", "nat", "-F")
        assert (await dataplane.mend([rendering], may_remove=True)).objects > 0
        assert "10.1.0.1:8080" in node.run(f"iptables-{variant.value}-save", "-t", "nat")
        assert "POINTSMAN" not in node.run(f"ip6tables-{variant.value}-save")
        assert "6 " not in node.run("ipset", "list", "-name")
        await dataplane.cleanup()
        dataplane.close()

    asyncio.run(main())
    assert "POINTSMAN" not in node.run(f"iptables-{variant.value}-save")


def test_a_host_without_the_tools_of_ipv6_is_served_with_ipv4(
    node: NetNs, variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only_these(monkeypatch, tmp_path, *(name.format(variant.value) for name in PROGRAMS))
    ipv4_is_served_alone(node, variant)
    assert f"ip6tables-{variant.value}-restore is not installed" in capsys.readouterr().out


def test_a_kernel_without_ipv6_is_served_with_ipv4(
    node: NetNs, variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(families, "_KERNEL_HAS_IPV6", tmp_path / "if_inet6")
    ipv4_is_served_alone(node, variant)
    assert "this kernel has no IPv6" in capsys.readouterr().out


def test_the_only_variant_that_is_installed_is_the_one(
    node: NetNs, variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_these(monkeypatch, tmp_path, *(name.format(variant.value) for name in PROGRAMS))
    assert node.call(detect) is variant


def test_a_host_without_either_is_told_so(node: NetNs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_these(monkeypatch, tmp_path)
    with pytest.raises(UnsupportedError, match="iptables-legacy-restore"):
        node.call(detect)


def test_a_host_without_rules_uses_what_its_iptables_is(node: NetNs) -> None:
    said = node.run("iptables", "--version")
    assert node.call(detect) is (Variant.LEGACY if "legacy" in said else Variant.NFT)


@pytest.fixture
def world(variant: Variant) -> Iterator[IptablesAffinityWorld]:
    with IptablesAffinityWorld(variant, NftFamily.IPV4, node_port_addresses=(EVERYWHERE[Family.IPV4],)) as made:
        yield made


def test_packets_that_are_dropped_and_local_node_ports_are_counted(
    world: IptablesAffinityWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PERIOD_SECONDS", 0.1)
    monkeypatch.setattr(rounds, "REST_PER_WORK", 1.0)
    world.program()
    registry = Registry(process=False)
    world.dataplane.measure(registry)
    for _ in range(3):
        answered(world.world.node, "127.0.0.1", NODE_PORT)
    answered(world.world.node, world.at.node, NODE_PORT)
    for port in (4001, 4002):
        send_answer_to_nobody(world, port)

    async def counted() -> None:
        world.dataplane.watch(lambda: None)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while world.dataplane._rounds.count < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    asyncio.run(counted())
    assert registry.value(LOCALHOST_ACCEPTED) == 3
    assert registry.value(INVALID_DROPPED) == 2


def send_answer_to_nobody(world: IptablesAffinityWorld, port: int) -> None:
    """A SYN-ACK that nobody asked for, from the client to a pod."""
    source, destination = (socket.inet_aton(each) for each in (world.at.client, world.at.pod1))
    segment = struct.pack(">HHIIBBHHH", port, ECHO_PORT, 1, 1, 5 << 4, 0x12, 1024, 0, 0)
    total = sum(struct.unpack(">16H", source + destination + struct.pack(">HH", 6, len(segment)) + segment))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    segment = segment[:16] + struct.pack(">H", ~total & 0xFFFF) + segment[18:]
    with world.world.client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as sender:
        sender.sendto(segment, (world.at.pod1, 0))


def test_translated_connections_outlive_the_rules_that_made_them_and_their_return(
    world: IptablesAffinityWorld,
) -> None:
    """Leaving the mode, and entering it again, while a connection through a cluster IP never rests.

    The kernel tracks connections as long as anybody has a rule that asks for it: here, a firewall.
    """
    tool = f"iptables-{world.variant.value}"
    world.world.node.run(tool, "-A", "FORWARD", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
    world.program()
    stop, exchanges, errors = threading.Event(), [0], list[Exception]()

    def talk() -> None:
        try:
            with world.talking(world.client(1)) as exchange:
                while not stop.is_set():
                    exchange()
                    exchanges[0] += 1
        except OSError as error:
            errors.append(error)

    def advanced() -> None:
        seen, deadline = exchanges[0], time.monotonic() + PATIENCE_SECONDS
        while exchanges[0] <= seen + 5:
            assert not errors
            assert time.monotonic() < deadline
            time.sleep(0.01)

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        advanced()
        asyncio.run(world.dataplane.cleanup())
        assert "POINTSMAN" not in world.world.node.run(f"{tool}-save")
        advanced()
        world.dataplane.close()
        world.dataplane = world._make()
        world._adopt()
        world._program(world.plan, b"")
        advanced()
    finally:
        stop.set()
        talker.join()
    assert not errors
