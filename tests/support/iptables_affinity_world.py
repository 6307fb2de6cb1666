# SPDX-License-Identifier: Apache-2.0
"""`AffinityWorld` with iptables rules and sets in place of nf_tables."""

from __future__ import annotations

from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.xtables.tools import Variant
from pointsman_model.names import Prefix, parse_prefix
from support.affinity_world import AffinityWorld


class IptablesAffinityWorld(AffinityWorld):
    """One variant of the tool, one family."""

    dataplane: IptablesDataplane  # type: ignore[assignment]  # another one, with the same port

    def __init__(
        self, variant: Variant, family: Family, *, node_port_addresses: tuple[Prefix, ...] | None = None
    ) -> None:
        super().__init__(family)
        self.variant = variant
        self._node_port_addresses = node_port_addresses

    def forget(self) -> None:
        """Empty the kernel's memory, and what the dataplane saw of it."""
        for name in self.sets():
            self.world.node.run("ipset", "flush", name)
        self.restart()

    def sets(self) -> list[str]:
        """Names of the sets of clients."""
        names = self.world.node.run("ipset", "list", "-name").split()
        return [name for name in names if name.startswith(("pointsman-a4-", "pointsman-a6-"))]

    def _make(self) -> IptablesDataplane:  # type: ignore[override]  # as above
        settings = NodeSettings(
            cluster_cidrs=(parse_prefix(self.at.pods),), node_port_addresses=self._node_port_addresses
        )
        return self.world.node.call(lambda: IptablesDataplane(node_settings=settings, variant=self.variant))
