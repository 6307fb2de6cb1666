# SPDX-License-Identifier: Apache-2.0
"""Configuration in kube-proxy's words, and what it comes to on a node."""

from __future__ import annotations

import pytest

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import dump_settings, parse_settings
from pointsman_enforcer.__main__ import node_name
from pointsman_enforcer.dataplane.node_settings import DetectLocalMode, NodeSettings, effective_settings
from pointsman_enforcer.health.bind_address import BindAddress, parse_bind_address
from pointsman_enforcer.settings import KIND, EnforcerConfiguration
from pointsman_model.names import Family, parse_address, parse_prefix
from pointsman_model.plan import DetectLocal, NodeFacts

HEAD = f"apiVersion: config.pointsman.io/v1alpha1\nkind: {KIND}\n"
FACTS = NodeFacts(
    name="n",
    addresses=tuple(map(parse_address, ("192.168.0.2", "192.168.0.3", "2001:db8::1"))),
    pod_cidrs=(parse_prefix("10.1.0.0/24"), parse_prefix("10.2.0.0/24")),
)


def parse(text: str) -> EnforcerConfiguration:
    return parse_settings(HEAD + text, EnforcerConfiguration, KIND, source="test")


def test_what_is_written_is_read_back() -> None:
    config = parse("clusterCIDR: 10.0.0.0/8,fd00::/64\nnftables: {masqueradeBit: 3}\n")
    assert parse_settings(dump_settings(config, KIND), EnforcerConfiguration, KIND, source="test") == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clusterCIDR: 10.0.0.0/8,11.0.0.0/8", "clusterCIDR: give at most one block for each family"),
        ("clusterCIDR: nonsense", "clusterCIDR: 'nonsense' is not a CIDR block"),
        ("nodePortAddresses: [primary, 10.0.0.0/8]", "primary must be the only entry"),
        ("nodePortAddresses: [x]", r"nodePortAddresses\[0\]"),
        ("detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface"),
        ("detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: 'a b'}", "interfaceNamePrefix"),
        ("detectLocalMode: Guess", "detectLocalMode"),
        ("nftables: {masqueradeBit: 32}", "masqueradeBit"),
        ("nftables: {syncPeriod: 1s, minSyncPeriod: 2s}", "nftables.minSyncPeriod: must not be greater"),
        ("nftables: {syncPeriod: 0s}", "nftables.syncPeriod: must be greater than 0s"),
        ("conntrack: {maxPerCore: -1}", "conntrack.maxPerCore: -1 is not within"),
        ("bindAddress: here", "bindAddress: 'here' is not an IP address"),
        ("oomScoreAdj: -1001", "oomScoreAdj: -1001 is not within -1000..1000"),
        ("metricsBindAddress: 0.0.0.0:0", "metricsBindAddress: port 0"),
        ("healthzBindAddress: localhost:1", "healthzBindAddress: expected address:port"),
        ("metricsBindAddress: 0.0.0.0:99999", "metricsBindAddress: port 99999"),
        ("plannerAddresses: [planner]", r"plannerAddresses\[0\]: 'planner' is not host:port"),
        ("plannerAddresses: ['10.0.0.1:1', 'dns:x']", r"plannerAddresses\[1\]: 'dns:x' is not"),
        ("plannerLookup: {apiServers: ['10.0.0.1']}", r"plannerLookup.apiServers\[0\]: '10.0.0.1' is not host:port"),
        ("plannerLookup: {service: 'a/b'}", "plannerLookup.service: 'a/b' is not the name of an object"),
        ("mode: kernelspace", "mode"),
        ("iptables: {masqueradeBit: 32}", "iptables.masqueradeBit: 32 is not within"),
        ("iptables: {syncPeriod: 500ms}", "iptables.minSyncPeriod: must not be greater"),
        ("iptables: {variant: old}", "iptables.variant"),
        ("ipvs: {scheduler: 'r r'}", "ipvs.scheduler: 'r r' is not the name of a scheduler"),
        ("ipvs: {schedulerFlags: [fallback]}", "ipvs.schedulerFlags"),
        ("ipvs: {excludeCIDRs: [x]}", r"ipvs.excludeCIDRs\[0\]"),
        ("ipvs: {udpTimeout: 20ms}", "ipvs.udpTimeout: must be 0s, or at least 1s"),
        ("userspace: {redirect: ipvs}", "userspace.redirect"),
        ("userspace: {addresses: {'10.0.0.1': 127.0.0.1}}", "userspace.addresses: has a meaning with redirect none"),
        ("userspace: {redirect: none, addresses: {'10.0.0.1': '::1'}}", "::1 is of the other family"),
        ("userspace: {flowsMax: 0}", "userspace.flowsMax: 0 is not within"),
        ("nodePortAdresses: []", "did you mean nodePortAddresses"),
    ],
)
def test_a_mistake_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(text)


def test_all_mistakes_are_named_at_once() -> None:
    text = """
mode: magic
clusterCIDR: 10.0.0.0/8,11.0.0.0/8
nodePortAddresses: [x, 10.0.0.0/8, y]
nftables: {masqueradeBit: 40, syncPeriod: 1s, minSyncPeriod: 2s, bit: 1}
conntrack: {min: -1}
detectLocalMode: InterfaceNamePrefix
healthzBindAddress: "10.0.0.1:0"
oomScoreAdj: many
"""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    paths = [line.strip().partition(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert sorted(paths) == [
        "clusterCIDR",
        "conntrack.min",
        "detectLocal.interfaceNamePrefix",
        "healthzBindAddress",
        "mode",
        "nftables.bit",
        "nftables.masqueradeBit",
        "nftables.minSyncPeriod",
        "nodePortAddresses[0]",
        "nodePortAddresses[2]",
        "oomScoreAdj",
    ]


def test_a_specific_bind_address_is_the_primary_address_of_its_family() -> None:
    settings = parse("bindAddress: 192.168.0.9").node_settings()
    found = effective_settings(settings, FACTS).node_port_addresses
    assert [str(prefix) for prefix in found] == ["192.168.0.9/32", "2001:db8::1/128"]
    assert parse("bindAddress: '::'").node_settings().primary_address is None


def node_port_addresses(texts: str, facts: NodeFacts | None = FACTS) -> list[str]:
    settings = parse(f"nodePortAddresses: {texts}").node_settings()
    return [str(prefix) for prefix in effective_settings(settings, facts).node_port_addresses]


def test_node_ports_answer_on_the_primary_addresses_unless_told_otherwise() -> None:
    assert node_port_addresses("[primary]") == ["192.168.0.2/32", "2001:db8::1/128"]
    assert node_port_addresses("[]") == node_port_addresses("[primary]")
    assert node_port_addresses("[primary]", None) == []
    loopback = NodeFacts(name="n", addresses=(parse_address("127.0.0.1"),))
    assert node_port_addresses("[primary]", loopback) == []


def test_a_family_that_the_list_leaves_out_answers_everywhere() -> None:
    assert node_port_addresses("[10.0.0.0/8]") == ["10.0.0.0/8", "::/0"]
    assert node_port_addresses("['2001:db8::/64', 10.0.0.0/8, 9.0.0.0/8]") == [
        "9.0.0.0/8",
        "10.0.0.0/8",
        "2001:db8::/64",
    ]


@pytest.mark.parametrize(
    ("settings", "detector", "cidrs"),
    [
        (NodeSettings(), DetectLocal.NONE, []),
        (NodeSettings(cluster_cidrs=(parse_prefix("10.0.0.0/8"),)), DetectLocal.CIDR, ["10.0.0.0/8"]),
        (NodeSettings(detect_local_mode=DetectLocalMode.NODE_CIDR), DetectLocal.CIDR, ["10.1.0.0/24"]),
        (
            NodeSettings(detect_local_mode=DetectLocalMode.BRIDGE_INTERFACE, interface="br0"),
            DetectLocal.BRIDGE_INTERFACE,
            [],
        ),
        (
            NodeSettings(detect_local_mode=DetectLocalMode.INTERFACE_NAME_PREFIX, interface="veth"),
            DetectLocal.INTERFACE_PREFIX,
            [],
        ),
    ],
)
def test_the_detector_follows_mode_and_facts(settings: NodeSettings, detector: DetectLocal, cidrs: list[str]) -> None:
    found = effective_settings(settings, FACTS)
    assert found.detect_local is detector
    assert [str(prefix) for prefix in found.detect_local_cidrs] == cidrs
    assert found.detects(Family.IPV6) == (detector in {DetectLocal.BRIDGE_INTERFACE, DetectLocal.INTERFACE_PREFIX})


def test_node_cidr_without_facts_detects_nobody() -> None:
    found = effective_settings(NodeSettings(detect_local_mode=DetectLocalMode.NODE_CIDR), None)
    assert found.detect_local is DetectLocal.NONE


def test_bind_addresses_take_a_default_port() -> None:
    assert parse_bind_address("127.0.0.1", 10256, "x") == BindAddress("127.0.0.1", 10256)
    assert parse_bind_address("[::1]:80", 10256, "x") == BindAddress("::1", 80)
    assert parse_bind_address("::", 10256, "x") == BindAddress("::", 10256)
    assert parse_bind_address("", 10256, "x") is None


def test_the_node_is_named_by_configuration_then_environment_then_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "From-Environment")
    assert node_name(" Node-1 ") == "node-1"
    assert node_name("") == "from-environment"
    monkeypatch.delenv("NODE_NAME")
    assert node_name("") != ""
