# SPDX-License-Identifier: Apache-2.0
"""Executor `pure`: the plan and the reference tracer, no kernel. Milliseconds for the whole table.

It proves what the planner decides. Rows about packets meanwhile (restart, a refused write) have nothing to decide and
are only for executors with a dataplane; steady and held probes are the dataplane's too.
"""

from __future__ import annotations

from collections.abc import Sequence

from conformance.model import Expectation, Origin, Outcome, Probe, ProbeFailure, Row, RowResult, Target
from conformance.pipeline import Alteration, Cluster, dataplane_settings, unaltered

from pointsman_model.names import Protocol, format_address, parse_address
from pointsman_model.packet import Fate, Packet, trace_packet
from pointsman_model.plan import DataplaneSettings, NodePlan, TrafficClass

NAME = "pure"
POD_INTERFACE = "pod0"
_OUTCOMES = {
    Fate.FORWARD: Outcome.FORWARD,
    Fate.REJECT: Outcome.REJECT,
    Fate.DROP: Outcome.DROP,
    Fate.NONE: Outcome.NONE,
}


def run_row(row: Row, alter: Alteration = unaltered) -> RowResult:
    """Apply each step's events, trace each of its probes."""
    (result,) = run_group([row], alter)
    return result


def run_group(rows: Sequence[Row], alter: Alteration = unaltered) -> list[RowResult]:
    """Rows of one group (see `kernel.groups`): planned once."""
    cluster = Cluster(alter)
    failures: dict[str, list[ProbeFailure]] = {row.id: [] for row in rows}
    for index, step in enumerate(rows[0].steps):
        cluster.apply(step.events)
        plan = cluster.plan(rows[0].node_name)
        settings = dataplane_settings(rows[0].settings, plan.facts)
        for row in rows:
            for probe in row.steps[index].probes:
                observed = trace(plan, settings, probe, row)
                if observed != probe.expect:
                    words = ProbeFailure(index + 1, str(probe), str(probe.expect), str(observed))
                    failures[row.id].append(words)
    return [RowResult(row, NAME, tuple(failures[row.id])) for row in rows]


def trace(plan: NodePlan, settings: DataplaneSettings, probe: Probe, row: Row) -> Expectation:
    """What becomes of a probe's packets by the plan.

    An endpoint with twice the weight is there twice, so that a set that is not even never equals one that is.
    """
    local = {parse_address(address) for address in row.node_addresses}
    destination, source = parse_address(probe.destination), parse_address(probe.source)
    packet = Packet(
        source=source,
        destination=destination,
        destination_port=probe.port,
        protocol=Protocol[probe.protocol],
        sender=TrafficClass.HOST if probe.origin is Origin.HOST else None,
        interface=POD_INTERFACE if probe.origin is Origin.POD else "",
        destination_is_local=destination in local,
    )
    outcome = trace_packet(plan, settings, packet)
    targets = [
        Target(format_address(one.address), one.port, one.masquerade)
        for one in outcome.candidates
        for _ in range(one.weight)
    ]
    return Expectation(_OUTCOMES[outcome.fate], tuple(sorted(targets)))
