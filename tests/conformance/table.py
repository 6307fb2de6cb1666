# SPDX-License-Identifier: Apache-2.0
"""The one table: every source of rows, in the order in which they are printed.

A source is a function that yields rows. To add rows, by hand or by a generator with its own oracle, add a source here
or hand `all_rows` another list; executors and reports know nothing about where a row comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from conformance.catalogue import (
    s01_cluster_ip,
    s02_no_endpoints,
    s03_source_ranges,
    s04_node_ports,
    s05_external_policy,
    s06_internal_policy,
    s07_masquerade,
    s08_terminating,
    s09_topology,
    s10_combined,
    s11_changes,
    s12_timestamps,
    s13_health,
    s14_conntrack,
    s15_affinity,
    s16_ipvs,
    s17_hygiene,
    s18_more,
)
from conformance.model import Row, RowSource

SECTION_TITLES = {
    1: "ClusterIP basics",
    2: "No endpoints",
    3: "LoadBalancer and source ranges",
    4: "NodePort addresses",
    5: "externalTrafficPolicy",
    6: "internalTrafficPolicy",
    7: "Policy x source x masquerade",
    8: "Terminating endpoints",
    9: "Topology",
    10: "Combined policies",
    11: "Object changes",
    12: "Programming timestamps",
    13: "Health servers",
    14: "Conntrack clean-up",
    15: "Session affinity",
    16: "IPVS specifics",
    17: "Forwarding hygiene",
    18: "Where modes differ",
    19: "Random clusters that change",
    20: "Generated: policies",
    21: "Generated: topology hints",
    22: "Generated: source ranges",
    23: "Generated: node ports",
    24: "Generated: other ports",
    25: "Generated: everything mixed",
}

CATALOGUE: tuple[RowSource, ...] = (
    s01_cluster_ip.rows,
    s02_no_endpoints.rows,
    s03_source_ranges.rows,
    s04_node_ports.rows,
    s05_external_policy.rows,
    s06_internal_policy.rows,
    s07_masquerade.rows,
    s08_terminating.rows,
    s09_topology.rows,
    s10_combined.rows,
    s11_changes.rows,
    s12_timestamps.rows,
    s13_health.rows,
    s14_conntrack.rows,
    s15_affinity.rows,
    s16_ipvs.rows,
    s17_hygiene.rows,
    s18_more.rows,
)


def all_rows(sources: Sequence[RowSource] = CATALOGUE) -> tuple[Row, ...]:
    """Every row of the sources, by section.

    Raises:
        ValueError: two rows have one id, so a result could not be told from another.
    """
    rows = sorted((row for source in sources for row in source()), key=lambda row: row.section)
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise ValueError(f"two rows are called {row.id}: give one of them a suffix")
        seen.add(row.id)
    return tuple(rows)


def runnable(rows: Iterable[Row], mode: str) -> tuple[Row, ...]:
    """The rows that this mode must pass now."""
    return tuple(row for row in rows if mode in row.modes and not row.later)
