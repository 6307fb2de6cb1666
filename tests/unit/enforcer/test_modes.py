# SPDX-License-Identifier: Apache-2.0
"""Which mode is chosen, what each takes from the configuration, and when leftovers of the others go."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.errors import UnsupportedError
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.dataplane.leftovers import LeftoverError
from pointsman_enforcer.dataplane.modes.choice import choose
from pointsman_enforcer.dataplane.modes.own_leftovers import Rules, own_leftovers, rules_of
from pointsman_enforcer.dataplane.modes.sweeper import GONE, REMOVING, WAITING, LeftoverMetrics, Readiness, Sweeper
from pointsman_enforcer.mode_settings import (
    IptablesSettings,
    ModeName,
    NftablesSettings,
    UserspaceSettings,
    VariantName,
)
from pointsman_enforcer.settings import EnforcerConfiguration

LEGACY = IptablesSettings(variant="legacy", masquerade_all=True)


def legacy() -> VariantName:
    return "legacy"


def why_not(*unusable: str) -> object:
    return lambda config: f"no {config.mode} here" if config.mode in unusable else ""


def test_auto_is_the_first_mode_that_works_and_says_what_does_not() -> None:
    config = EnforcerConfiguration(mode="auto")
    assert choose(config, why_not(), legacy).config.mode == "nftables"
    choice = choose(config, why_not("nftables", "iptables"), legacy)
    assert choice.config.mode == "ipvs"
    assert "not nftables: no nftables here; not iptables, with iptables variant legacy as this host:" in choice.reason


def test_auto_tries_the_other_variant_of_iptables_as_well() -> None:
    def works_with_nft(config: EnforcerConfiguration) -> str:
        return "" if config.iptables.variant == "nft" else "no"

    choice = choose(EnforcerConfiguration(mode="auto"), works_with_nft, legacy)
    assert (choice.config.mode, choice.config.iptables.variant) == ("iptables", "nft")
    assert "that this host can run, with iptables variant nft; not nftables: no; not iptables, " in choice.reason


def test_auto_with_no_mode_at_all_names_every_reason() -> None:
    with pytest.raises(UnsupportedError, match=r"not nftables: .*; not iptables, .*; not ipvs, .*; not userspace: "):
        choose(EnforcerConfiguration(mode="auto"), why_not("nftables", "iptables", "ipvs", "userspace"), legacy)


def test_a_configured_mode_is_never_exchanged_for_another() -> None:
    choice = choose(EnforcerConfiguration(mode="ipvs"), why_not("ipvs"), legacy)
    assert (choice.config.mode, choice.reason) == ("ipvs", "configured, with iptables variant legacy as this host")


@pytest.mark.parametrize("mode", ["nftables", "iptables", "ipvs"])
def test_the_variant_of_the_tool_is_decided_once_where_a_mode_uses_it(mode: ModeName) -> None:
    choice = choose(EnforcerConfiguration(mode=mode), why_not(), legacy)
    assert choice.config.iptables.variant == ("auto" if mode == "nftables" else "legacy")
    assert ("variant legacy as this host" in choice.reason) is (mode != "nftables")
    given = EnforcerConfiguration(mode=mode, iptables=IptablesSettings(variant="nft"))
    assert choose(given, why_not(), legacy).config == given


def test_ipvs_takes_masquerade_all_from_the_iptables_section_as_kube_proxy_does() -> None:
    for mode, expected in (("ipvs", True), ("iptables", True), ("nftables", False)):
        assert EnforcerConfiguration(mode=mode, iptables=LEGACY).node_settings().masquerade_all is expected
    config = EnforcerConfiguration(mode="userspace", nftables=NftablesSettings(masquerade_all=True))
    assert config.node_settings().masquerade_all


def test_periods_are_those_of_the_mode() -> None:
    assert EnforcerConfiguration(mode="iptables").periods.min_sync_period == 1.0
    assert EnforcerConfiguration(mode="ipvs").periods.min_sync_period == 0.0


@pytest.mark.parametrize(
    ("config", "rules"),
    [
        (EnforcerConfiguration(), Rules.NFTABLES),
        (EnforcerConfiguration(mode="userspace"), Rules.NFTABLES),
        (EnforcerConfiguration(mode="iptables", iptables=LEGACY), Rules.LEGACY),
        (EnforcerConfiguration(mode="iptables", iptables=IptablesSettings(variant="nft")), Rules.NFT),
        (
            EnforcerConfiguration(mode="userspace", userspace=UserspaceSettings(redirect="iptables"), iptables=LEGACY),
            Rules.LEGACY,
        ),
        (EnforcerConfiguration(mode="ipvs", iptables=LEGACY), Rules.IPVS_LEGACY),
        (EnforcerConfiguration(mode="userspace", userspace=UserspaceSettings(redirect="none")), None),
    ],
)
def test_what_a_mode_uses_is_none_of_its_leftovers(config: EnforcerConfiguration, rules: Rules | None) -> None:
    assert rules_of(config) == frozenset({rules} - {None})
    names = [each.name for each in own_leftovers(rules_of(config))]
    assert len(names) == len(set(names))
    words = {
        Rules.NFTABLES: "nftables",
        Rules.LEGACY: "iptables mode (legacy)",
        Rules.NFT: "iptables mode (nft)",
        Rules.IPVS_LEGACY: "ipvs mode (legacy)",
        None: "none",
    }
    assert not any(words[rules] in name for name in names)
    has_servers = any("virtual servers" in name for name in names)
    assert has_servers is (rules is not Rules.IPVS_LEGACY), "both variants share the virtual servers"
    has_sets = any("ipsets" in name for name in names)
    assert has_sets is (rules not in {Rules.LEGACY, Rules.NFT}), "both variants share the sets"


@dataclass
class Fake:
    """A leftover in memory."""

    name: str
    found: str = "something"
    refusals: int = 0
    connections: int = 0
    is_waiting: bool = False
    removals: list[float] = field(default_factory=list)

    async def find(self) -> str:
        return self.found

    async def remove(self) -> int:
        if self.refusals:
            self.refusals -= 1
            raise LeftoverError("busy")
        self.is_waiting = self.connections > 0
        self.connections -= 1
        if not self.is_waiting:
            self.found = ""
        return 3


class Node:
    """A sweeper whose readiness the test decides."""

    def __init__(self, *leftovers: Fake) -> None:
        self.clock = VirtualClock()
        self.registry = Registry(process=False)
        self.is_settled = self.is_confirmed = False
        self.told: list[str] = []
        self.sweeper = Sweeper(
            leftovers,
            ready=Readiness(is_settled=lambda: self.is_settled, is_confirmed=lambda: self.is_confirmed),
            on_found=lambda: self.told.append("found"),
            on_confirmed=lambda: self.told.append("confirmed"),
            metrics=LeftoverMetrics(self.registry),
            clock=self.clock,
        )

    async def settle(self) -> None:
        self.is_settled = True
        await self.look()

    async def look(self) -> None:
        self.sweeper.look()
        for _ in range(10):
            await asyncio.sleep(0)

    def state(self) -> str:
        return self.sweeper.describe()["state"]


async def test_nothing_is_removed_before_everything_is_settled_nor_confirmed_by_disk_alone() -> None:
    leftover = Fake("chains")
    node = Node(leftover)
    async with asyncio.TaskGroup() as group:
        group.create_task(node.sweeper.run())
        await node.look()
        assert (leftover.found, node.state(), node.told) == ("something", WAITING, ["found"])
        await node.settle()
        assert (leftover.found, node.state(), node.told) == ("", GONE, ["found"])
        node.is_confirmed = True
        await node.look()
        assert node.told == ["found", "confirmed"], "kube-proxy's wait for a planner's word"


async def test_one_that_is_refused_does_not_keep_the_others_and_is_tried_again() -> None:
    first, second = Fake("first", refusals=2), Fake("second")
    node = Node(first, second)
    node.is_confirmed = True
    async with asyncio.TaskGroup() as group:
        group.create_task(node.sweeper.run())
        await node.settle()
        assert (first.found, second.found, node.state()) == ("something", "", REMOVING)
        assert node.sweeper.describe()["found"]["first"]["error"] == "busy"
        assert node.registry.value("pointsman_enforcer_leftovers", {"state": "failed"}) == 1
        await node.clock.advance(1.0)
        await node.clock.advance(2.0)
        await node.look()
        assert (first.found, node.state()) == ("", GONE)


async def test_what_carries_connections_is_looked_at_until_the_last_is_over() -> None:
    leftover = Fake("virtual servers", connections=2)
    node = Node(leftover)
    node.is_confirmed = True
    async with asyncio.TaskGroup() as group:
        group.create_task(node.sweeper.run())
        await node.settle()
        assert node.sweeper.describe()["found"]["virtual servers"]["waiting"]
        assert node.registry.value("pointsman_enforcer_leftovers", {"state": "waiting"}) == 1
        assert node.told == ["found", "confirmed"], "kube-proxy's do not wait for ours"
        for _ in range(2):
            await node.clock.advance(5.0)
            await node.look()
        assert node.state() == GONE


async def test_a_clean_node_has_nothing_to_tell() -> None:
    node = Node(Fake("none", found=""))
    node.is_confirmed = True
    async with asyncio.TaskGroup() as group:
        group.create_task(node.sweeper.run())
        await node.settle()
    assert (node.sweeper.describe(), node.told) == ({"state": GONE, "found": {}}, ["confirmed"])
