# SPDX-License-Identifier: Apache-2.0
"""Which modes the executor `rendered` can judge: those whose rules it can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from conformance.executors.rendered.executor import RenderedExecutor
from conformance.executors.rendered.iptables import IptablesRenderedExecutor

EXECUTORS: Mapping[str, Callable[[], RenderedExecutor]] = {
    "nftables": RenderedExecutor,
    "iptables-legacy": IptablesRenderedExecutor,
    "iptables-nft": IptablesRenderedExecutor,
}
"""By mode."""
