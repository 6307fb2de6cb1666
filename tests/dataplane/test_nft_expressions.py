# SPDX-License-Identifier: Apache-2.0
"""Each expression, alone in a rule, is printed by stock nft as the manual writes it."""

from __future__ import annotations

import struct

import pytest

from pointsman_enforcer.dataplane.nftables import expressions as nft
from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.message import (
    Batch,
    Family,
    Table,
    add_chain,
    add_nat_chain,
    add_rule,
    add_table,
    delete_chain,
)
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket
from pointsman_enforcer.dataplane.nftables.sets import Field, SetSpec, add_set
from support.netns import NetNs

pytestmark = pytest.mark.root
TABLE = Table(family=Family.IPV4, name="t")
SOURCE = nft.payload(0, nft.NETWORK_HEADER, 12, 4)
MARK = nft.meta(0, nft.Meta.MARK)


def host(number: int) -> bytes:
    return struct.pack("=I", number)


CASES = {
    "ip saddr 192.0.2.1": [SOURCE, nft.cmp(0, bytes((192, 0, 2, 1)))],
    "ip saddr != 192.0.2.1": [SOURCE, nft.cmp(0, bytes((192, 0, 2, 1)), equal=False)],
    "ip saddr 192.0.0.0/15": [
        SOURCE,
        nft.bitwise(0, bytes((255, 254, 0, 0)), bytes(4)),
        nft.cmp(0, bytes((192, 0, 0, 0))),
    ],
    "ip saddr != 10.0.0.1-10.0.0.9": [
        SOURCE,
        nft.value_range(0, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 9)), inside=False),
    ],
    "ip saddr @s": [SOURCE, nft.lookup(0, "s")],
    "ip saddr != @s": [SOURCE, nft.lookup(0, "s", inverted=True)],
    "ip saddr vmap @v": [SOURCE, nft.lookup_verdict(0, "v")],
    "meta mark set ip saddr map @m": [SOURCE, nft.lookup_value(0, "m", into=0), nft.meta_set(nft.Meta.MARK, 0)],
    "meta mark set 0x00000007": [nft.immediate(0, host(7)), nft.meta_set(nft.Meta.MARK, 0)],
    "meta mark set numgen random mod 5 offset 9": [nft.numgen_random(0, 5, 9), nft.meta_set(nft.Meta.MARK, 0)],
    "meta mark set jhash ip saddr mod 5 seed 0x7": [
        nft.payload(4, nft.NETWORK_HEADER, 12, 4),
        nft.jhash(4, 4, modulus=5, seed=7, into=0),
        nft.meta_set(nft.Meta.MARK, 0),
    ],
    "meta mark set meta mark | 0x00000010": [
        MARK,
        nft.bitwise(0, host(0xFFFFFFEF), host(0x10)),
        nft.meta_set(nft.Meta.MARK, 0),
    ],
    "ct status dnat": [
        nft.ct(0, nft.Ct.STATUS),
        nft.bitwise(0, host(nft.IPS_DST_NAT), host(0)),
        nft.cmp(0, host(0), equal=False),
    ],
    "fib daddr type local": [nft.fib_type(0, nft.Fib.DADDR), nft.cmp(0, host(nft.RTN_LOCAL))],
    "counter packets 0 bytes 0": [nft.counter()],
    "reject": [nft.reject(nft.ICMP_PORT_UNREACHABLE)],
    "reject with icmp host-unreachable": [nft.reject(1)],
    "masquerade fully-random": [nft.masquerade()],
    "jump c": [nft.verdict(uapi.NFT_JUMP, "c")],
    "goto c": [nft.verdict(uapi.NFT_GOTO, "c")],
    "drop": [nft.verdict(uapi.NF_DROP)],
    "accept": [nft.verdict(uapi.NF_ACCEPT)],
    "return": [nft.verdict(uapi.NFT_RETURN)],
}


def test_every_expression_is_printed_as_the_manual_writes_it() -> None:
    batch = Batch()
    batch.extend(
        [
            add_table(TABLE),
            add_set(TABLE, SetSpec(name="s", key=(Field.ADDRESS,)), 1),
            add_set(TABLE, SetSpec(name="v", key=(Field.ADDRESS,), verdicts=True), 2),
            add_set(TABLE, SetSpec(name="m", key=(Field.ADDRESS,), data=(Field.MARK,)), 3),
            add_chain(TABLE, "c"),
            add_nat_chain(TABLE, "post", hook=uapi.NF_INET_POST_ROUTING, priority=uapi.PRIORITY_SRCNAT),
            add_chain(TABLE, "every"),
            *(add_rule(TABLE, "every", expressions) for expressions in CASES.values()),
        ]
    )
    with NetNs("expr") as namespace, namespace.call(NftSocket) as nftables:
        nftables.commit_blocking(batch)
        listing = namespace.run("nft", "list", "chain", "ip", "t", "every")
        gone = Batch()
        gone.extend([delete_chain(TABLE, "every")])
        nftables.commit_blocking(gone)
        assert "every" not in nftables.chain_names(TABLE)
    assert [line.strip() for line in listing.splitlines()[2:-2]] == list(CASES)
