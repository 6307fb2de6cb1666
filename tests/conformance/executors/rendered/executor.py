# SPDX-License-Identifier: Apache-2.0
"""Executor `rendered`: the enforcer's dataplane into nf_tables in memory, and probes walked through its rules.

Everything up to the netlink messages is the code of the service; what the kernel would do with a packet is told by the
rules and elements in those messages. No root, no packets, thousands of probes a second; time passes as rows say, and
nobody waits. What it cannot tell is what happens *while* rules change: steady and held connections are the kernel's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Self

from conformance.executors.enforcer import Enforcer, NotProgrammedError
from conformance.executors.rendered.packet import Packet, UnknownRuleError
from conformance.executors.rendered.walk import ways
from conformance.model import (
    Disturbance,
    Expectation,
    NodeSettings,
    Origin,
    Outcome,
    Probe,
    ProbeFailure,
    Row,
    RowResult,
    Step,
    Target,
)
from conformance.pipeline import Alteration, Cluster, node_settings, unaltered

from pointsman_enforcer.dataplane.base import Dataplane
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.notifications import Touched
from pointsman_model.names import Protocol, format_address, parse_address
from pointsman_model.plan import NodePlan
from support.fake_monitor import FakeMonitor
from support.fake_nftables import FakeNftables, FakeTable, Tables

NAME = "rendered"
_TABLE = "pointsman"
INTERFACES = {Origin.POD: "pod0", Origin.OUTSIDE: "out0", Origin.HOST: ""}
Damage = Callable[[Tables], Tables]
"""Other tables than were rendered: for tests that wrong rules are noticed."""


def undamaged(tables: Tables) -> Tables:
    """As rendered."""
    return tables


class RenderedExecutor:
    """An enforcer that lives on from group to group, and the rules it made; a context manager."""

    def __init__(self, damage: Damage = undamaged) -> None:
        self._nft = FakeNftables()
        self._monitor = FakeMonitor()
        self._damage = damage
        self._enforcer: Enforcer | None = None
        self._settings: NodeSettings | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def run_group(self, rows: Sequence[Row], alter: Alteration = unaltered) -> list[RowResult]:
        """Rows of one group (see `kernel.groups`): programmed once."""
        cluster = Cluster(alter)
        if any(step.disturbance in DAMAGES_DONE for step in rows[0].steps):
            self._close()  # one whose repairs do not last repairs ever more seldom: no row is to slow the next
        failures: dict[str, list[ProbeFailure]] = {row.id: [] for row in rows}
        for index, step in enumerate(rows[0].steps):
            cluster.apply(step.events)
            try:
                self._program(rows[0].settings, cluster.plan(rows[0].node_name), step)
            except NotProgrammedError as error:
                self._close()
                words = ProbeFailure(index + 1, "the step as a whole", "programmed", str(error))
                return [RowResult(row, NAME, (words,)) for row in rows]
            for row, failure in self._judge(rows, index):
                failures[row.id].append(failure)
        return [RowResult(row, NAME, tuple(failures[row.id])) for row in rows]

    def _open(self, settings: NodeSettings) -> Dataplane[Any]:
        """A dataplane that writes into memory."""
        self._monitor = FakeMonitor()
        return NftablesDataplane(node_settings=node_settings(settings), kernel=self._nft, monitor=self._monitor)

    def _destroy(self, disturbance: Disturbance) -> None:
        """Somebody else does this to what was written, and the dataplane hears of it."""
        self._monitor.tell(DAMAGES_DONE[disturbance](self._nft.tables))

    def _judge(self, rows: Sequence[Row], index: int) -> Iterator[tuple[Row, ProbeFailure]]:
        """What became of the probes of a step; time passes before each repetition."""
        tables = self._damage(self._nft.tables)
        for _ in range(rows[0].steps[index].repeats):
            for table in tables.values():
                table.pass_time(round(rows[0].steps[index].idle_seconds * 1000))
            for row in rows:
                yield from ((row, failure) for failure in _trace_all(tables, row, index))

    def _program(self, settings: NodeSettings, plan: NodePlan, step: Step) -> None:
        if step.disturbance is Disturbance.RESTART or settings != self._settings:
            self._close()
        if self._enforcer is None:
            self._enforcer, self._settings = Enforcer(self._open(settings)), settings
        if step.disturbance is Disturbance.WRITE_FAILS_ONCE:
            self._enforcer.fail_next_write()
        self._enforcer.program(plan)
        if step.disturbance in DAMAGES_DONE:
            self._enforcer.heal(partial(self._destroy, step.disturbance))

    def _close(self) -> None:
        if self._enforcer is not None:
            self._enforcer.close()
        self._enforcer, self._settings = None, None


def _flush(tables: Tables) -> Touched:
    """Everything is gone."""
    tables.clear()
    return Touched(kinds={"table"}, deleted=set(Family), structure=set(Family))


def _flush_chain(tables: Tables) -> Touched:
    """One chain of each table is empty."""
    for table in tables.values():
        table.chains["services"].clear()
    chains = {(family, "services") for family in Family}
    return Touched(kinds={"rule"}, structure=set(Family), chains=chains)


DAMAGES_DONE: dict[Disturbance, Callable[[Tables], Touched]] = {
    Disturbance.FLUSHED: _flush,
    Disturbance.CHAIN_FLUSHED: _flush_chain,
}
"""How somebody else does each of `model.DAMAGES`, and what the kernel tells of it."""


def _trace_all(tables: Tables, row: Row, index: int) -> list[ProbeFailure]:
    found = []
    for probe in row.steps[index].probes:
        try:
            observed = trace(tables, probe, row)
        except UnknownRuleError as error:
            observed = f"nobody knows: {error}"
        if observed != str(probe.expect):
            found.append(ProbeFailure(index + 1, str(probe), str(probe.expect), observed))
    return found


def trace(tables: Tables, probe: Probe, row: Row) -> str:
    """What becomes of a probe's packets by these rules, in the words of an expectation.

    Raises:
        UnknownRuleError: a rule on their way says something that is not known here.
    """
    family = Family.IPV6 if ":" in probe.destination else Family.IPV4
    packet = Packet(
        source=parse_address(probe.source),
        destination=parse_address(probe.destination),
        port=probe.port,
        protocol=Protocol[probe.protocol],
        interface=INTERFACES[probe.origin],
    )
    local = frozenset(parse_address(address) for address in row.node_addresses)
    return words_of(Counter(ways(tables.get((family, _TABLE), FakeTable()), packet, local=local)))


def words_of(ends: Counter[Packet]) -> str:
    """What became of a probe in the words of an expectation; of a choice that is not even, targets repeat."""
    kinds: Counter[Target | str] = Counter()
    for packet, count in ends.items():
        kinds[_kind(packet)] += count
    targets = {kind: count for kind, count in kinds.items() if isinstance(kind, Target)}
    if len(targets) == len(kinds):
        divisor = math.gcd(*targets.values())
        repeated = (target for target, count in targets.items() for _ in range(count // divisor))
        return str(Expectation(Outcome.FORWARD, tuple(sorted(repeated))))
    if len(kinds) == 1:
        return str(next(iter(kinds)))
    return "mixed: " + ", ".join(sorted(f"{count} x {kind}" for kind, count in kinds.items()))


def _kind(packet: Packet) -> Target | str:
    if packet.refusal:
        return packet.refusal
    if packet.has_left and (packet.mark or packet.priority):
        return f"let go with mark {packet.mark:#x} and priority {packet.priority:#x}"
    if packet.is_translated:
        return Target(format_address(packet.destination), packet.port, packet.is_masqueraded)
    return "NONE, masqueraded" if packet.is_masqueraded else "NONE"
