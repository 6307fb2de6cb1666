# SPDX-License-Identifier: Apache-2.0
"""Where a dataplane on a kernel in memory hears of somebody else's commits: as the test tells them."""

from __future__ import annotations

from collections.abc import Callable

from pointsman_enforcer.dataplane.nftables.notifications import Touched


class FakeMonitor:
    """See `drift.Monitor`."""

    def __init__(self) -> None:
        self.touched = Touched()
        self.noticed: Callable[[], None] = lambda: None

    def watch(self, noticed: Callable[[], None]) -> None:
        self.noticed = noticed

    def tell(self, touched: Touched) -> None:
        """Somebody else touched this."""
        self.touched.include(touched)
        self.noticed()

    def take(self) -> Touched:
        taken, self.touched = self.touched, Touched()
        return taken

    def peek(self) -> Touched:
        return self.touched

    def put_back(self, touched: Touched) -> None:
        self.tell(touched)

    def close(self) -> None:
        pass
