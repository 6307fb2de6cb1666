# SPDX-License-Identifier: Apache-2.0
"""Rules of iptables mode that lead to a proxy, for kernels without NAT in nf_tables."""

from __future__ import annotations

from pointsman_enforcer.dataplane.iptables import layout
from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.userspace.rules import Rules
from pointsman_enforcer.dataplane.xtables.tools import Variant


def by_iptables(node_settings: NodeSettings, masquerade_bit: int, variant: Variant) -> Rules:
    """UnsupportedError when a tool is missing, OSError when we may not look at tables."""
    made = IptablesDataplane(
        node_settings=node_settings, variant=variant, masquerade_bit=masquerade_bit, masquerade_local=False
    )
    return Rules(made, _merged, made.destinations)


def _merged(one: bytes, other: bytes) -> bytes:
    return layout.pack({**layout.unpack(one), **layout.unpack(other)})
