# SPDX-License-Identifier: Apache-2.0
"""The node's own settings, in kube-proxy's words, and what they come to once the facts about the node are known."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from pointsman_model.names import Family, Prefix, family_of, is_loopback, make_prefix
from pointsman_model.plan import DataplaneSettings, DetectLocal, NodeFacts

EVERYWHERE: Final = {Family.IPV4: make_prefix(bytes(4), 0), Family.IPV6: make_prefix(bytes(16), 0)}


class DetectLocalMode(Enum):
    """kube-proxy's detectLocalMode."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """As configured. `node_port_addresses` None stands for `primary`: the node's primary address of each family."""

    detect_local_mode: DetectLocalMode = DetectLocalMode.CLUSTER_CIDR
    cluster_cidrs: tuple[Prefix, ...] = ()
    interface: str = ""
    masquerade_all: bool = False
    node_port_addresses: tuple[Prefix, ...] | None = None
    primary_address: bytes | None = None
    """Takes the place of what the facts say is the primary address of its family."""


def effective_settings(settings: NodeSettings, facts: NodeFacts | None) -> DataplaneSettings:
    """What the settings mean on a node with these facts; what depends on unknown facts is absent."""
    detector, cidrs = _detector(settings, facts)
    return DataplaneSettings(
        detect_local=detector,
        detect_local_cidrs=cidrs,
        detect_local_interface=settings.interface if not cidrs and detector is not DetectLocal.NONE else "",
        masquerade_all=settings.masquerade_all,
        node_port_addresses=_node_port_addresses(settings, facts),
    )


def _detector(settings: NodeSettings, facts: NodeFacts | None) -> tuple[DetectLocal, tuple[Prefix, ...]]:
    mode = settings.detect_local_mode
    if mode is DetectLocalMode.BRIDGE_INTERFACE:
        return DetectLocal.BRIDGE_INTERFACE, ()
    if mode is DetectLocalMode.INTERFACE_NAME_PREFIX:
        return DetectLocal.INTERFACE_PREFIX, ()
    candidates = settings.cluster_cidrs
    if mode is DetectLocalMode.NODE_CIDR:
        candidates = facts.pod_cidrs if facts is not None else ()
    firsts = (next((prefix for prefix in candidates if prefix.family is family), None) for family in Family)
    cidrs = tuple(prefix for prefix in firsts if prefix is not None)
    return (DetectLocal.CIDR if cidrs else DetectLocal.NONE), cidrs


def _node_port_addresses(settings: NodeSettings, facts: NodeFacts | None) -> tuple[Prefix, ...]:
    """Blocks in which node ports answer: of a family that the list does not mention, everywhere."""
    found: list[Prefix] = []
    for family in Family:
        if settings.node_port_addresses is None:
            address = _primary_address(settings, facts, family)
            if address is not None and not is_loopback(address):
                found.append(make_prefix(address, family.address_bits))
            continue
        mine = [prefix for prefix in settings.node_port_addresses if prefix.family is family]
        found += sorted(mine) or [EVERYWHERE[family]]
    return tuple(found)


def _primary_address(settings: NodeSettings, facts: NodeFacts | None, family: Family) -> bytes | None:
    configured = settings.primary_address
    if configured is not None and family_of(configured) is family:
        return configured
    return facts.primary_address(family) if facts is not None else None
