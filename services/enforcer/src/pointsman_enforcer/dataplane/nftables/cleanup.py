# SPDX-License-Identifier: Apache-2.0
"""Removing what is ours: two tables, recognised by their name. Needs no plan, no settings and no nft.

First nothing leads to our rules any more, and a moment later they go. A deletion at once takes elements of maps before
those of sets, so a packet inside our rules at that instant could miss its service and still be refused.
"""

from __future__ import annotations

import errno
import time
from typing import Final

from pointsman_enforcer.dataplane.nftables.apply import TABLES
from pointsman_enforcer.dataplane.nftables.errors import NetlinkError
from pointsman_enforcer.dataplane.nftables.kernel import NftKernel
from pointsman_enforcer.dataplane.nftables.message import Batch, Message, Table, delete_table, flush_chain
from pointsman_enforcer.dataplane.nftables.rules import OUTPUT_CHAIN, PREROUTING_CHAIN

_PASSAGE_SECONDS: Final = 0.02
"""Longer than a packet is on its way through our rules."""


def cleanup(nft: NftKernel) -> list[str]:
    """Delete our tables and all in them; returns the names of those that were there. May be repeated.

    Raises:
        NetlinkError: the kernel refused.
    """
    unhooked = [
        _commit(nft, flush_chain(table, chain))
        for table in TABLES.values()
        for chain in (PREROUTING_CHAIN, OUTPUT_CHAIN)
    ]
    if any(unhooked):
        time.sleep(_PASSAGE_SECONDS)
    return [_name(table) for table in TABLES.values() if _commit(nft, delete_table(table))]


def _commit(nft: NftKernel, message: Message) -> bool:
    """One transaction; false when what it names is not there."""
    batch = Batch()
    batch.extend([message])
    try:
        nft.commit_blocking(batch)
    except NetlinkError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def _name(table: Table) -> str:
    return f"{table.family.keyword} {table.name}"
