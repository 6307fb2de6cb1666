# SPDX-License-Identifier: Apache-2.0
"""Executor `rendered` for iptables: the enforcer's dataplane into tables and sets in memory, and probes walked through.

What it reads is the text that iptables-restore and ipset would be given, so it judges both variants at once. Clients of
a Service with session affinity draw their first endpoint here, too, from a fixed sequence.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

from conformance.executors.rendered.executor import INTERFACES, RenderedExecutor, words_of
from conformance.executors.rendered.iptables_rules import one_way, ways
from conformance.executors.rendered.packet import Packet, UnknownRuleError
from conformance.foretelling import Draws, is_forgotten
from conformance.model import Disturbance, NodeSettings, Probe, ProbeFailure, Row, Step
from conformance.pipeline import node_settings

from pointsman_enforcer.dataplane.base import Dataplane
from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane
from pointsman_enforcer.dataplane.xtables.tools import Variant
from pointsman_model.names import Family, Protocol, format_address, parse_address
from pointsman_model.plan import NodePlan
from support.fake_xtables import FakeTools, FakeXtables

Damage = Callable[[FakeXtables], FakeXtables]
"""Other tables than were rendered: for tests that wrong rules are noticed."""


class ToldMonitor:
    """Notices what it is told."""

    def __init__(self) -> None:
        self._is_noticed = False
        self._noticed: Callable[[], None] = lambda: None

    def watch(self, noticed: Callable[[], None]) -> None:
        self._noticed = noticed

    def settle(self) -> None:
        """Nobody else writes."""

    def take(self) -> bool:
        was, self._is_noticed = self._is_noticed, False
        return was

    def put_back(self) -> None:
        self._is_noticed = True
        self._noticed()

    def close(self) -> None:
        """Nothing is open."""


def undamaged(host: FakeXtables) -> FakeXtables:
    """As rendered."""
    return host


class IptablesRenderedExecutor(RenderedExecutor):
    """An enforcer that lives on from group to group, and the tables it made."""

    def __init__(self, damage: Damage = undamaged) -> None:
        super().__init__()
        self._host = FakeXtables()
        self._told = ToldMonitor()
        self._damage_host = damage
        self._draws = Draws()
        self._chance = random.Random(1)

    def _open(self, settings: NodeSettings) -> Dataplane[Any]:
        self._told = ToldMonitor()
        return IptablesDataplane(
            node_settings=node_settings(settings),
            variant=Variant.NFT,
            tools=FakeTools(self._host),
            monitor=self._told,
        )

    def _destroy(self, disturbance: Disturbance) -> None:
        for tables in self._host.tables.values():
            emptied = [tables["nat"]["POINTSMAN-SERVICES"]]
            if disturbance is Disturbance.FLUSHED:
                emptied = [chain for table in tables.values() for chain in table.values()]
            for chain in emptied:
                chain.clear()
        self._told.put_back()

    def _program(self, settings: NodeSettings, plan: NodePlan, step: Step) -> None:
        super()._program(settings, plan, step)
        sets = (each for service in plan.services.values() for port in service.ports for each in port.endpoint_sets)
        self._draws.keep_only({(format_address(each.address), each.port) for chosen in sets for each in chosen})

    def _judge(self, rows: Sequence[Row], index: int) -> Iterator[tuple[Row, ProbeFailure]]:
        step = rows[0].steps[index]
        if index == 0:
            self._host.forget()
        if index == 0 or is_forgotten(step):
            self._draws.forget()
        host = self._damage_host(self._host)
        for _ in range(step.repeats):
            host.pass_time(step.idle_seconds)
            for row in rows:
                for probe in row.steps[index].probes:
                    observed, expected = self._trace(host, probe, row)
                    if observed != expected:
                        yield row, ProbeFailure(index + 1, str(probe), expected, observed)

    def _trace(self, host: FakeXtables, probe: Probe, row: Row) -> tuple[str, str]:
        """What became of a probe, and what must."""
        family = Family.IPV6 if ":" in probe.destination else Family.IPV4
        packet = Packet(
            source=parse_address(probe.source),
            destination=parse_address(probe.destination),
            port=probe.port,
            protocol=Protocol[probe.protocol],
            interface=INTERFACES[probe.origin],
        )
        local = frozenset(parse_address(address) for address in row.node_addresses)
        try:
            if probe.lot is not None:
                ends = {one_way(host, family, packet, local=local, draw=self._draw): Fraction(1)}
            else:
                ends = _added(ways(host, family, packet, local=local))
        except UnknownRuleError as error:
            return f"nobody knows: {error}", str(probe.expect)
        observed = words_of(_counted(ends))
        return observed, self._draws.expected(probe, observed)

    def _draw(self, odds: Fraction) -> bool:
        return self._chance.random() < odds


def _added(ends: Iterator[tuple[Packet, Fraction]]) -> dict[Packet, Fraction]:
    found: dict[Packet, Fraction] = {}
    for packet, share in ends:
        found[packet] = found.get(packet, Fraction(0)) + share
    return found


def _counted(ends: dict[Packet, Fraction]) -> Counter[Packet]:
    """The same shares in whole numbers."""
    common = math.lcm(*(share.denominator for share in ends.values()))
    return Counter({packet: int(share * common) for packet, share in ends.items()})
