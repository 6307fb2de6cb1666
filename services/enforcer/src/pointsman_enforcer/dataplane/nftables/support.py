# SPDX-License-Identifier: Apache-2.0
"""Whether this kernel can do what we ask: tried, not read off a version number, before anything is built on it."""

from __future__ import annotations

from typing import Final

from pointsman_chassis.errors import UnsupportedError
from pointsman_enforcer.dataplane import exec  # noqa: A004 - the door is named after what passes it
from pointsman_enforcer.dataplane.nftables.chains import endpoint_chains
from pointsman_enforcer.dataplane.nftables.errors import NetlinkError
from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Table, delete_table
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket
from pointsman_enforcer.dataplane.nftables.settings import SkeletonSettings
from pointsman_enforcer.dataplane.nftables.skeleton import replacement

CAPABILITIES: Final = frozenset({"source-ranges", "weights", "affinity"})
"""Names this backend answers to in ServicePlan.required_capabilities."""
_PROBE_TABLE: Final = "pointsman-probe"


def probe() -> None:
    """Make a table with every kind of object we use, and take it away again, in one transaction.

    Raises:
        UnsupportedError: the kernel refused it, or the process may not ask.
    """
    try:
        with NftSocket() as nft:
            for family in Family:
                _probe_family(nft, Table(family=family, name=_PROBE_TABLE))
    except (NetlinkError, OSError) as error:
        raise UnsupportedError(
            f"nftables mode does not work here: {error}. It needs CAP_NET_ADMIN and Linux 5.13 with nf_tables, "
            "nft_nat, nft_masq, nft_fib, nft_numgen, nft_hash and nft_reject"
        ) from error


def nft_version() -> str:
    """What the nft tool says it is, empty when there is none. The enforcer itself does not need it."""
    tool = exec.find("nft")
    if tool is None:
        return ""
    try:
        return exec.run([tool, "--version"]).strip().partition("\n")[0]
    except exec.CommandError:
        return ""


def _probe_family(nft: NftSocket, table: Table) -> None:
    batch = Batch()
    batch.extend(replacement(table, SkeletonSettings()))
    for chain in (*endpoint_chains(1), *endpoint_chains(1, affinity_seconds=1)):
        batch.extend(chain.messages(table))
    batch.extend([delete_table(table)])
    nft.commit_blocking(batch)
