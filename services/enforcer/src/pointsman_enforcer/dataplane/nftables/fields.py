# SPDX-License-Identifier: Apache-2.0
"""The parts of a packet that rules look things up by, loaded into registers."""

from __future__ import annotations

from pointsman_enforcer.dataplane.nftables import expressions as nft
from pointsman_enforcer.dataplane.nftables.message import Family


def saddr(family: Family, register: int) -> bytes:
    """Load the source address (`ip saddr`)."""
    return nft.payload(register, nft.NETWORK_HEADER, 12 if family is Family.IPV4 else 8, family.address_bytes)


def daddr(family: Family, register: int) -> bytes:
    """Load the destination address (`ip daddr`)."""
    return nft.payload(register, nft.NETWORK_HEADER, 16 if family is Family.IPV4 else 24, family.address_bytes)


def frontend_fields(family: Family) -> list[bytes]:
    """Load a frontend's key from register 0 on (`ip daddr . meta l4proto . th dport`)."""
    return [daddr(family, 0), *nodeport_fields(family.address_bytes // 4)]


def nodeport_fields(register: int) -> list[bytes]:
    """Load a node port's key (`meta l4proto . th dport`)."""
    return [nft.meta(register, nft.Meta.L4PROTO), nft.payload(register + 1, nft.TRANSPORT_HEADER, 2, 2)]
