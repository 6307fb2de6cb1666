# SPDX-License-Identifier: Apache-2.0
"""The tracer on hand-made plans: who a sender is, which frontend wins, and that each decision has a reason."""

import pytest

from pointsman_model.names import Family, Protocol, ServiceKey, parse_address, parse_prefix
from pointsman_model.packet import Fate, Packet, trace_packet
from pointsman_model.plan import (
    DROP,
    REJECT,
    Action,
    DataplaneSettings,
    DetectLocal,
    Frontend,
    FrontendKind,
    NodeFacts,
    NodePlan,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    TrafficClass,
    Verdict,
)

KEY = ServiceKey("shop", "web")
FORWARD = Verdict(Action.FORWARD, 0, masquerade=False)
ANY = (parse_prefix("0.0.0.0/0"),)


def made(kind: FrontendKind, address: str, port: int = 80) -> NodePlan:
    """From pods forwarded, from host rejected, from outside dropped."""
    packed = parse_address(address) if address else b""
    frontend = Frontend(kind, packed, port, FORWARD, REJECT, DROP)
    endpoints = (
        PlanEndpoint(parse_address("10.1.0.1"), 8080, 3),
        PlanEndpoint(parse_address("10.1.0.2"), 8080, hairpin=True),
    )
    return NodePlan(
        facts=NodeFacts(name="n", addresses=(parse_address("192.168.0.2"),)),
        services={
            KEY: ServicePlan(
                ports=(
                    ServicePortPlan(
                        name="p",
                        protocol=Protocol.TCP,
                        family=Family.IPV4,
                        frontends=(frontend,),
                        endpoint_sets=(endpoints,),
                    ),
                )
            )
        },
    )


def packet(source: str, destination: str, port: int = 80, **more: object) -> Packet:
    return Packet(
        source=parse_address(source),
        destination=parse_address(destination),
        destination_port=port,
        **more,  # type: ignore[arg-type] # keywords of the packet
    )


CIDR = DataplaneSettings(
    detect_local=DetectLocal.CIDR, detect_local_cidrs=(parse_prefix("10.0.0.0/8"),), node_port_addresses=ANY
)
BRIDGE = DataplaneSettings(detect_local=DetectLocal.BRIDGE_INTERFACE, detect_local_interface="cni0")
PREFIX = DataplaneSettings(detect_local=DetectLocal.INTERFACE_PREFIX, detect_local_interface="veth")
NONE = DataplaneSettings(node_port_addresses=ANY)


@pytest.mark.parametrize(
    ("settings", "sent", "fate"),
    [
        (CIDR, packet("10.9.9.9", "9.9.9.9"), Fate.FORWARD),
        (CIDR, packet("192.168.0.2", "9.9.9.9"), Fate.REJECT),
        (CIDR, packet("203.0.113.1", "9.9.9.9"), Fate.DROP),
        (CIDR, packet("203.0.113.1", "9.9.9.9", sender=TrafficClass.POD), Fate.FORWARD),
        (BRIDGE, packet("203.0.113.1", "9.9.9.9", interface="cni0"), Fate.FORWARD),
        (BRIDGE, packet("203.0.113.1", "9.9.9.9", interface="cni01"), Fate.DROP),
        (BRIDGE, packet("192.168.0.2", "9.9.9.9"), Fate.REJECT),
        (PREFIX, packet("203.0.113.1", "9.9.9.9", interface="veth1234"), Fate.FORWARD),
        (PREFIX, packet("203.0.113.1", "9.9.9.9", interface="eth0"), Fate.DROP),
        (NONE, packet("10.9.9.9", "9.9.9.9", sender=TrafficClass.POD), Fate.DROP),
        (NONE, packet("192.168.0.2", "9.9.9.9"), Fate.REJECT),
    ],
)
def test_the_sender_decides_the_verdict_of_an_external_ip(
    settings: DataplaneSettings, sent: Packet, fate: Fate
) -> None:
    outcome = trace_packet(made(FrontendKind.EXTERNAL_IP, "9.9.9.9"), settings, sent)
    assert (outcome.fate, outcome.service, outcome.port_name) == (fate, KEY, "p")
    assert outcome.reasons[0].startswith("sender: ")
    assert len(outcome.reasons) >= 3


@pytest.mark.parametrize("source", ["10.9.9.9", "192.168.0.2", "203.0.113.1"])
def test_without_a_detector_everybody_is_a_pod_to_a_cluster_ip(source: str) -> None:
    outcome = trace_packet(made(FrontendKind.CLUSTER_IP, "9.9.9.9"), NONE, packet(source, "9.9.9.9"))
    assert outcome.fate is Fate.FORWARD


def test_candidates_have_weights_and_only_the_sender_itself_is_masqueraded() -> None:
    outcome = trace_packet(made(FrontendKind.CLUSTER_IP, "9.9.9.9"), CIDR, packet("10.1.0.2", "9.9.9.9"))
    assert [(c.weight, c.masquerade) for c in outcome.candidates] == [(3, False), (1, True)]
    other = trace_packet(made(FrontendKind.CLUSTER_IP, "9.9.9.9"), CIDR, packet("10.1.0.1", "9.9.9.9"))
    assert [c.masquerade for c in other.candidates] == [False, False]


def test_node_port_needs_a_local_address_that_accepts_node_ports() -> None:
    plan = made(FrontendKind.NODE_PORT, "", 30080)
    sent = packet("10.9.9.9", "192.168.0.2", 30080)
    assert trace_packet(plan, CIDR, sent).fate is Fate.FORWARD
    assert trace_packet(plan, CIDR, packet("10.9.9.9", "192.168.0.9", 30080)).fate is Fate.NONE
    secondary = packet("10.9.9.9", "192.168.0.9", 30080, destination_is_local=True)
    assert trace_packet(plan, CIDR, secondary).fate is Fate.FORWARD
    closed = DataplaneSettings(detect_local=DetectLocal.CIDR, detect_local_cidrs=CIDR.detect_local_cidrs)
    outcome = trace_packet(plan, closed, sent)
    assert outcome.fate is Fate.NONE
    assert any("nodePortAddresses" in reason for reason in outcome.reasons)


def test_another_protocol_of_a_cluster_ip_is_rejected_but_not_of_an_external_ip() -> None:
    sent = packet("10.9.9.9", "9.9.9.9", protocol=Protocol.UDP)
    assert trace_packet(made(FrontendKind.CLUSTER_IP, "9.9.9.9"), CIDR, sent).fate is Fate.REJECT
    assert trace_packet(made(FrontendKind.EXTERNAL_IP, "9.9.9.9"), CIDR, sent).fate is Fate.NONE


def test_mixed_families_are_refused() -> None:
    with pytest.raises(ValueError, match="families"):
        trace_packet(made(FrontendKind.CLUSTER_IP, "9.9.9.9"), CIDR, packet("fd00::1", "9.9.9.9"))
