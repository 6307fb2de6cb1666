# SPDX-License-Identifier: Apache-2.0
"""The modules that a guest loads for a mode which the kernel here may not have."""

from __future__ import annotations

from typing import Final

IPVS_MODULES: Final = (
    *("ip_vs", "ip_vs_rr", "ip_vs_wrr", "nf_conntrack_netlink"),
    *("xt_set", "xt_connmark", "xt_mark", "xt_conntrack", "xt_addrtype", "xt_MASQUERADE", "ipt_REJECT", "ip6t_REJECT"),
    *(f"ip_set_hash_{kind}" for kind in ("ip", "ipport", "ipportip", "ipportnet", "net", "netport")),
    *(f"{family}table_{table}" for family in ("ip", "ip6") for table in ("nat", "mangle", "filter")),
    *("sch_ingress", "cls_fw", "cls_matchall", "act_gact"),
)
"""For ipvs mode, with iptables of the legacy variant."""
