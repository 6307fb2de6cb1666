# SPDX-License-Identifier: Apache-2.0
"""Section 13: health servers."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.build import checked
from conformance.checks import health
from conformance.model import Row


def rows() -> Iterator[Row]:
    yield from checked(13, "140", "status and weight follow the number of endpoints here", health.follows_the_count)
    yield from checked(13, "141", "another port closes the old one; others are left alone", health.moves_with_the_port)
    yield from checked(13, "142", "an unhealthy proxy tells the true count, and 503", health.follows_the_proxy)
    yield from checked(
        13,
        "143",
        "only where node ports answer; a taken port harms no other",
        health.listens_in_the_blocks,
    )
    yield from checked(13, "144", "ready addresses of this node count, each once", health.counts_addresses)
    yield from checked(13, "146", "a node about to go fails /healthz and not /livez", health.tells_of_the_node)
