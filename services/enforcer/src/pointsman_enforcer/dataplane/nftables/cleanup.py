# SPDX-License-Identifier: Apache-2.0
"""Removing what is ours: two tables, recognised by their name. Needs no plan, no settings and no nft."""

from __future__ import annotations

import errno

from pointsman_enforcer.dataplane.nftables.apply import TABLES
from pointsman_enforcer.dataplane.nftables.errors import NetlinkError
from pointsman_enforcer.dataplane.nftables.kernel import NftKernel
from pointsman_enforcer.dataplane.nftables.message import Batch, delete_table


def cleanup(nft: NftKernel) -> list[str]:
    """Delete our tables and all in them; returns the names of those that were there. May be repeated.

    Raises:
        NetlinkError: the kernel refused.
    """
    removed = []
    for table in TABLES.values():
        batch = Batch()
        batch.extend([delete_table(table)])
        try:
            nft.commit_blocking(batch)
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise
        else:
            removed.append(f"{table.family.keyword} {table.name}")
    return removed
