# SPDX-License-Identifier: Apache-2.0
"""The chains a frontend's verdict goes to. There are few, whatever the number of services.

Per number of slots N, not per service, one chain picks a slot below N and looks the endpoint up by the key the packet
itself carries. Such chains exist only for the N in use: whoever adds the first verdict that needs one adds the chain in
the same batch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from pointsman_enforcer.dataplane.nftables import expressions as nft
from pointsman_enforcer.dataplane.nftables import layout, uapi
from pointsman_enforcer.dataplane.nftables.message import Family, Message, Table, add_chain, add_rule, flush_chain

if TYPE_CHECKING:
    from collections.abc import Sequence

REJECT_CHAIN: Final = "reject-traffic"
DROP_CHAIN: Final = "drop-traffic"
MARK_CHAIN: Final = "mark-for-masquerade"

HASH_SEED: Final = 0x706D
"""Every node must pick alike, so the seed is the same everywhere and for ever."""

_NAME: Final = re.compile(r"(nodeport-)?(cluster|local)-([0-9]{1,5})(-hash)?(-masq)?")


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
        hashed: the slot is chosen by the client's address, alike on every node, and not at random.
    """

    slots: int
    frontend: Frontend = Frontend.SERVICE_IP
    endpoints: EndpointSet = EndpointSet.CLUSTER
    masquerade: bool = False
    hashed: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.slots <= layout.SLOTS_MAX:
            raise ValueError(f"an endpoint set has 1 to {layout.SLOTS_MAX} slots, not {self.slots}")

    @property
    def name(self) -> str:
        """For example `cluster-3`, `local-2`, `nodeport-cluster-3-masq`, `cluster-5-hash`."""
        return "".join(
            (
                "nodeport-" if self.frontend is Frontend.NODEPORT else "",
                f"{self.endpoints.name.lower()}-{self.slots}",
                "-hash" if self.hashed else "",
                "-masq" if self.masquerade else "",
            )
        )

    def messages(self, table: Table) -> list[Message]:
        """Create it, or write its rules anew; the verdicts that go to it are not disturbed."""
        rules = [add_rule(table, self.name, rule, words) for rule, words in self._rules(table.family)]
        return [add_chain(table, self.name), flush_chain(table, self.name), *rules]

    def _rules(self, family: Family) -> list[tuple[list[bytes], str]]:
        """Pick a slot; if it is gone the first one; if that is gone too, drop.

        A packet under way while a batch is committed may have read its verdict before, and look for its endpoint after:
        the set may have shrunk in between. Without the last rules it would go on undirected, and so would every
        repetition of it, as its connection is then known to be none of ours.
        """
        marking = [([nft.verdict(uapi.NFT_JUMP, MARK_CHAIN)], "")] if self.masquerade else []
        if self.frontend is Frontend.SERVICE_IP:
            endpoints, key = layout.ENDPOINTS, frontend_fields(family)
            slot_register = family.address_bytes // 4 + 2
        else:
            endpoints, key, slot_register = layout.NODEPORT_ENDPOINTS, nodeport_fields(0), 2
        port_register = family.address_bytes // 4
        dnat = nft.dnat(family, 0, port_register)
        direct = [nft.lookup_value(0, endpoints.name, into=0), dnat]
        first = nft.numgen_random(slot_register, 1, self.endpoints.value)
        return [
            *marking,
            ([*key, *self._slot(family, slot_register), *direct], ""),
            ([*key, first, *direct], "the set shrank a moment ago"),
            ([nft.counter(), nft.verdict(uapi.NF_DROP)], "the set was emptied a moment ago"),
        ]

    def _slot(self, family: Family, register: int) -> Sequence[bytes]:
        offset = self.endpoints.value
        if not self.hashed:
            return [nft.numgen_random(register, self.slots, offset)]
        scratch, length = 8, family.address_bytes
        return [
            saddr(family, scratch),
            nft.jhash(scratch, length, modulus=self.slots, seed=HASH_SEED, into=register, offset=offset),
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
        hashed=match[4] is not None,
        masquerade=match[5] is not None,
    )


def endpoint_chains(slots: int, *, hashed: bool = False) -> tuple[EndpointChain, ...]:
    """Every variant for one number of slots: both frontends, both sets, with and without masquerade."""
    return tuple(
        EndpointChain(slots=slots, frontend=frontend, endpoints=endpoints, masquerade=masquerade, hashed=hashed)
        for frontend in Frontend
        for endpoints in EndpointSet
        for masquerade in (False, True)
    )


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
