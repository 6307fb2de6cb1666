# SPDX-License-Identifier: Apache-2.0
"""Rules of nftables mode that lead to a proxy."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman_chassis.clock import Clock
from pointsman_enforcer.dataplane.base import KernelError
from pointsman_enforcer.dataplane.nftables import layout, packed
from pointsman_enforcer.dataplane.nftables.apply import TABLES
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.drift import DriftMonitor
from pointsman_enforcer.dataplane.nftables.errors import NftablesError
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.userspace.rules import Place, Rules


def by_nftables(node_settings: NodeSettings, masquerade_bit: int, clock: Clock | None) -> Rules:
    """OSError when we may not talk to nf_tables here."""
    kernel = NftSocket()
    made = NftablesDataplane(
        node_settings=node_settings,
        masquerade_bit=masquerade_bit,
        masquerade_local=False,
        kernel=kernel,
        monitor=DriftMonitor(kernel.port),
        clock=clock,
    )

    def destinations() -> set[Place]:
        try:
            return set(_destinations(kernel))
        except NftablesError as error:
            raise KernelError(f"reading where our rules lead: {error}") from error

    return Rules(made, lambda one, other: packed.merge(one, packed.unpack(other)), destinations)


def _destinations(kernel: NftSocket) -> Iterator[Place]:
    for family, table in TABLES.items():
        width = family.address_bytes
        for spec in (layout.ENDPOINTS, layout.NODEPORT_ENDPOINTS):
            for element in kernel.dump_elements(table, spec, is_watched=True):
                yield element.data[:width], int.from_bytes(element.data[width : width + 2], "big")
