# SPDX-License-Identifier: Apache-2.0
"""How a packet is walked through rules: what expressions do, and that nothing unknown is passed over."""

from __future__ import annotations

import pytest
from conformance.executors.rendered.packet import Packet, UnknownRuleError
from conformance.executors.rendered.walk import ways

from pointsman_enforcer.dataplane.nftables import expressions as nft
from pointsman_enforcer.dataplane.nftables import layout, uapi
from pointsman_enforcer.dataplane.nftables.elements import add_keys, add_ranges
from pointsman_enforcer.dataplane.nftables.message import (
    Batch,
    Family,
    Message,
    Table,
    add_chain,
    add_nat_chain,
    add_rule,
    add_table,
)
from pointsman_enforcer.dataplane.nftables.sets import add_set
from pointsman_model.affinity import bucket_of
from support.fake_nftables import FakeNftables, FakeTable

TABLE = Table(family=Family.IPV4)
CLIENT, SERVER, HERE = bytes((203, 0, 113, 2)), bytes((172, 30, 0, 41)), bytes((192, 168, 0, 2))
PACKET = Packet(source=CLIENT, destination=SERVER, port=80, protocol=6, interface="out0")
DADDR = nft.payload(0, nft.NETWORK_HEADER, 16, 4)


def programmed(*messages: Message) -> FakeTable:
    """A table with base chains `in` and `out`, and this in it."""
    kernel = FakeNftables()
    chains = [
        add_nat_chain(TABLE, "in", hook=uapi.NF_INET_PRE_ROUTING, priority=-100),
        add_nat_chain(TABLE, "out", hook=uapi.NF_INET_POST_ROUTING, priority=100),
    ]
    kernel.commit_blocking(Batch([add_table(TABLE), *chains, *messages]))
    return kernel.tables[Family.IPV4, TABLE.name]


def rule(*expressions: bytes, chain: str = "in") -> Message:
    return add_rule(TABLE, chain, expressions)


def ends(*messages: Message, packet: Packet = PACKET) -> list[Packet]:
    return list(ways(programmed(*messages), packet, local=frozenset({HERE})))


DROP = nft.verdict(uapi.NF_DROP)


@pytest.mark.parametrize(
    "expression",
    [
        nft.value_range(0, b"\0\0", b"\1\1"),
        nft.ct(0, nft.Ct.STATE),
        nft.payload(0, nft.TRANSPORT_HEADER, 0, 2),
        nft.meta_set(nft.Meta.IIFNAME, 0),
        nft.masquerade(),
        nft.cmp(1, SERVER),
        nft.verdict(7),
    ],
    ids=["range", "ct state", "source port", "set iifname", "masquerade here", "empty register", "verdict 7"],
)
def test_what_is_not_known_is_an_error(expression: bytes) -> None:
    with pytest.raises(UnknownRuleError):
        ends(rule(DADDR, expression))


def test_a_policy_other_than_accept_is_an_error() -> None:
    table = programmed()
    table.policies["in"] = uapi.NF_DROP
    with pytest.raises(UnknownRuleError, match="policy 0 of chain in"):
        list(ways(table, PACKET, local=frozenset()))


def test_every_random_number_is_tried_and_each_once() -> None:
    found = ends(rule(nft.numgen_random(0, 3, 5), nft.meta_set(nft.Meta.MARK, 0)), rule(nft.numgen_random(1, 2)))
    assert sorted(packet.mark for packet in found) == [5, 5, 6, 6, 7, 7]


def test_the_hash_is_the_one_that_decides_first_picks() -> None:
    source = nft.payload(4, nft.NETWORK_HEADER, 12, 4)
    hashed = nft.jhash(4, 4, modulus=251, seed=0x706D, into=0, offset=1000)
    (packet,) = ends(rule(source, hashed, nft.meta_set(nft.Meta.MARK, 0)))
    assert packet.mark == 1000 + bucket_of(CLIENT, 251)


def test_jump_comes_back_goto_does_not_and_return_leaves_the_chain() -> None:
    other = add_chain(TABLE, "other")
    jump, goto, back = nft.verdict(uapi.NFT_JUMP, "other"), nft.verdict(uapi.NFT_GOTO, "other"), uapi.NFT_RETURN
    assert ends(other, rule(jump), rule(DROP))[0].refusal == "DROP"
    assert ends(other, rule(goto), rule(DROP))[0].refusal == ""
    assert ends(other, rule(nft.verdict(back)), rule(DROP))[0].refusal == ""
    assert ends(other, rule(jump), rule(DROP, chain="other"))[0].refusal == "DROP"


def test_too_many_jumps_are_an_error() -> None:
    chains = [add_chain(TABLE, f"c{number}") for number in range(17)]
    jumps = [rule(nft.verdict(uapi.NFT_JUMP, f"c{n + 1}"), chain=f"c{n}") for n in range(16)]
    with pytest.raises(UnknownRuleError, match="jumps deep"):
        ends(*chains, *jumps, rule(nft.verdict(uapi.NFT_JUMP, "c0")))


def test_what_is_for_this_host_meets_no_postrouting_and_what_goes_out_does() -> None:
    dropped = rule(DROP, chain="out")
    assert ends(dropped)[0].refusal == "DROP"
    delivered = Packet(source=CLIENT, destination=HERE, port=80, protocol=6, interface="out0")
    assert ends(dropped, packet=delivered)[0].refusal == ""
    own = Packet(source=HERE, destination=HERE, port=80, protocol=6)
    assert ends(dropped, packet=own)[0].refusal == "DROP"


def test_an_icmp_error_that_clients_do_not_take_for_refusal_is_told_apart() -> None:
    assert ends(rule(nft.reject(nft.ICMP_PORT_UNREACHABLE)))[0].refusal == "REJECT"
    assert ends(rule(nft.reject(0)))[0].refusal == "ICMP unreachable, code 0"


@pytest.mark.parametrize(
    ("address", "is_in"),
    [((10, 0, 0, 0), True), ((10, 255, 255, 255), True), ((9, 255, 255, 255), False), ((11, 0, 0, 0), False)],
)
def test_ranges_include_both_ends(address: tuple[int, ...], is_in: bool) -> None:
    blocks = [(bytes((10, 0, 0, 0)), bytes((10, 255, 255, 255))), (bytes((12, 0, 0, 0)), bytes((12, 0, 0, 9)))]
    table = [add_set(TABLE, layout.SERVICE_CIDRS, 1), *add_ranges(TABLE, layout.SERVICE_CIDRS, blocks)]
    packet = Packet(source=CLIENT, destination=bytes(address), port=80, protocol=6, interface="out0")
    found = ends(*table, rule(DADDR, nft.lookup(0, layout.SERVICE_CIDRS.name), DROP), packet=packet)
    assert (found[0].refusal == "DROP") is is_in


def test_an_element_that_is_updated_keeps_its_value_and_is_forgotten_in_time() -> None:
    def update(mark: int) -> Message:
        loaded = [DADDR, nft.immediate(1, CLIENT), nft.immediate(2, mark.to_bytes(4, "little"))]
        return rule(*loaded, nft.update_element(0, 2, layout.AFFINITY.name, 1000))

    table = programmed(add_set(TABLE, layout.AFFINITY, 1), update(7), update(8))
    list(ways(table, PACKET, local=frozenset()))
    (element,) = table.sets[layout.AFFINITY.name].values()
    assert (int.from_bytes(element.data, "little"), element.expiration_ms) == (7, 1000)
    table.pass_time(999)
    assert table.sets[layout.AFFINITY.name]
    table.pass_time(1)
    assert not table.sets[layout.AFFINITY.name]


def test_a_full_memory_ends_the_rule() -> None:
    spec = layout.AFFINITY.__class__(name="tiny", key=layout.AFFINITY.key, data=layout.AFFINITY.data, size=1)
    update = [DADDR, nft.immediate(1, CLIENT), nft.immediate(2, CLIENT), nft.update_element(0, 2, "tiny", 1000)]
    table = programmed(add_set(TABLE, spec, 1), rule(*update, DROP))
    assert next(ways(table, PACKET, local=frozenset())).refusal == "DROP"
    other = Packet(source=CLIENT, destination=CLIENT, port=80, protocol=6, interface="out0")
    assert next(ways(table, other, local=frozenset())).refusal == ""


def test_keys_that_were_added_are_found_and_no_others() -> None:
    known = [add_set(TABLE, layout.CLUSTER_IPS, 1), *add_keys(TABLE, layout.CLUSTER_IPS, [SERVER])]
    looked_up = rule(DADDR, nft.lookup(0, layout.CLUSTER_IPS.name), DROP)
    inverted = rule(DADDR, nft.lookup(0, layout.CLUSTER_IPS.name, inverted=True), DROP)
    assert ends(*known, looked_up)[0].refusal == "DROP"
    assert ends(*known, inverted)[0].refusal == ""
