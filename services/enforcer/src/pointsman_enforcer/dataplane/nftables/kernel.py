# SPDX-License-Identifier: Apache-2.0
"""What the backend asks of nf_tables. `NftSocket` is the real one; tests have one in memory, held to the same tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pointsman_enforcer.dataplane.nftables.elements import Element, Timed
from pointsman_enforcer.dataplane.nftables.message import Batch, Table
from pointsman_enforcer.dataplane.nftables.netlink import Counters
from pointsman_enforcer.dataplane.nftables.sets import SetSpec


class NftKernel(Protocol):
    """See `netlink.NftSocket` for what each of these means and raises."""

    @property
    def counters(self) -> Counters:
        """What was sent so far."""

    async def commit(self, batch: Batch) -> None:
        """Apply a batch as one transaction."""

    def commit_blocking(self, batch: Batch) -> None:
        """The same, in the calling thread."""

    def table_exists(self, table: Table) -> bool:
        """Whether the table is there."""

    def chain_names(self, table: Table) -> list[str]:
        """Names of the chains of a table."""

    def set_names(self, table: Table) -> list[str]:
        """Names of the sets and maps of a table."""

    def dump_elements(self, table: Table, spec: SetSpec, *, is_watched: bool = False) -> Iterator[Element]:
        """All elements of a set."""

    def get_element(self, table: Table, spec: SetSpec, key: bytes) -> Element | None:
        """The element with this key."""

    def read_timed(self, table: Table, spec: SetSpec, most: int) -> Iterator[list[Timed]]:
        """Elements of a map whose elements expire, as they come; no more once `most` were seen."""

    def settle(self) -> None:
        """Wait until every commit that is visible is announced, too."""

    def close(self) -> None:
        """Let go of it."""
