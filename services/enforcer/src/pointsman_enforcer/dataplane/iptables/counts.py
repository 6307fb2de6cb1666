# SPDX-License-Identifier: Apache-2.0
"""What two rules count, as metrics: packets dropped for being INVALID, connections to node ports on 127.0.0.1.

kube-proxy has kernel objects of their own for this (nfacct), which not every kernel has; rules count on all of them.
They are read with each round. A rule that was written anew begins at zero, and the sum goes on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pointsman_chassis.metrics import Registry
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.iptables import static
from pointsman_enforcer.dataplane.xtables.tools import Tools
from pointsman_model.names import Family

INVALID_DROPPED: Final = "kubeproxy_iptables_ct_state_invalid_dropped_packets_total"
LOCALHOST_ACCEPTED: Final = "kubeproxy_iptables_localhost_nodeports_accepted_packets_total"
_WORDS: Final = {
    INVALID_DROPPED: "Packets that connection tracking calls INVALID and that were not forwarded",
    LOCALHOST_ACCEPTED: "Connections to node ports on 127.0.0.1",
}
_PLACES: Final = {
    INVALID_DROPPED: ("filter", static.FORWARD, "--ctstate INVALID"),
    LOCALHOST_ACCEPTED: ("nat", static.POSTROUTING, static.LOCALHOST),
}
"""Table, chain, and what the rule says."""
_COUNT: Final = re.compile(r" -c (\d+) \d+")
Found = Mapping[tuple[str, Family], int]


def read_counts(tools: Tools) -> Found:
    """What each rule says that is there; on a thread of the tools. A table that cannot be listed now is left out."""
    found = {}
    for name, (table, chain, words) in _PLACES.items():
        for family in tools.families:
            try:
                listed = tools.list_chain(family, table, chain)
            except CommandError:  # the chain is not there, or somebody else holds the lock
                continue
            for rule in listed.splitlines():
                match = _COUNT.search(rule)
                if match is not None and words in rule:
                    found[name, family] = int(match[1])
    return found


class PacketCounts:
    """Sums over the life of the process; begins with what rules say that it found."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, Family], int] = {}
        self._sums: dict[str, int] = dict.fromkeys(_WORDS, 0)

    def take(self, found: Found) -> None:
        """Add what was counted since the last time."""
        for place, count in found.items():
            before = self._last.get(place, 0)
            self._sums[place[0]] += count - before if count >= before else count
            self._last[place] = count

    def measure(self, registry: Registry) -> None:
        """Make them metrics, under kube-proxy's names."""
        for name, words in _WORDS.items():
            registry.computed_counter(name, words, lambda name=name: float(self._sums[name]))  # type: ignore[misc]  # bound at once
