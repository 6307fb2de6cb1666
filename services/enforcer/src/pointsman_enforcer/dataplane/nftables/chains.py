# SPDX-License-Identifier: Apache-2.0
"""The chains a frontend's verdict goes to. There are few, whatever the number of services.

Per number of slots N, not per service, one chain picks a slot below N and looks the endpoint up by the key the packet
itself carries. With session affinity N is the size of the table of picks, and there is a chain per timeout as well.
Such chains exist only for what is in use: whoever adds the first verdict that needs one adds the chain in the same
batch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from pointsman_enforcer.dataplane.nftables import expressions as nft
from pointsman_enforcer.dataplane.nftables import layout, uapi
from pointsman_enforcer.dataplane.nftables.affinity_rules import affinity_rules
from pointsman_enforcer.dataplane.nftables.fields import frontend_fields, nodeport_fields
from pointsman_enforcer.dataplane.nftables.message import Family, Message, Table, add_chain, add_rule, flush_chain

if TYPE_CHECKING:
    from collections.abc import Sequence

REJECT_CHAIN: Final = "reject-traffic"
DROP_CHAIN: Final = "drop-traffic"
MARK_CHAIN: Final = "mark-for-masquerade"

_NAME: Final = re.compile(r"(nodeport-)?(cluster|local)-([0-9]{1,5})(?:-affinity-([1-9][0-9]{0,6}))?(-masq)?")


class Frontend(Enum):
    """Where the key of a frontend comes from."""

    SERVICE_IP = "service-ip"
    NODEPORT = "nodeport"


class EndpointSet(Enum):
    """Which of a frontend's two endpoint sets; the value is its first slot."""

    CLUSTER = 0
    LOCAL = layout.LOCAL_SLOT_BASE


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChain:
    """A chain that sends a connection to one of `slots` slots of an endpoint set.

    Attributes:
        slots: how many, 1..65535. An endpoint of weight w has w of them.
        frontend: which map the endpoints are in.
        endpoints: which set.
        masquerade: the source becomes an address of this node.
        affinity_seconds: if not 0, a client keeps its endpoint until it has not connected for so long, and `slots` is
            the number of buckets of the table of first picks.
    """

    slots: int
    frontend: Frontend = Frontend.SERVICE_IP
    endpoints: EndpointSet = EndpointSet.CLUSTER
    masquerade: bool = False
    affinity_seconds: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.slots <= layout.SLOTS_MAX:
            raise ValueError(f"an endpoint set has 1 to {layout.SLOTS_MAX} slots, not {self.slots}")

    @property
    def name(self) -> str:
        """For example `cluster-3`, `local-2`, `nodeport-cluster-3-masq`, `cluster-251-affinity-10800`."""
        return "".join(
            (
                "nodeport-" if self.frontend is Frontend.NODEPORT else "",
                f"{self.endpoints.name.lower()}-{self.slots}",
                f"-affinity-{self.affinity_seconds}" if self.affinity_seconds else "",
                "-masq" if self.masquerade else "",
            )
        )

    def messages(self, table: Table) -> list[Message]:
        """Create it, or write its rules anew; the verdicts that go to it are not disturbed."""
        rules = [add_rule(table, self.name, rule, words) for rule, words in self._rules(table.family)]
        return [add_chain(table, self.name), flush_chain(table, self.name), *rules]

    def _rules(self, family: Family) -> Sequence[tuple[Sequence[bytes], str]]:
        marking = [([nft.verdict(uapi.NFT_JUMP, MARK_CHAIN)], "")] if self.masquerade else []
        directing = self._affinity_rules(family) if self.affinity_seconds else self._random_rules(family)
        return [
            *marking,
            *directing,
            ([nft.counter(), nft.verdict(uapi.NF_DROP)], "the set was emptied a moment ago"),
        ]

    def _affinity_rules(self, family: Family) -> list[tuple[list[bytes], str]]:
        is_nodeport = self.frontend is Frontend.NODEPORT
        return affinity_rules(
            family,
            ids=layout.AFFINITY_NODEPORT_IDS if is_nodeport else layout.AFFINITY_IDS,
            frontend=nodeport_fields(0) if is_nodeport else frontend_fields(family),
            endpoints=layout.AFFINITY_LOCAL_ENDPOINTS
            if self.endpoints is EndpointSet.LOCAL
            else layout.AFFINITY_ENDPOINTS,
            buckets=self.slots,
            first_bucket=self.endpoints.value,
            timeout_seconds=self.affinity_seconds,
        )

    def _random_rules(self, family: Family) -> list[tuple[list[bytes], str]]:
        """Pick a slot; if it is gone the first one; if that is gone too, drop follows.

        A packet under way while a batch is committed may have read its verdict before, and look for its endpoint after:
        the set may have shrunk in between. Without the last rules it would go on undirected, and so would every
        repetition of it, as its connection is then known to be none of ours.
        """
        if self.frontend is Frontend.SERVICE_IP:
            endpoints, key = layout.ENDPOINTS, frontend_fields(family)
            slot_register = family.address_bytes // 4 + 2
        else:
            endpoints, key, slot_register = layout.NODEPORT_ENDPOINTS, nodeport_fields(0), 2
        port_register = family.address_bytes // 4
        dnat = nft.dnat(family, 0, port_register)
        direct = [nft.lookup_value(0, endpoints.name, into=0), dnat]
        any_slot = nft.numgen_random(slot_register, self.slots, self.endpoints.value)
        first = nft.numgen_random(slot_register, 1, self.endpoints.value)
        return [
            ([*key, any_slot, *direct], ""),
            ([*key, first, *direct], "the set shrank a moment ago"),
        ]


def endpoint_chain_of(name: str) -> EndpointChain | None:
    """The endpoint chain of that name, or None when it is no such name (the skeleton's chains, say)."""
    match = _NAME.fullmatch(name)
    if match is None or not 1 <= int(match[3]) <= layout.SLOTS_MAX:
        return None
    return EndpointChain(
        slots=int(match[3]),
        frontend=Frontend.NODEPORT if match[1] else Frontend.SERVICE_IP,
        endpoints=EndpointSet[match[2].upper()],
        affinity_seconds=int(match[4] or 0),
        masquerade=match[5] is not None,
    )


def endpoint_chains(slots: int, *, affinity_seconds: int = 0) -> tuple[EndpointChain, ...]:
    """Every variant for one number of slots: both frontends, both sets, with and without masquerade."""
    return tuple(
        EndpointChain(
            slots=slots,
            frontend=frontend,
            endpoints=endpoints,
            masquerade=masquerade,
            affinity_seconds=affinity_seconds,
        )
        for frontend in Frontend
        for endpoints in EndpointSet
        for masquerade in (False, True)
    )
