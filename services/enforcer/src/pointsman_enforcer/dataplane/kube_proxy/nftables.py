# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's nftables mode: two tables of its own, so nobody else's rules can lead into them: a `Leftover`."""

from __future__ import annotations

from typing import Final

from pointsman_enforcer.dataplane.kube_proxy.names import NFT_TABLE
from pointsman_enforcer.dataplane.leftovers import LeftoverError
from pointsman_enforcer.dataplane.nftables.errors import NftablesError
from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Table, delete_table
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket

_TABLES: Final = tuple(Table(family=family, name=NFT_TABLE) for family in Family)


class KubeProxyNftables:
    """The tables `ip kube-proxy` and `ip6 kube-proxy`; asked by netlink, without nft."""

    is_waiting = False
    """Never: connections are kept by the connection table, not by rules."""
    name = "kube-proxy's nftables tables"

    async def find(self) -> str:
        """See `Leftover.find`."""
        try:
            with NftSocket() as nft:
                return ", ".join(f"table {table.family.keyword} {table.name}" for table in _present(nft))
        except OSError:
            return ""  # no nf_tables in this kernel, so no tables
        except NftablesError as error:
            raise LeftoverError(f"{self.name}: {error}") from error

    async def remove(self) -> int:
        """See `Leftover.remove`: both tables in one transaction."""
        try:
            with NftSocket() as nft:
                batch = Batch()
                batch.extend([delete_table(table) for table in _present(nft)])
                nft.commit_blocking(batch)
                return len(batch)
        except (NftablesError, OSError) as error:
            raise LeftoverError(f"{self.name}: {error}") from error


def _present(nft: NftSocket) -> list[Table]:
    return [table for table in _TABLES if nft.table_exists(table)]
