# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy calls its objects, Kubernetes 1.24 to 1.36, and the userspace mode before. Pure.

Not a prefix: the kubelet's chains begin with KUBE-, too, and so do those of container runtimes for host ports
(KUBE-HOSTPORTS, KUBE-HP-*). What is not named here is somebody else's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pointsman_model.names import Protocol

MARK_MASQUERADE: Final = "KUBE-MARK-MASQ"
POSTROUTING: Final = "KUBE-POSTROUTING"
MASQUERADE_CHAINS: Final = frozenset({MARK_MASQUERADE, POSTROUTING})
"""Kubelets before 1.28 write these two as well, with the same rules and the same jump."""
KUBELET_DROP: Final = "KUBE-MARK-DROP"
"""Written by the same kubelets, so where it is, the two chains above are theirs as well."""
LASTING: Final = frozenset({("nat", MARK_MASQUERADE), ("nat", POSTROUTING), ("filter", "KUBE-FORWARD")})
"""What later hooks do to a packet that dispatch sent on: these go after dispatch is gone."""

_PER_SERVICE: Final = re.compile(r"KUBE-(?:SVC|SVL|SEP|EXT|FW|XLB)-[A-Z2-7]{16}")
"""XLB: before 1.24's successor EXT; a hash in base32 follows."""
_FIXED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "nat": frozenset(
            {
                *("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-CANARY", *MASQUERADE_CHAINS),
                *("KUBE-NODE-PORT", "KUBE-LOAD-BALANCER"),
                *("KUBE-PORTALS-CONTAINER", "KUBE-PORTALS-HOST", "KUBE-NODEPORT-CONTAINER", "KUBE-NODEPORT-HOST"),
            }
        ),
        "filter": frozenset(
            {
                *("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"),
                *("KUBE-NODE-PORT", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER"),
                *("KUBE-NODEPORT-NON-LOCAL", "KUBE-PROXY-CANARY"),
            }
        ),
        "mangle": frozenset({"KUBE-PROXY-CANARY"}),
    }
)
JUMP_COMMENTS: Final = frozenset(
    {
        "kubernetes service portals",
        "kubernetes externally-visible service portals",
        "kubernetes health check service ports",
        "kubernetes health check rules",
        "kubernetes forwarding rules",
        "kubernetes load balancer firewall",
        "kubernetes postrouting rules",
        "kube-proxy firewall rules",
        "kubernetes ipvs access filter",
        "handle ClusterIPs; NOTE: this must be before the NodePort rules",
        "handle service NodePorts; NOTE: this must be the last rule in the chain",
        "Ensure that non-local NodePort traffic can flow",
    }
)
"""What the rules say that lead from built-in chains to kube-proxy's; a rule that says something else is not its."""
BUILT_IN: Final = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})

DEVICE: Final = "kube-ipvs0"
"""Has the addresses of all virtual servers but those of node ports."""
NFT_TABLE: Final = "kube-proxy"
_SET_LENGTH_MAX: Final = 31
_NODE_PORT_SETS: Final[Mapping[str, Protocol]] = MappingProxyType(
    {
        "KUBE-NODE-PORT-TCP": Protocol.TCP,
        "KUBE-NODE-PORT-UDP": Protocol.UDP,
        "KUBE-NODE-PORT-SCTP-HASH": Protocol.SCTP,
        "KUBE-NODE-PORT-LOCAL-TCP": Protocol.TCP,
        "KUBE-NODE-PORT-LOCAL-UDP": Protocol.UDP,
        "KUBE-NODE-PORT-LOCAL-SCTP-HASH": Protocol.SCTP,
    }
)
_OTHER_SETS: Final = (
    *("KUBE-LOOP-BACK", "KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP", "KUBE-EXTERNAL-IP-LOCAL", "KUBE-LOAD-BALANCER"),
    *("KUBE-LOAD-BALANCER-LOCAL", "KUBE-LOAD-BALANCER-FW", "KUBE-LOAD-BALANCER-SOURCE-IP"),
    *("KUBE-LOAD-BALANCER-SOURCE-CIDR", "KUBE-HEALTH-CHECK-NODE-PORT", "KUBE-IPVS-IPS"),
)


def is_chain(table: str, name: str) -> bool:
    """Whether a chain is one that kube-proxy makes in this table."""
    return name in _FIXED.get(table, ()) or (table == "nat" and _PER_SERVICE.fullmatch(name) is not None)


def _of_ipv6(name: str) -> str:
    """The IPv6 set beside an IPv4 one; too long a name is cut."""
    return name.replace("KUBE-", "KUBE-6-", 1)[:_SET_LENGTH_MAX]


NODE_PORT_SETS: Final[Mapping[str, Protocol]] = MappingProxyType(
    {**_NODE_PORT_SETS, **{_of_ipv6(name): protocol for name, protocol in _NODE_PORT_SETS.items()}}
)
"""Sets whose ports say which virtual servers at the host's own addresses are kube-proxy's."""
SETS: Final = frozenset({*_OTHER_SETS, *map(_of_ipv6, _OTHER_SETS), *NODE_PORT_SETS})
"""Every ipset that kube-proxy makes."""
