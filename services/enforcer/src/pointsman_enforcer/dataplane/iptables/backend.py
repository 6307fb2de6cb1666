# SPDX-License-Identifier: Apache-2.0
"""The iptables dataplane: chains named POINTSMAN-* in the tables mangle, nat and filter, and sets named pointsman-*.

Ownership is by these names, and by rules of built-in chains that lead to such chains. A restarted process reads all of
it once and compares text: what is as it should be is left alone, with its counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.stale_flows import Place
from pointsman_enforcer.dataplane.base import Applied, Found, KernelError, Mended, ProxyMode
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.iptables import cleanup, layout, read_back, static
from pointsman_enforcer.dataplane.iptables.affinity_memory import SetMemory
from pointsman_enforcer.dataplane.iptables.change import (
    IptablesChange,
    Ledger,
    Operations,
    diff,
    set_line,
)
from pointsman_enforcer.dataplane.iptables.monitor import Monitor, open_monitor
from pointsman_enforcer.dataplane.iptables.observe import Observation, parse_sets
from pointsman_enforcer.dataplane.iptables.picture import Thing, chain_thing, wanted_chains
from pointsman_enforcer.dataplane.iptables.render import CAPABILITIES, render_node, render_service
from pointsman_enforcer.dataplane.iptables.rounds import Books, Rounds
from pointsman_enforcer.dataplane.iptables.static import StaticSettings
from pointsman_enforcer.dataplane.iptables.touches import Touches
from pointsman_enforcer.dataplane.iptables.writer import Writer, text_of
from pointsman_enforcer.dataplane.node_settings import NodeSettings, effective_settings
from pointsman_enforcer.dataplane.proc_sys import network_sysctls
from pointsman_enforcer.dataplane.xtables.families import usable_families
from pointsman_enforcer.dataplane.xtables.text import Rules, Saved, parse_rules, restore_text
from pointsman_enforcer.dataplane.xtables.tools import Tools, Variant
from pointsman_model.names import Family
from pointsman_model.plan import NodeFacts, ServicePlan

_ROUTE_LOCALNET: Final = "ipv4/conf/all/route_localnet"
"""Without it the kernel refuses to send what comes from a loopback address out of the host."""
_TCP_BE_LIBERAL: Final = "netfilter/nf_conntrack_tcp_be_liberal"


class IptablesDataplane:
    """See `dataplane.base.Dataplane`. One per network namespace: that of the thread that makes it."""

    mode = ProxyMode.IPTABLES
    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        node_settings: NodeSettings,
        variant: Variant,
        masquerade_bit: int = 14,
        localhost_node_ports: bool = True,
        masquerade_local: bool = True,
        tools: Tools | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        """By default with the tools of this host. UnsupportedError when one is missing, OSError when we may not look.

        `masquerade_local` is false where rules lead to a proxy on this host. Whoever hands in `tools` hands in the
        `monitor` that hears what else happens to what they write.
        """
        self._masquerade_local = masquerade_local
        self._node_settings, self._masquerade_bit = node_settings, masquerade_bit
        self._localhost_node_ports = localhost_node_ports
        self._tools = tools or Tools(variant, usable_families(variant))
        self._families = self._tools.families
        self._drop_invalid = self._tools.sysctl(network_sysctls() / _TCP_BE_LIBERAL) in ("", "0")
        self._touches = Touches()
        self._monitor: Monitor = monitor or open_monitor(self._tools, self._touches)
        self.settings = effective_settings(node_settings, None)
        self._ledger = Ledger()
        self.affinity = SetMemory(self._tools, SystemClock(), lambda: self._ledger.memories)
        self._observation: Observation | None = None
        self._saved = {family: Saved() for family in self._families}
        """What the kernel has of static chains and jumps, as of the last `observe` or write."""
        self._writer = Writer(self._tools)
        self._written_settings = self._static_settings
        """As of the static rules that were written last."""
        self._rounds = Rounds(self._tools, self._touches, self._books)
        self.read_back = read_back.reader(self._rounds)
        """See `Dataplane.read_back`: everything is read in rounds, and compared."""

    @property
    def counters(self) -> tuple[int, int]:
        """Programs run and bytes given to them since the start."""
        return self._writer.counters

    def measure(self, registry: Registry) -> None:
        """See `dataplane.base.Measured`."""
        self._rounds.counts.measure(registry)

    def configure(self, facts: NodeFacts) -> bool:
        """See `Dataplane.configure`: the rules of frontends name the detector."""
        before = self.settings
        self.settings = effective_settings(self._node_settings, facts)
        return self.settings != before

    async def observe(self) -> Found:
        """See `Dataplane.observe`."""
        try:
            self._saved = {family: parse_rules(await self._tools.save(family)) for family in self._families}
            is_ours = any(saved.chains for saved in self._saved.values())
            sets = await self._tools.ipset_save()
            if not is_ours and (refusing := static.refusing_sets() & parse_sets(sets)[0]):
                # They are the other variant's as well, which may still be serving, and refuse what is not served yet.
                await self._writer.ipset([f"flush {name}" for name in sorted(refusing)])
                sets = await self._tools.ipset_save()
        except (CommandError, ValueError) as error:
            raise KernelError(f"reading our chains: {error}") from error
        self._ledger, observation = Ledger(), Observation()
        for family in self._families:
            observation.read(family, self._saved[family], self._ledger)
        observation.read_sets(sets, self._ledger)
        self._observation = observation
        self._monitor.settle()
        return Found.OURS if is_ours else Found.NOTHING

    async def prepare(self, *, whole_plan: bool = False) -> None:  # noqa: ARG002 - chains of ours are always adopted
        """See `Dataplane.prepare`: the static chains that differ, in one restore for each family."""
        lines = [line for family in self._families for line in static.create_lines(family)]
        with self._touches.writing_anything():
            await self._writer.commit(sets_before=lines)
            for family in self._families:
                await self._write_static(family)
            self._written_settings = self._static_settings
            self._monitor.settle()
        if self._static_settings.serves_localhost(Family.IPV4):
            self._tools.set_sysctl(network_sysctls() / _ROUTE_LOCALNET, "1")

    def claim(self, plan: ServicePlan, remembered: bytes) -> bytes:
        """See `Dataplane.claim`."""
        if self._observation is None:
            return remembered
        wanted = layout.unpack(render_service(plan, self.settings, self._families))
        return _merged(remembered, self._observation.claim(wanted, self._ledger))

    def claim_node(self, remembered: bytes) -> bytes:
        """See `Dataplane.claim_node`."""
        return remembered if self._observation is None else _merged(remembered, self._observation.claim_node())

    def render(self, plan: ServicePlan, _previous: bytes) -> bytes:
        """See `Dataplane.render`."""
        return render_service(plan, self.settings, self._families)

    def render_node(self, facts: NodeFacts, *, drop_unallocated: bool) -> bytes:
        """See `Dataplane.render_node`."""
        return render_node(facts, self.settings, self._families, drop_unallocated=drop_unallocated)

    def diff(self, old: bytes, new: bytes) -> IptablesChange:
        """See `Dataplane.diff`."""
        return diff(old, new)

    async def apply(self, change: IptablesChange) -> Applied:
        """See `Dataplane.apply`: at most one restore for each family; a refused one is taken back."""
        before = self.counters
        operations = self._ledger.resolve(change)
        with self._touches.writing(_things(operations, change)):
            await self._writer.execute(operations)
            self._ledger.commit(change)
            self._monitor.settle()
        if any(record.kind is layout.Kind.MEMORY for record in (*change.additions, *change.removals)):
            self.affinity.changed()
        await self._writer.destroy(operations.memories_after, self._ledger.memories)
        after = self.counters
        return Applied(after[0] - before[0], after[1] - before[1])

    def destinations(self) -> set[tuple[bytes, int]]:
        """Every address and port that our rules led to when the kernel was last observed."""
        return set().union(*(static.destinations(each) for each in self._saved.values()))

    def watch(self, noticed: Callable[[], None]) -> None:
        """See `Dataplane.watch`."""
        self._monitor.watch(noticed)
        self._rounds.watch(self._monitor.put_back)

    async def mend(self, _renderings: Sequence[bytes], *, may_remove: bool) -> Mended:
        """See `Dataplane.mend`: everything of ours is read, and the chains that differ are written."""
        if not self._monitor.take():
            return Mended()
        before = self.counters
        try:
            with self._touches.writing_anything():
                objects = await self._mend(may_remove=may_remove)
                self._monitor.settle()
        except (KernelError, CommandError, ValueError) as error:
            self._monitor.put_back()
            raise KernelError(f"mending our chains: {error}") from error
        applied = Applied(self.counters[0] - before[0], self.counters[1] - before[1])
        return Mended(kinds=("chain",), objects=objects, applied=applied)

    def is_frontend(self, place: Place) -> bool:
        """See `Dataplane.is_frontend`."""
        return self._ledger.is_taken(place)

    def leftover(self) -> Iterator[IptablesChange]:
        """See `Dataplane.leftover`."""
        if self._observation is not None:
            yield from self._observation.leftover(self._ledger)
            self._observation = None

    def describe(self, change: IptablesChange) -> Iterator[str]:
        """The change as input of ipset and iptables-restore."""
        operations = self._ledger.resolve(change)
        yield from operations.sets_before
        for family in self._families:
            yield from text_of(operations, family).splitlines()
        yield from operations.sets_after
        yield from (f"destroy {name}" for name in operations.memories_after)

    async def cleanup(self) -> None:
        """See `Dataplane.cleanup`."""
        try:
            removed = await cleanup.cleanup(self._tools)
        except CommandError as error:
            raise KernelError(f"removing our chains: {error}") from error
        structlog.get_logger("iptables").info("cleaned up", chains=removed)

    def close(self) -> None:
        """See `Dataplane.close`."""
        self._rounds.close()
        self.affinity.close()
        self._monitor.close()
        self._tools.close()

    @property
    def _static_settings(self) -> StaticSettings:
        return StaticSettings(
            masquerade_bit=self._masquerade_bit,
            dataplane=self.settings,
            localhost_node_ports=self._localhost_node_ports,
            drop_invalid=self._drop_invalid,
            masquerade_local=self._masquerade_local,
        )

    async def _write_static(self, family: Family) -> None:
        """Static chains and jumps that differ; the roots of the trees must be there for rules to lead to."""
        saved, settings = self._saved[family], self._static_settings
        wanted = static.static_chains(family, settings)
        chains: dict[tuple[str, str], Rules | None] = {
            name: rules for name, rules in wanted.items() if saved.chains.get(name) != rules
        }
        for root in (layout.VIPS, layout.PORTS):
            if ("nat", root) not in saved.chains:
                chains["nat", root] = ()
        jumps = frozenset(static.jumps(family, settings))
        text = restore_text(chains, jumps=sorted(jumps - saved.jumps), unjumps=sorted(saved.jumps - jumps))
        await self._writer.commit(restores={family: text})
        have = {**saved.chains, **{name: rules for name, rules in chains.items() if rules is not None}}
        self._saved[family] = Saved(chains=have, jumps=jumps)

    def _books(self) -> Books:
        return Books(self._ledger.copy(), self._written_settings)

    async def _mend(self, *, may_remove: bool) -> int:
        """Bring the kernel to what the ledger says; how many chains, elements and jumps differed."""
        self._saved = {family: parse_rules(await self._tools.save(family)) for family in self._families}
        sets, found = parse_sets(await self._tools.ipset_save())
        wanted_sets = self._ledger.all_sets()
        missing = [set_line(record) for record in sorted(wanted_sets - found)]
        create = [
            line for family in self._families for line in static.create_lines(family) if line.split()[1] not in sets
        ]
        surplus = [f"del {record.key.decode()}" for record in found - wanted_sets if record.kind > layout.Kind.MEMORY]
        await self._writer.ipset([*create, *missing])
        objects = len(create) + len(missing) + (len(surplus) if may_remove else 0)
        for family in self._families:
            objects += await self._mend_family(family)
        await self._writer.ipset(surplus if may_remove else [])
        return objects

    async def _mend_family(self, family: Family) -> int:
        saved, settings = self._saved[family], self._static_settings
        wanted = wanted_chains(self._ledger, family, settings)
        chains: dict[tuple[str, str], Rules | None] = {
            name: rules for name, rules in wanted.items() if saved.chains.get(name) != rules
        }
        chains.update(dict.fromkeys(saved.chains.keys() - wanted.keys()))
        jumps = frozenset(static.jumps(family, settings))
        come, gone = sorted(jumps - saved.jumps), sorted(saved.jumps - jumps)
        await self._writer.commit(restores={family: restore_text(chains, jumps=come, unjumps=gone)})
        self._saved[family] = Saved(chains=wanted, jumps=jumps)
        return len(chains) + len(come) + len(gone)


def _things(operations: Operations, change: IptablesChange) -> list[Thing]:
    """What a change writes."""
    chains: list[Thing] = [chain_thing(family, "nat", name) for family, name in operations.chains]
    return [*chains, *change.removals, *change.additions, *change.claims]


def _merged(remembered: bytes, found: layout.Records) -> bytes:
    return layout.pack({**layout.unpack(remembered), **found}) if found else remembered
