# SPDX-License-Identifier: Apache-2.0
"""Stock nft prints all we install, as the golden files say, and can load back what it printed.

`POINTSMAN_UPDATE_GOLDEN=1` rewrites the golden files.
"""

from __future__ import annotations

import ipaddress
import os
import re
import struct
from pathlib import Path

import pytest

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.apply import describe_chain
from pointsman_enforcer.dataplane.nftables.chains import endpoint_chains
from pointsman_enforcer.dataplane.nftables.elements import add_elements, add_keys, add_ranges, add_timed
from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Message, Table
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket
from pointsman_enforcer.dataplane.nftables.settings import PodInterface, PodPrefix, SkeletonSettings
from pointsman_enforcer.dataplane.nftables.skeleton import skeleton
from support.netns import NetNs
from support.nft_world import ADDRESSES, SCTP, TCP, UDP

pytestmark = pytest.mark.root
GOLDEN = Path(__file__).parent / "golden"
FAMILIES = pytest.mark.parametrize("family", [Family.IPV4, Family.IPV6], ids=["ip", "ip6"])


def full_table(family: Family) -> Batch:
    """Every set with an element or two, every kind of chain."""
    table, at = Table(family=family), ADDRESSES[family]

    def packed(address: str) -> bytes:
        return layout.packed(address, family)

    batch = Batch()
    batch.extend(skeleton(table, SkeletonSettings(pods=PodPrefix(network=ipaddress.ip_network(at.pods)))))
    for chain in (*endpoint_chains(2), *endpoint_chains(251, affinity_seconds=10800)):
        batch.extend(chain.messages(table))
    keys = [layout.frontend_key(packed(at.cluster_ip), protocol, 80) for protocol in (TCP, UDP, SCTP)]
    outside = layout.frontend_key(packed(at.load_balancer), TCP, 443)
    port = layout.nodeport_key(TCP, 30080)
    value = layout.endpoint_value(packed(at.pod1), 8080)
    verdicts = [*zip(keys, (b"cluster-2", b"reject-traffic", b"drop-traffic"), strict=True), (outside, b"local-2")]
    batch.extend(add_elements(table, layout.SERVICE_IPS, verdicts))
    batch.extend(add_elements(table, layout.SERVICE_IPS_FROM_POD, [(outside, b"cluster-2")]))
    batch.extend(add_elements(table, layout.SERVICE_IPS_FROM_HOST, [(outside, b"cluster-2-masq")]))
    batch.extend(add_elements(table, layout.NODEPORTS, [(port, b"nodeport-local-2")]))
    batch.extend(add_elements(table, layout.NODEPORTS_FROM_POD, [(port, b"nodeport-cluster-2")]))
    batch.extend(add_elements(table, layout.NODEPORTS_FROM_HOST, [(port, b"nodeport-cluster-2-masq")]))
    slots = (0, layout.LOCAL_SLOT_BASE)
    batch.extend(add_elements(table, layout.ENDPOINTS, [(layout.slot_key(keys[0], slot), value) for slot in slots]))
    batch.extend(
        add_elements(table, layout.NODEPORT_ENDPOINTS, [(layout.slot_key(port, slot), value) for slot in slots])
    )
    batch.extend(affinity_elements(table, keys[0], port, value))
    batch.extend(add_keys(table, layout.CLUSTER_IPS, [packed(at.cluster_ip)]))
    batch.extend(add_keys(table, layout.HAIRPIN, [layout.hairpin_key(packed(at.pod1))]))
    batch.extend(add_keys(table, layout.FIREWALLED, [outside]))
    allowed = [ipaddress.ip_network(at.allowed), ipaddress.ip_network(at.node)]
    batch.extend(add_ranges(table, layout.ALLOWED_SOURCES, layout.source_ranges(outside, allowed)))
    for spec, network in ((layout.SERVICE_CIDRS, at.service_cidr), (layout.NODEPORT_ADDRESSES, at.anywhere)):
        ranges = layout.address_ranges([ipaddress.ip_network(network)])
        batch.extend(add_ranges(table, spec, ranges))
    return batch


def affinity_elements(table: Table, key: bytes, port: bytes, value: bytes) -> list[Message]:
    """One port of two frontends, with one endpoint and one client."""
    number, member = struct.pack("=I", 0xC0010000), struct.pack("=I", 0xC0010007)
    client = layout.packed(ADDRESSES[table.family].client, table.family)
    endpoint = bytes((TCP, 0, 0, 0)) + member
    return [
        *add_elements(table, layout.AFFINITY_IDS, [(key, number)]),
        *add_elements(table, layout.AFFINITY_NODEPORT_IDS, [(port, number)]),
        *add_elements(table, layout.AFFINITY_PICKS, [(layout.slot_key(number, slot), member) for slot in (0, 1)]),
        *add_elements(table, layout.AFFINITY_ENDPOINTS, [(endpoint, value)]),
        *add_elements(table, layout.AFFINITY_LOCAL_ENDPOINTS, [(endpoint, value)]),
        *add_timed(table, layout.AFFINITY, [(number + client, member, 10_800_000, 10_000_000)]),
    ]


def canonical(listing: str) -> str:
    """Elements of hash sets come in any order: one per line, sorted. The skeleton's hash and times are left out."""

    def sorted_elements(match: re.Match[str]) -> str:
        elements = sorted(re.split(r",\s+", match[1]))
        return "elements = {\n\t\t\t" + ",\n\t\t\t".join(elements) + "\n\t\t}"

    listing = re.sub(r"elements = \{ (.*?) \}", sorted_elements, listing, flags=re.DOTALL)
    listing = re.sub(r"expires [0-9a-z]+", "expires TIME", listing)
    return re.sub(r"skeleton [0-9a-f]{16}", "skeleton HASH", listing)


@FAMILIES
def test_the_listing_is_the_golden_one(family: Family) -> None:
    with NetNs("golden") as namespace, namespace.call(NftSocket) as nft:
        nft.commit_blocking(full_table(family))
        listing = canonical(namespace.ruleset())
    golden = GOLDEN / f"nft_{family.keyword}.nft"
    if os.environ.get("POINTSMAN_UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(listing)
    assert listing == golden.read_text()


@FAMILIES
def test_nft_loads_back_what_it_printed(family: Family) -> None:
    with NetNs("reload") as namespace, namespace.call(NftSocket) as nft:
        nft.commit_blocking(full_table(family))
        listing = namespace.ruleset()
        namespace.run("nft", "flush", "ruleset")
        namespace.run("nft", "-f", "-", stdin=listing)
        assert canonical(namespace.ruleset()) == canonical(listing)


@FAMILIES
def test_a_dry_run_shows_the_chains_as_nft_lists_them(family: Family) -> None:
    table = Table(family=family)
    chains = (*endpoint_chains(2), *endpoint_chains(251, affinity_seconds=59))
    batch = Batch()
    batch.extend(skeleton(table, SkeletonSettings()))
    for chain in chains:
        batch.extend(chain.messages(table))
    with NetNs("dry") as namespace, namespace.call(NftSocket) as nft:
        nft.commit_blocking(batch)
        listing = re.sub(r' comment "[^"]*"| packets 0 bytes 0', "", namespace.ruleset())
    for chain in chains:
        head = f"{family.keyword} pointsman {chain.name}"
        body = listing.partition(f"chain {chain.name} {{\n")[2].partition("\n\t}")[0]
        rules = [f"add rule {head} {line.strip()}" for line in body.splitlines()]
        assert describe_chain(family, chain.name).splitlines() == [f"add chain {head}", *rules]


@pytest.mark.parametrize(
    ("settings", "matches", "masquerades"),
    [
        (SkeletonSettings(), None, None),
        (SkeletonSettings(masquerade_all=True), None, "ip daddr @cluster_ips jump mark-for-masquerade"),
        (
            SkeletonSettings(pods=PodPrefix(network=ipaddress.ip_network("10.1.2.3/32"))),
            "ip saddr 10.1.2.3 ",
            "ip saddr != 10.1.2.3 jump",
        ),
        (
            SkeletonSettings(pods=PodPrefix(network=ipaddress.ip_network("10.128.0.0/9"))),
            "ip saddr 10.128.0.0/9 ",
            "ip saddr != 10.128.0.0/9 jump",
        ),
        (SkeletonSettings(pods=PodPrefix(network=ipaddress.ip_network("0.0.0.0/0"))), None, None),
        (SkeletonSettings(pods=PodInterface(name="cni0")), 'iifname "cni0" ', 'iifname != "cni0" jump'),
        (SkeletonSettings(pods=PodInterface(name="cali", prefix=True)), 'iifname "cali*" ', 'iifname != "cali*" jump'),
    ],
    ids=["none", "all", "host", "odd-prefix", "everybody", "bridge", "prefix"],
)
def test_every_detector_lists_as_nft_would_write_it(
    settings: SkeletonSettings, matches: str | None, masquerades: str | None
) -> None:
    with NetNs("detect") as namespace, namespace.call(NftSocket) as nft:
        batch = Batch()
        batch.extend(skeleton(Table(family=Family.IPV4), settings))
        nft.commit_blocking(batch)
        listing = namespace.ruleset()
    dispatch = next((line for line in listing.splitlines() if "vmap @service_ips_from_pod" in line), "")
    marking = [line for line in listing.splitlines() if "jump mark-for-masquerade" in line]
    if matches is not None:
        assert matches in dispatch
    assert any(masquerades in line for line in marking) if masquerades else not marking
