# SPDX-License-Identifier: Apache-2.0
"""What a mode cannot do as the table says, declared: which rows, what it is held to instead, and why.

A row that a deviation changes is run all the same, with the changed expectation. A row that it takes away is not run,
and is named in the report.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from conformance.model import Disturbance, Outcome, Probe, Row, Step, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One thing that a mode does otherwise.

    Attributes:
        name: in a few words.
        reason: why it cannot be as the table says.
        held_to: what the mode is held to instead of a row: the same row, another one, or None for nothing.
    """

    name: str
    reason: str
    held_to: Callable[[Row], Row | None]


def held_to(rows: Iterable[Row], deviations: Sequence[Deviation]) -> list[Row]:
    """The rows that a mode with these deviations must pass."""
    return [held for row in rows if (held := _held_to(row, deviations)) is not None]


def lines(rows: Sequence[Row], deviations: Sequence[Deviation]) -> list[str]:
    """A line for each deviation, with how many rows it changes, or the names of those it takes away."""
    return [_line(rows, each) for each in deviations]


def table_rows(mode: str, deviations: Sequence[Deviation]) -> list[str]:
    """Rows of the table of all declared deviations in the README."""
    return [f"| {mode} | {each.name} | {each.reason} |" for each in deviations]


def _line(rows: Sequence[Row], deviation: Deviation) -> str:
    taken = [row.id for row in rows if deviation.held_to(row) is None]
    changed = sum(deviation.held_to(row) not in (row, None) for row in rows)
    which = ([f"{changed} rows changed"] if changed else []) + ([f"not run: {', '.join(taken)}"] if taken else [])
    return f"deviation: {deviation.name} ({'; '.join(which) or 'no row here'}): {deviation.reason}"


def _held_to(row: Row, deviations: Sequence[Deviation]) -> Row | None:
    held: Row | None = row
    for deviation in deviations:
        if held is not None:
            held = deviation.held_to(held)
    return held


def _source_of_node(row: Row) -> Row:
    return replace(row, steps=tuple(_step_from_node(step) for step in row.steps))


def _step_from_node(step: Step) -> Step:
    probes, steady, held = (tuple(map(_from_node, each)) for each in (step.probes, step.steady, step.held))
    return replace(step, probes=probes, steady=steady, held=held)


def _from_node(probe: Probe) -> Probe:
    if probe.protocol == "SCTP" or probe.expect.outcome is not Outcome.FORWARD:
        return probe
    lot = probe.lot and probe.lot._replace(targets=_masqueraded(probe.lot.targets))
    return probe._replace(expect=probe.expect._replace(targets=_masqueraded(probe.expect.targets)), lot=lot)


def _masqueraded(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    return tuple(sorted({target._replace(masquerade=True) for target in targets}))


def _without_restart(row: Row) -> Row | None:
    is_restarted = any(step.disturbance is Disturbance.RESTART for step in row.steps)
    lives_on = row.remembers or any(step.steady or step.held for step in row.steps)
    return None if is_restarted and lives_on else row


def _without_passing_mark(row: Row) -> Row | None:
    return None if row.number == "174" else row


USERSPACE: Final = (
    Deviation(
        name="endpoints see the node",
        reason="the proxy makes connections of its own: no endpoint ever sees a client's address (SCTP has no proxy)",
        held_to=_source_of_node,
    ),
    Deviation(
        name="a restart is felt",
        reason="connections, listeners and remembered clients are those of the process, and end with it in a crash",
        held_to=_without_restart,
    ),
    Deviation(
        name="nothing marked passes through",
        reason="what is forwarded ends at the proxy, on this node, so no mark could be seen on its way out",
        held_to=_without_passing_mark,
    ),
)


def _drawn(row: Row) -> Row:
    return replace(row, title=f"{row.title} (first endpoint by lot)") if row.remembers else row


IPTABLES: Final = (
    Deviation(
        name="with session affinity the first endpoint is drawn by lot",
        reason="no match of xtables computes the common hash of a client: cluster knows 32 values, HMARK orders its "
        "words otherwise and writes the whole mark, and jhash needs more than the 64 instructions of bpf. A client "
        "keeps what it drew, and an endpoint that leaves has forgotten its clients should it come back",
        held_to=_drawn,
    ),
)
"""Who draws, see `KernelMode.draws_first_endpoint`."""


def _as_it_is(row: Row) -> Row:
    return row


def _without_uneven_affinity(row: Row) -> Row | None:
    """Rows of a Service that remembers clients and has other endpoints for some senders than for others."""
    for step in row.steps:
        for event in step.events:
            spec = json.loads(event.manifest).get("spec", {})
            if spec.get("sessionAffinity") == "ClientIP" and spec.get("externalTrafficPolicy") == "Local":
                return None
    return row


IPVS: Final = (
    Deviation(
        name="with session affinity the scheduler chooses the first endpoint",
        reason="the kernel's scheduler is asked, not the common hash of a client; the client keeps what it got",
        held_to=_drawn,
    ),
    Deviation(
        name="a client is remembered for each place by itself, and on each node by itself",
        reason="IPVS keeps one memory for each virtual server, and a virtual server that remembers is known by its "
        "address; the memory can be neither read nor written. Rows 159 and 162 are of the other modes only",
        held_to=_as_it_is,
    ),
    Deviation(
        name="session affinity with externalTrafficPolicy Local is refused (UNSUPPORTED)",
        reason="a virtual server known by a mark translates no ports for clients that it remembers, and one known by "
        "its address cannot tell senders apart",
        held_to=_without_uneven_affinity,
    ),
)
