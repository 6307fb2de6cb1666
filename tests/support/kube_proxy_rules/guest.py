# SPDX-License-Identifier: Apache-2.0
"""Run inside a guest: kube-proxy's IPVS is taken over by each mode named; one JSON object a line, a report each."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from support.kube_proxy_rules.takeover import take_over

MODULES = (
    *("dummy", "ip_vs", "ip_vs_rr", "ip_vs_wrr", "nf_conntrack_netlink"),
    *("xt_set", "xt_connmark", "xt_mark", "xt_conntrack", "xt_addrtype", "xt_MASQUERADE", "ipt_REJECT", "ip6t_REJECT"),
    *("xt_comment", "xt_statistic", "xt_nat", "ip_set_bitmap_port"),
    *(f"ip_set_hash_{kind}" for kind in ("ip", "ipport", "ipportip", "ipportnet", "net", "netport")),
    *(f"{family}table_{table}" for family in ("ip", "ip6") for table in ("nat", "mangle", "filter")),
)
"""What the guest's kernel must load first."""
_PAUSE_SECONDS = 0.5
"""The guest has one processor, and each system call costs it more."""

if __name__ == "__main__":
    for mode in sys.argv[1:]:
        sys.stdout.write(json.dumps(asdict(take_over("ipvs", mode, pause_seconds=_PAUSE_SECONDS))) + "\n")
        sys.stdout.flush()
