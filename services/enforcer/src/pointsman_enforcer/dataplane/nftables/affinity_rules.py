# SPDX-License-Identifier: Apache-2.0
"""The rules by which a client keeps its endpoint.

Each lookup feeds the next one, and nft cannot list that within one expression. So the value travels in the packet's
priority (`meta priority`), four bytes that a rule can set and read: `ID:0` for the port of the Service, `ID:N` for its
endpoint N, as nft prints them. Only the first packet of a connection comes here; postrouting sets its priority to 0.

    priority of the frontend                      affinity_ids               ID:0
    priority of (ID:0, hash of the client)        affinity_picks             ID:N, what a client without memory gets
    ID:0, client                                  affinity: added with ID:N if not there, else its time begins anew
    priority of (ID:0, client)                    affinity                   ID:M, what this client has
    dnat to (protocol, ID:M)                      affinity_endpoints         address and port, if M is in this set
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from pointsman_enforcer.dataplane.nftables import expressions as nft
from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.fields import saddr
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.sets import SetSpec
from pointsman_model.affinity import HASH_SEED

BORROWED_PRIORITY: Final = 0xC0000000
"""These bits are set in every priority of ours, and in no handle that a queueing discipline commonly has."""
PORT_MASK: Final = 0xFFFF0000

_SCRATCH: Final = 8
_PORT: Final = struct.pack("=I", PORT_MASK)
_ZERO: Final = bytes(4)
_PRIORITY: Final = nft.Meta.PRIORITY


def affinity_rules(
    family: Family,
    *,
    ids: SetSpec,
    frontend: Sequence[bytes],
    endpoints: SetSpec,
    buckets: int,
    first_bucket: int,
    timeout_seconds: int,
) -> list[tuple[list[bytes], str]]:
    """The rules of one chain, each with its comment; a packet that none of them directs goes on to the next rule.

    Args:
        family: the table's.
        ids: the map of this kind of frontend.
        frontend: loads a frontend's key from register 0 on.
        endpoints: who may be chosen here.
        buckets: size of the table of picks, whose buckets are numbered from `first_bucket` on.
        first_bucket: see there.
        timeout_seconds: how long a client is remembered after its last connection.
    """
    words = family.address_bytes // 4
    dnat = nft.dnat(family, 0, words)
    identify = [*frontend, nft.lookup_value(0, ids.name, into=0), nft.meta_set(_PRIORITY, 0)]
    pick = [
        nft.meta(0, _PRIORITY),
        saddr(family, _SCRATCH),
        nft.jhash(_SCRATCH, family.address_bytes, modulus=buckets, seed=HASH_SEED, into=1, offset=first_bucket),
        nft.lookup_value(0, layout.AFFINITY_PICKS.name, into=0),
        nft.meta_set(_PRIORITY, 0),
    ]
    client = [nft.meta(0, _PRIORITY), saddr(family, 1)]
    remember = [
        *(nft.meta(0, _PRIORITY), nft.bitwise(0, _PORT, _ZERO), saddr(family, 1)),
        nft.meta(words + 1, _PRIORITY),
        nft.update_element(0, words + 1, layout.AFFINITY.name, timeout_seconds * 1000),
    ]
    recall = [
        *(nft.meta(0, _PRIORITY), nft.bitwise(0, _PORT, _ZERO), nft.meta_set(_PRIORITY, 0)),
        *(*client, nft.lookup_value(0, layout.AFFINITY.name, into=0), nft.meta_set(_PRIORITY, 0)),
    ]
    forget = [*client, nft.immediate(words + 1, _ZERO), nft.delete_element(0, words + 1, layout.AFFINITY.name)]
    direct = [
        *(nft.meta(0, nft.Meta.L4PROTO), nft.meta(1, _PRIORITY)),
        *(nft.lookup_value(0, endpoints.name, into=0), dnat),
    ]
    return [
        ([*identify, *pick, *remember, *recall, *direct], "the remembered endpoint, or else the pick"),
        ([*identify, *forget, *pick, *remember, *direct], "the remembered one may not be used"),
        ([*identify, *pick, *direct], "the memory is full"),
    ]


def describe(
    family: Family, *, ids: SetSpec, frontend: str, endpoints: SetSpec, pick: str, timeout_seconds: int
) -> list[str]:
    """The same rules in the words of `nft`, which reads a priority as major:minor."""
    keyword, memory = family.keyword, layout.AFFINITY.name
    client = f"{keyword} saddr"
    identify = f"meta priority set {frontend} map @{ids.name}"
    picking = f"meta priority set meta priority . {pick} map @{layout.AFFINITY_PICKS.name}"
    remember = f"update @{memory} {{ meta priority & ffff:0 . {client} timeout {timeout_seconds}s : meta priority }}"
    recall = f"meta priority set meta priority & ffff:0 meta priority set meta priority . {client} map @{memory}"
    forget = f"delete @{memory} {{ meta priority . {client} : none }}"
    direct = f"dnat {keyword} to meta l4proto . meta priority map @{endpoints.name}"
    return [
        f"{identify} {picking} {remember} {recall} {direct}",
        f"{identify} {forget} {picking} {remember} {direct}",
        f"{identify} {picking} {direct}",
    ]


def describe_number(number: bytes) -> str:
    """`ID:N` as nft prints it."""
    value = struct.unpack("=I", number)[0]
    return f"{value >> 16:x}:{value & 0xFFFF:x}"
