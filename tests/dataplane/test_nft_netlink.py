# SPDX-License-Identifier: Apache-2.0
"""The transport against the real kernel: proof of commit, errors by message, size, dumps."""

from __future__ import annotations

import asyncio
import errno
import struct
from typing import TYPE_CHECKING

import pytest

from pointsman_enforcer.dataplane.nftables import expressions, layout, uapi
from pointsman_enforcer.dataplane.nftables.chains import EndpointChain
from pointsman_enforcer.dataplane.nftables.elements import add_elements, add_keys, add_timed, delete_keys
from pointsman_enforcer.dataplane.nftables.errors import DumpInterruptedError, NetlinkError
from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Table, add_chain, add_rule, add_table
from pointsman_enforcer.dataplane.nftables.netlink import IN_LOOP_BYTES_MAX, NftSocket
from pointsman_enforcer.dataplane.nftables.sets import Field, SetSpec, add_set
from pointsman_enforcer.dataplane.nftables.settings import SkeletonSettings
from pointsman_enforcer.dataplane.nftables.skeleton import Adoption, adoption, replacement, skeleton
from support.netns import NetNs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman_enforcer.dataplane.nftables.message import Message

pytestmark = pytest.mark.root

TABLE = Table(family=Family.IPV4)


@pytest.fixture
def namespace() -> Iterator[NetNs]:
    with NetNs("nft") as made:
        yield made


@pytest.fixture
def nft(namespace: NetNs) -> Iterator[NftSocket]:
    with namespace.call(NftSocket) as opened:
        yield opened


def batch(*groups: list[Message]) -> Batch:
    made = Batch()
    for group in groups:
        made.extend(group)
    return made


def address(number: int) -> bytes:
    return struct.pack(">I", 0x0A000000 + number)


def service(number: int, endpoints: int = 3) -> list[Message]:
    """A service with its endpoints, in the fewest messages."""
    key = layout.frontend_key(address(number), 6, 80)
    slots = [(layout.slot_key(key, slot), layout.endpoint_value(address(slot), 8080)) for slot in range(endpoints)]
    return [
        *add_elements(TABLE, layout.ENDPOINTS, slots),
        *add_elements(TABLE, layout.SERVICE_IPS, [(key, b"cluster-3")]),
    ]


def base(nft: NftSocket) -> None:
    nft.commit_blocking(batch(skeleton(TABLE, SkeletonSettings()), EndpointChain(slots=3).messages(TABLE)))


def test_a_refused_message_is_named_and_nothing_of_its_batch_is_applied(nft: NftSocket) -> None:
    base(nft)
    key = layout.frontend_key(address(1), 6, 80)
    bad = add_elements(TABLE, layout.SERVICE_IPS, [(key, b"no-such-chain")])
    good = add_keys(TABLE, layout.CLUSTER_IPS, [address(1)])
    with pytest.raises(NetlinkError, match=r"refused message 2 \(add elements to service_ips.*ENOENT") as caught:
        nft.commit_blocking(batch(good, service(2)[:1], bad, service(3)))
    assert (caught.value.errno, caught.value.message_index) == (errno.ENOENT, 2)
    assert caught.value.outcome_known
    assert caught.value.offset is not None
    assert list(nft.dump_elements(TABLE, layout.CLUSTER_IPS)) == []
    assert nft.counters.failed_commits == 1


def test_a_fault_found_at_commit_concerns_the_batch_as_a_whole(nft: NftSocket) -> None:
    jump = [expressions.verdict(uapi.NFT_JUMP, "next-0")]
    depth = 20
    chains = [add_chain(TABLE, f"next-{number}") for number in range(depth)]
    rules = [
        add_rule(TABLE, f"next-{number}", [expressions.verdict(uapi.NFT_JUMP, f"next-{number + 1}")])
        for number in range(depth - 1)
    ]
    base(nft)
    with pytest.raises(NetlinkError) as caught:
        nft.commit_blocking(batch(chains, rules, [add_rule(TABLE, "services", jump)]))
    assert caught.value.errno == errno.EMLINK
    assert "next-0" not in nft.chain_names(TABLE)
    assert "services" in nft.chain_names(TABLE)


def test_the_kernels_own_words_reach_the_error(nft: NftSocket) -> None:
    nft.commit_blocking(batch([add_table(TABLE), add_chain(TABLE, "c")]))
    unknown = expressions.lookup(0, "nowhere")
    with pytest.raises(NetlinkError) as caught:
        nft.commit_blocking(batch([add_rule(TABLE, "c", [unknown])]))
    assert caught.value.errno == errno.ENOENT
    assert caught.value.what == "add rule to chain c: table ip pointsman"


def test_one_batch_of_several_megabytes_is_one_transaction(nft: NftSocket) -> None:
    base(nft)
    before = nft.generation()
    big = batch(*(service(number, endpoints=20) for number in range(3000)))
    assert big.payload_bytes() > 2_000_000
    nft.commit_blocking(big)
    assert nft.generation() == before + 1
    assert sum(1 for _ in nft.dump_elements(TABLE, layout.ENDPOINTS)) == 60_000


def test_many_refusals_do_not_lose_the_first(nft: NftSocket) -> None:
    base(nft)
    missing = [delete_keys(TABLE, layout.CLUSTER_IPS, [address(number)]) for number in range(20_000)]
    with pytest.raises(NetlinkError) as caught:
        nft.commit_blocking(batch(*missing))
    assert (caught.value.errno, caught.value.message_index) == (errno.ENOENT, 0)
    nft.commit_blocking(batch(service(1)))


async def test_commits_work_from_the_event_loop_small_and_large(nft: NftSocket) -> None:
    base(nft)
    large = batch(*(service(number) for number in range(1000, 2000)))
    assert large.payload_bytes() > IN_LOOP_BYTES_MAX
    await asyncio.gather(nft.commit(large), *(nft.commit(batch(service(number))) for number in range(50)))
    assert sum(1 for _ in nft.dump_elements(TABLE, layout.SERVICE_IPS)) == 1050


def test_one_change_costs_the_same_bytes_at_any_number_of_services(nft: NftSocket) -> None:
    costs = set()
    loaded = 0
    for services in (10, 5000):
        nft.commit_blocking(batch(replacement(TABLE, SkeletonSettings()), EndpointChain(slots=3).messages(TABLE)))
        nft.commit_blocking(batch(*(service(number) for number in range(services))))
        loaded += services
        messages, sent, dumps = nft.counters.messages, nft.counters.bytes, nft.counters.dumps
        key = layout.slot_key(layout.frontend_key(address(5), 6, 80), 1)
        nft.commit_blocking(
            batch(
                delete_keys(TABLE, layout.ENDPOINTS, [key]),
                add_elements(TABLE, layout.ENDPOINTS, [(key, layout.endpoint_value(address(99), 9))]),
            )
        )
        costs.add((nft.counters.messages - messages, nft.counters.bytes - sent, nft.counters.dumps - dumps))
    assert len(costs) == 1
    assert costs.pop()[::2] == (2, 0)


def test_reading_what_is_not_there_gives_nothing(nft: NftSocket) -> None:
    assert not nft.table_exists(TABLE)
    assert nft.chain_names(TABLE) == []
    assert nft.set_names(TABLE) == []
    assert list(nft.dump_elements(TABLE, layout.STATE)) == []


def test_only_our_own_table_is_listed(namespace: NetNs, nft: NftSocket) -> None:
    namespace.run("nft", "-f", "-", stdin="table ip other { set s { type mark; }; chain c { }; }")
    base(nft)
    assert "c" not in nft.chain_names(TABLE)
    assert "s" not in nft.set_names(TABLE)
    assert set(nft.set_names(TABLE)) == {spec.name for spec in layout.ALL_SETS}


def test_a_dump_returns_exactly_what_was_added(nft: NftSocket) -> None:
    base(nft)
    nft.commit_blocking(batch(service(1), service(2)))
    verdicts = {(element.key, element.data) for element in nft.dump_elements(TABLE, layout.SERVICE_IPS)}
    assert verdicts == {(layout.frontend_key(address(number), 6, 80), b"cluster-3") for number in (1, 2)}
    endpoints = {element.key: element.data for element in nft.dump_elements(TABLE, layout.ENDPOINTS)}
    key = layout.slot_key(layout.frontend_key(address(2), 6, 80), 2)
    assert endpoints[key] == layout.endpoint_value(address(2), 8080)
    assert len(endpoints) == 6


def test_a_dump_that_is_overtaken_by_a_change_says_so_and_the_socket_stays_usable(nft: NftSocket) -> None:
    base(nft)
    nft.commit_blocking(batch(*(service(number, endpoints=20) for number in range(1000))))
    dump = nft.dump_elements(TABLE, layout.ENDPOINTS)
    next(dump)
    nft.commit_blocking(batch(service(5000)))
    with pytest.raises(DumpInterruptedError):
        list(dump)
    assert sum(1 for _ in nft.dump_elements(TABLE, layout.ENDPOINTS)) == 20_003


def test_a_dump_may_be_left_half_way(nft: NftSocket) -> None:
    base(nft)
    nft.commit_blocking(batch(*(service(number, endpoints=20) for number in range(1000))))
    dump = nft.dump_elements(TABLE, layout.ENDPOINTS)
    next(dump)
    dump.close()  # type: ignore[attr-defined]  # it is a generator
    assert nft.chain_names(TABLE)


def test_changed_settings_rewrite_the_rules_and_keep_every_element(namespace: NetNs, nft: NftSocket) -> None:
    base(nft)
    nft.commit_blocking(batch(service(1)))
    changed = SkeletonSettings(masquerade_bit=15)
    state = list(nft.dump_elements(TABLE, layout.STATE))
    assert adoption(state, TABLE, SkeletonSettings()) is Adoption.KEEP
    assert adoption(state, TABLE, changed) is Adoption.REWRITE
    assert adoption([], TABLE, changed) is Adoption.REPLACE
    nft.commit_blocking(batch(skeleton(TABLE, changed)))
    assert adoption(nft.dump_elements(TABLE, layout.STATE), TABLE, changed) is Adoption.KEEP
    assert len(list(nft.dump_elements(TABLE, layout.ENDPOINTS))) == 3
    listing = namespace.ruleset()
    assert "0x00008000" in listing
    assert "0x00004000" not in listing


def test_foreign_tables_survive_a_replacement(namespace: NetNs, nft: NftSocket) -> None:
    foreign = "table ip other {\n\tchain c {\n\t\tcounter packets 0 bytes 0 accept\n\t}\n}\n"
    namespace.run("nft", "-f", "-", stdin=foreign)
    base(nft)
    nft.commit_blocking(batch(replacement(TABLE, SkeletonSettings())))
    assert namespace.run("nft", "list", "table", "ip", "other") == foreign


def test_timed_elements_are_seeded_with_the_time_they_have_left(nft: NftSocket) -> None:
    spec = SetSpec(name="seen", key=(Field.ADDRESS,), data=(Field.ADDRESS,), timeout=True)
    seeds = add_timed(TABLE, spec, [(address(1), address(2), 3_600_000, 60_000)])
    nft.commit_blocking(batch([add_table(TABLE), add_set(TABLE, spec, 1)], seeds))
    (element,) = nft.dump_elements(TABLE, spec)
    assert (element.key, element.data) == (address(1), address(2))
    assert 0 < element.expiration_ms <= 60_000
