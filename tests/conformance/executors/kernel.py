# SPDX-License-Identifier: Apache-2.0
"""Executor `kernel`: the enforcer's dataplane in a real kernel, and real sockets from every side.

Rows that share a cluster are programmed once and probed together, so that silences overlap. Everything else changes
from row to row by difference, as it does on a node that lives for long.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Self

from conformance.executors import topology
from conformance.executors.deviations import held_to
from conformance.executors.echo import EchoServers
from conformance.executors.enforcer import Enforcer, NotProgrammedError
from conformance.executors.flows import HeldFlow, SteadyTraffic
from conformance.executors.modes import NFTABLES, Command, KernelMode
from conformance.executors.observation import observed, patience_of
from conformance.executors.prober import Attempt, Prober
from conformance.executors.topology import Topology
from conformance.foretelling import Draws, is_forgotten
from conformance.model import (
    DAMAGES,
    NODE,
    Disturbance,
    NodeSettings,
    Origin,
    Outcome,
    Probe,
    ProbeFailure,
    Row,
    RowResult,
    Step,
    Verb,
)
from conformance.pipeline import Alteration, Cluster, node_settings, unaltered

from pointsman_model.names import format_address, parse_address
from pointsman_model.plan import NodePlan
from support.netns import NetNs

NAME = "kernel"
Words = tuple[str, str, str]
"""Probe, expected, observed."""
CONNECTIONS_MIN = 64
CONNECTIONS_UNFORWARDED = 4
_MISS_ODDS = 1e9
"""So many connections are made that a right dataplane fails to show an endpoint once in this many probes."""


class KernelExecutor:
    """A topology, its servers and an enforcer; a context manager. Needs root.

    `answer_seconds`: how long an answer may take before it counts as dropped. Long enough for a busy machine; only who
    expects many failures makes it short.
    """

    def __init__(self, mode: KernelMode = NFTABLES, *, answer_seconds: float | None = None) -> None:
        self._mode = mode
        self._answer_seconds = answer_seconds or mode.answer_seconds
        self._topology = Topology()
        self._echo = EchoServers()
        self._prober = Prober()
        self._enforcer: Enforcer | None = None
        self._draws = Draws()
        self._settings: NodeSettings | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._topology)
            stack.enter_context(self._echo)
            stack.callback(self._close_enforcer)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def run_group(self, rows: Sequence[Row], alter: Alteration = unaltered) -> list[RowResult]:
        """Rows of one group (see `groups`): programmed once, probed together. What breaks on the way is a failure."""
        failures: dict[str, list[ProbeFailure]] = {row.id: [] for row in rows}
        number = 0
        try:
            for number, found in enumerate(self._steps(rows, Cluster(alter)), start=1):
                for row_id, probes in found.items():
                    failures[row_id] += [ProbeFailure(number, *words) for words in probes]
        except (NotProgrammedError, OSError) as error:
            self._close_enforcer()
            for found_by_row in failures.values():
                found_by_row.append(
                    ProbeFailure(number + 1, "the step as a whole", "programmed and probed", str(error))
                )
        return [RowResult(row, NAME, tuple(failures[row.id])) for row in rows]

    def _steps(self, rows: Sequence[Row], cluster: Cluster) -> Iterator[dict[str, list[Words]]]:
        """Failures of each step, by row."""
        row = rows[0]
        if any(step.disturbance in DAMAGES for step in row.steps):
            self._close_enforcer()  # one whose repairs do not last repairs ever more seldom: no row is to slow the next
        self._configure(row.settings)
        self._place(rows)
        self._topology.flush_conntrack()
        with contextlib.ExitStack() as stack:
            held: list[HeldFlow] = []
            self._draws.forget()
            for index, step in enumerate(row.steps):
                if is_forgotten(step):
                    self._draws.forget()
                cluster.apply(step.events)
                found = {row.id: self._apply(cluster, row, step)}
                for flow in held:
                    found[row.id] += flow.check()
                for _ in range(step.repeats):
                    time.sleep(step.idle_seconds)
                    self._probe([(one, probe) for one in rows for probe in one.steps[index].probes], found)
                held += [
                    stack.enter_context(HeldFlow(self._prober, self._attempt(probe), probe)) for probe in step.held
                ]
                yield found

    def held_to(self, rows: Sequence[Row]) -> list[Row]:
        """What its mode is held to instead of these rows."""
        return held_to(rows, self._mode.deviations)

    @property
    def node(self) -> NetNs:
        """The node under test, for those who look at it from beside."""
        return self._topology.namespaces[topology.NODE]

    @property
    def outside(self) -> NetNs:
        """The machine beyond the node."""
        return self._topology.namespaces[topology.OUTSIDE]

    @property
    def mode(self) -> KernelMode:
        """The mode of the dataplane."""
        return self._mode

    def cleanup(self) -> None:
        """The enforcer removes everything it made; the next row begins with another one."""
        if self._enforcer is not None:
            self._enforcer.cleanup()
        self._enforcer, self._settings = None, None

    def _configure(self, settings: NodeSettings) -> None:
        """Other settings are another process: the enforcer reads its configuration once."""
        if settings == self._settings:
            return
        self._close_enforcer()
        self._enforcer = Enforcer(self.node.call(partial(self._mode.open_dataplane, node_settings(settings))))
        self._settings = settings

    def _close_enforcer(self) -> None:
        if self._enforcer is not None:
            self._enforcer.close()
        self._enforcer, self._settings = None, None

    def _apply(self, cluster: Cluster, row: Row, step: Step) -> list[Words]:
        """Program the step's plan, under its steady traffic and its disturbance; failures of that traffic."""
        plan = cluster.plan(row.node_name)
        steady = [SteadyTraffic(self._attempt(probe), probe) for probe in step.steady]
        with contextlib.ExitStack() as stack:
            for traffic in steady:
                stack.enter_context(traffic)
            if step.disturbance is Disturbance.RESTART:
                self._close_enforcer()
                self._configure(row.settings)
            if self._enforcer is None:
                raise RuntimeError("no enforcer is running")
            if step.disturbance is Disturbance.WRITE_FAILS_ONCE:
                self._enforcer.fail_next_write()
            self._enforcer.program(plan)
            self._draws.keep_only(_planned_endpoints(plan))
            if step.disturbance in DAMAGES and self._mode.damages[step.disturbance]:
                self._enforcer.heal(partial(self._damage, self._mode.damages[step.disturbance]))
        return [failure for traffic in steady for failure in traffic.failures()]

    def _damage(self, commands: Sequence[Command]) -> None:
        for command in commands:
            self.node.run(*command)

    def _probe(self, probes: Sequence[tuple[Row, Probe]], failures: dict[str, list[Words]]) -> None:
        """Every connection of every probe at once."""
        attempts: list[Attempt] = []
        slices: list[slice] = []
        for _, probe in probes:
            start = len(attempts)
            attempts += [self._attempt(probe)] * connections_of(probe)
            slices.append(slice(start, len(attempts)))
        seen = self._prober.run(attempts)
        for (row, probe), part in zip(probes, slices, strict=True):
            words = observed(probe, seen[part])
            expected = self._draws.expected(probe, words) if self._mode.draws_first_endpoint else str(probe.expect)
            if words != expected:
                failures.setdefault(row.id, []).append((str(probe), expected, words))

    def _attempt(self, probe: Probe) -> Attempt:
        where = {Origin.HOST: topology.NODE, Origin.OUTSIDE: topology.OUTSIDE}.get(probe.origin)
        name = where or self._topology.place_of(probe.source) or topology.CLIENT_POD
        path = str(self._topology.namespaces[name].path)
        patience = patience_of(probe, self._answer_seconds)
        return Attempt(path, probe.source, probe.destination, probe.port, probe.protocol, patience)

    def _place(self, rows: Sequence[Row]) -> None:
        """Endpoints, clients and witnesses of the rows, and a server on every port of theirs."""
        probes = [probe for row in rows for step in row.steps for probe in (*step.probes, *step.steady, *step.held)]
        own = set(rows[0].node_addresses)
        endpoints = {address: is_local for address, is_local in _endpoints(rows[0]) if address not in own}
        wanted = dict.fromkeys((probe.destination for probe in probes if probe.destination not in own), topology.REMOTE)
        wanted.update(dict.fromkeys(endpoints, topology.REMOTE))
        wanted.update({probe.source: topology.OUTSIDE for probe in probes if probe.origin is Origin.OUTSIDE})
        senders = {probe.source for probe in probes if probe.origin is Origin.POD}
        wanted.update(dict.fromkeys(senders - set(endpoints), topology.CLIENT_POD))
        local = [address for address, is_local in endpoints.items() if is_local or address in senders]
        wanted.update(self._in_pods(local))
        wanted.update(dict.fromkeys(rows[0].extra_node_addresses, topology.NODE))
        self._topology.place(wanted)
        namespaces = list(self._topology.namespaces.values())
        for protocol, port in sorted(
            {(probe.protocol, probe.port) for probe in probes} | set(_endpoint_ports(rows[0]))
        ):
            self._echo.listen(namespaces, protocol, port)

    def _in_pods(self, addresses: Sequence[str]) -> dict[str, str]:
        """A pod for each endpoint of this node, no two in one; where it already is, if possible."""
        kept: dict[str, str] = {}
        for address in addresses:
            place = self._topology.place_of(address) or ""
            if place in topology.pods()[1:] and place not in kept.values():
                kept[address] = place
        free = self._topology.free_pods(kept.values())
        return {address: kept.get(address) or next(free) for address in addresses}


def groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows that can share one programming: same cluster, settings and node, and nothing else happens."""
    shared: dict[object, list[Row]] = {}
    for row in rows:
        is_plain = len(row.steps) == 1 and row.steps[0] == Step(events=row.steps[0].events, probes=row.steps[0].probes)
        key = (row.settings, row.node_name, row.extra_node_addresses, row.steps[0].events) if is_plain else row.id
        shared.setdefault(key, []).append(row)
    yield from shared.values()


def connections_of(probe: Probe) -> int:
    """How many connections a probe makes: enough that every endpoint of a fair choice is seen."""
    if probe.expect.outcome is not Outcome.FORWARD:
        return CONNECTIONS_UNFORWARDED
    count = len(probe.expect.targets)
    return max(CONNECTIONS_MIN, math.ceil(count * math.log(count * _MISS_ODDS)) if count > 1 else 0)


def _planned_endpoints(plan: NodePlan) -> set[tuple[str, int]]:
    sets = (each for service in plan.services.values() for port in service.ports for each in port.endpoint_sets)
    return {(format_address(endpoint.address), endpoint.port) for each in sets for endpoint in each}


def _manifests(row: Row) -> Iterator[dict[str, object]]:
    for step in row.steps:
        for event in step.events:
            if event.verb is Verb.APPLY:
                yield json.loads(event.manifest)


def _endpoints(row: Row) -> Iterator[tuple[str, bool]]:
    """Every endpoint address of a row, and whether it is on the node under test."""
    for manifest in _manifests(row):
        for endpoint in manifest.get("endpoints", ()):  # type: ignore[attr-defined]  # a list when it is there
            for text in endpoint["addresses"]:
                with contextlib.suppress(ValueError):
                    is_local = endpoint.get("nodeName") in {NODE, row.node_name}
                    yield format_address(parse_address(text)), is_local


def _endpoint_ports(row: Row) -> Iterator[tuple[str, int]]:
    for manifest in _manifests(row):
        if manifest["kind"] == "EndpointSlice":
            for port in manifest["ports"]:  # type: ignore[attr-defined]  # a slice of this suite has a list of ports
                if port.get("port"):
                    yield port["protocol"], port["port"]
