# SPDX-License-Identifier: Apache-2.0
"""The nftables dataplane: one `ip` and one `ip6` table named `pointsman`.

Ownership: everything in these two tables is ours and nothing else is; the set `state` in them says which schema and
which skeleton they were made from. A table of our schema is adopted element by element, one of another schema is
replaced with its whole content in one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

import structlog

from pointsman_chassis.clock import Clock, SystemClock
from pointsman_enforcer.core.stale_flows import Place
from pointsman_enforcer.dataplane.base import Applied, Found, KernelError, Mended, ProxyMode
from pointsman_enforcer.dataplane.nftables import cleanup, layout, packed
from pointsman_enforcer.dataplane.nftables.affinity_keeper import AffinityKeeper, is_touched
from pointsman_enforcer.dataplane.nftables.apply import (
    TABLES,
    chain_messages,
    chains_of,
    describe,
    describe_chain,
    messages,
)
from pointsman_enforcer.dataplane.nftables.chains import endpoint_chain_of
from pointsman_enforcer.dataplane.nftables.change import Ledger, NftChange, diff
from pointsman_enforcer.dataplane.nftables.drift import DriftMonitor, Monitor
from pointsman_enforcer.dataplane.nftables.errors import DumpInterruptedError, NetlinkError, NftablesError
from pointsman_enforcer.dataplane.nftables.kernel import NftKernel
from pointsman_enforcer.dataplane.nftables.mend import (
    Repair,
    TableState,
    Wanted,
    compare,
    is_structure_suspect,
    named_keys,
    rebuild,
    restructure,
    sections_to_compare,
)
from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Message
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket
from pointsman_enforcer.dataplane.nftables.notifications import Touched
from pointsman_enforcer.dataplane.nftables.observe import Observation
from pointsman_enforcer.dataplane.nftables.read_back import reader
from pointsman_enforcer.dataplane.nftables.render import RenderContext, render_node, render_service
from pointsman_enforcer.dataplane.nftables.settings import SkeletonSettings, pods_of
from pointsman_enforcer.dataplane.nftables.skeleton import Adoption, adoption, replacement, skeleton
from pointsman_enforcer.dataplane.nftables.support import CAPABILITIES
from pointsman_enforcer.dataplane.node_settings import NodeSettings, effective_settings
from pointsman_model import names
from pointsman_model.names import Prefix
from pointsman_model.plan import NodeFacts, ServicePlan

_DUMP_ATTEMPTS: Final = 10
PICKS: Final = frozenset(packed.section_of(family, layout.AFFINITY_PICKS).number for family in Family)
"""Sections of what clients without memory get."""
Result = TypeVar("Result")


class NftablesDataplane:
    """See `dataplane.base.Dataplane`. One per network namespace: that of the thread that makes it."""

    mode = ProxyMode.NFTABLES
    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        node_settings: NodeSettings,
        masquerade_bit: int = 14,
        masquerade_local: bool = True,
        kernel: NftKernel | None = None,
        monitor: Monitor | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Without `kernel`, that of the calling thread's network namespace; OSError when we may not talk to it."""
        self._node_settings, self._masquerade_bit = node_settings, masquerade_bit
        self._masquerade_local = masquerade_local
        if kernel is None:
            kernel = opened = NftSocket()
            monitor = monitor or DriftMonitor(opened.port)
        self._nft: NftKernel = kernel
        self._monitor = monitor
        self.read_back = reader(kernel, monitor)
        self.affinity = AffinityKeeper(
            kernel=kernel,
            monitor=monitor,
            clock=clock or SystemClock(),
            is_wanted=lambda: self._ledger.numbers.are_used,
        )
        self._is_condemned = False
        """Whether mending was refused, so that nothing less than new tables helps."""
        self._refusals = 0
        self._adoption = dict.fromkeys(Family, Adoption.REPLACE)
        self._exists = dict.fromkeys(Family, False)
        self._chains: set[tuple[Family, str]] = set()
        self._ledger = Ledger()
        self._observation: Observation | None = None
        self._prelude: list[Message] = []
        self.settings = effective_settings(node_settings, None)
        self._context = self._make_context()
        self._node_inputs: tuple[NodeFacts, tuple[Prefix, ...], bool] | None = None
        """What `_node_rendering` was made from: asked for with every change, and it hardly ever differs."""
        self._node_rendering = b""

    @property
    def counters(self) -> tuple[int, int]:
        """Messages and bytes sent to the kernel since the start."""
        return self._nft.counters.messages, self._nft.counters.bytes

    @property
    def gets(self) -> int:
        """How often a single element was asked for since the start."""
        return self._nft.counters.gets

    @property
    def dumps(self) -> int:
        """How often something was listed since the start."""
        return self._nft.counters.dumps

    def configure(self, facts: NodeFacts) -> bool:
        """Take the facts; whether services must be rendered anew because a family gained or lost its detector."""
        before, settings_before = self._context, self.settings
        self.settings = effective_settings(self._node_settings, facts)
        self._context = self._make_context()
        if self.settings != settings_before:
            self._adoption = {
                family: Adoption.REWRITE if found is Adoption.KEEP else found
                for family, found in self._adoption.items()
            }
        return self._context != before

    async def observe(self) -> Found:
        """Read both tables. What differs from the settings is found here and mended by `prepare`."""
        self._ledger, self._observation, self._prelude = Ledger(), Observation(), []
        self._chains.clear()
        for family, table in TABLES.items():
            self._exists[family] = self._nft.table_exists(table)
            self._adoption[family] = self._retried(self._find_adoption, family)
        if self._is_condemned:
            self._is_condemned, self._refusals = False, 0
            self._adoption = dict.fromkeys(Family, Adoption.REPLACE)
        if any(self._exists[family] and self._adoption[family] is Adoption.REPLACE for family in Family):
            self._observation = None
            return Found.FOREIGN_SCHEMA
        if not any(self._exists.values()):
            self._observation = None
            return Found.NOTHING
        self._ledger, self._observation = self._retried(self._read_elements)
        self.affinity.changed()
        return Found.OURS

    async def prepare(self, *, whole_plan: bool = False) -> None:
        """Send what the skeletons lack; with `whole_plan` it waits and goes out in front of the next change."""
        wanted: list[Message] = []
        for family, table in TABLES.items():
            settings = self._skeleton_settings(family)
            if self._adoption[family] is Adoption.REPLACE or whole_plan:
                wanted += replacement(table, settings)
                self._chains = {chain for chain in self._chains if chain[0] is not family}
            elif self._adoption[family] is Adoption.REWRITE:
                wanted += skeleton(table, settings)
        if whole_plan:
            self._prelude = wanted
        elif wanted:
            with self.affinity.repairing():
                await self._commit(wanted)
                for family in [each for each, found in self._adoption.items() if found is Adoption.REPLACE]:
                    await self.affinity.give_back(family)
        if not whole_plan:
            self._adoption = dict.fromkeys(Family, Adoption.KEEP)

    def claim(self, plan: ServicePlan, remembered: bytes) -> bytes:
        """See `Dataplane.claim`."""
        if self._observation is None:
            return remembered
        return self._claimed(remembered, self._observation.claim(plan))

    def claim_node(self, remembered: bytes) -> bytes:
        """See `Dataplane.claim_node`."""
        if self._observation is None:
            return remembered
        return self._claimed(remembered, self._observation.claim_node())

    def render(self, plan: ServicePlan, previous: bytes) -> bytes:
        """See `Dataplane.render`."""
        return render_service(plan, previous, self._context, self._ledger.numbers)

    def render_node(self, facts: NodeFacts, *, drop_unallocated: bool) -> bytes:
        """See `Dataplane.render_node`."""
        inputs = (facts, self.settings.node_port_addresses, drop_unallocated)
        if self._node_inputs != inputs:
            by_family = {
                family: tuple(prefix for prefix in self.settings.node_port_addresses if prefix.family is family)
                for family in names.Family
            }
            self._node_rendering = render_node(facts, by_family, drop_unallocated=drop_unallocated)
            self._node_inputs = inputs
        return self._node_rendering

    def diff(self, old: bytes, new: bytes) -> NftChange:
        """See `Dataplane.diff`."""
        return diff(old, new)

    async def apply(self, change: NftChange) -> Applied:
        """One batch; endpoint chains that the change is the first to name are made in it."""
        operations = self._ledger.resolve(change)
        chains = sorted(chains_of(operations) - self._chains)
        batch = [*self._prelude]
        for family, name in chains:
            batch += chain_messages(family, name)
        batch += messages(operations)
        applied = await self._commit(batch)
        if self._prelude:
            self._prelude, self._adoption = [], dict.fromkeys(Family, Adoption.KEEP)
            with self.affinity.repairing():
                for family in Family:
                    await self.affinity.give_back(family)
        self._chains.update(chains)
        self._ledger.commit(change)
        if not PICKS.isdisjoint(change.additions):
            self.affinity.changed()
        return applied

    def watch(self, noticed: Callable[[], None]) -> None:
        """See `Dataplane.watch`."""
        if self._monitor is not None:
            self._monitor.watch(noticed)

    async def mend(self, renderings: Sequence[bytes], *, may_remove: bool) -> Mended:
        """See `Dataplane.mend`. The kernel is read in a thread: other work goes on."""
        touched = Touched() if self._monitor is None else self._monitor.take()
        if not touched.is_any:
            return Mended()
        with self.affinity.repairing():
            return await self._mend(touched, renderings, may_remove=may_remove)

    async def _mend(self, touched: Touched, renderings: Sequence[bytes], *, may_remove: bool) -> Mended:
        found = Mended(tuple(sorted(touched.kinds)), touched.process, touched.process_id)
        try:
            gone = {family for family, table in TABLES.items() if not self._nft.table_exists(table)}
            gone |= touched.remade
            if gone:
                applied = await self._rebuild(gone, renderings)
                self._look_again_at(touched.without(gone))
                return found._replace(objects=applied.messages, applied=applied, is_rebuilt=True)
            repair = await asyncio.to_thread(self._plan_repair, touched, renderings, may_remove=may_remove)
            applied = await self._commit(repair.messages) if repair.messages else found.applied
            clients = await self.affinity.restore(family for family in Family if is_touched(touched, [family]))
        except (KernelError, NftablesError, ValueError) as error:
            # ValueError: a set of ours has elements that are not of its kind, as somebody else made it.
            self._refusals += 1
            self._is_condemned = self._refusals > 1
            self._look_again_at(touched)
            raise KernelError(f"mending our tables: {error}") from error
        self._refusals = 0
        must_observe = repair.surplus > 0 and not may_remove
        return found._replace(objects=repair.objects + clients, applied=applied, must_observe=must_observe)

    def is_frontend(self, place: Place) -> bool:
        """See `Dataplane.is_frontend`."""
        return self._ledger.is_taken(place)

    def leftover(self) -> Iterator[NftChange]:
        """Removals of what was found and not claimed; after the last one, nothing is left to claim."""
        if self._observation is not None:
            yield from self._observation.leftover(self._ledger)
            self._observation = None

    def describe(self, change: NftChange) -> Iterator[str]:
        """The commands that `nft -f` would take for it."""
        for family, table in TABLES.items():
            if self._adoption[family] is not Adoption.KEEP:
                verb = "rewrite the rules of" if self._adoption[family] is Adoption.REWRITE else "make anew"
                yield f"# {verb} table {family.keyword} {table.name}"
        operations = self._ledger.resolve(change)
        for family, name in sorted(chains_of(operations) - self._chains):
            yield describe_chain(family, name)
        yield from describe(operations)

    async def cleanup(self) -> None:
        """Delete both tables."""
        try:
            removed = cleanup.cleanup(self._nft)
        except NetlinkError as error:
            raise KernelError(f"deleting our tables: {error}") from error
        structlog.get_logger("nftables").info("cleaned up", tables=removed)

    def close(self) -> None:
        """Close the sockets."""
        self._nft.close()
        if self._monitor is not None:
            self._monitor.close()

    async def _commit(self, batch: list[Message]) -> Applied:
        before = self.counters
        try:
            await self._nft.commit(Batch(batch))
        except NetlinkError as error:
            raise KernelError(str(error), outcome_known=error.outcome_known) from error
        except ValueError as error:
            raise KernelError(f"the batch could not be encoded: {error}") from error
        after = self.counters
        return Applied(after[0] - before[0], after[1] - before[1])

    def _look_again_at(self, touched: Touched) -> None:
        if self._monitor is not None and touched.is_any:
            self._monitor.put_back(touched)

    async def _rebuild(self, families: set[Family], renderings: Sequence[bytes]) -> Applied:
        chains = {(family, name) for family, name in self._chains if endpoint_chain_of(name) is not None}
        before = self.counters
        for step in rebuild(families, renderings, self._skeleton_settings, chains):
            for family, ports in step.ports.items():
                await self.affinity.give_back(family, ports)
            await self._commit(step.messages)
        return Applied(self.counters[0] - before[0], self.counters[1] - before[1])

    def _plan_repair(self, touched: Touched, renderings: Sequence[bytes], *, may_remove: bool) -> Repair:
        repair, wanted = Repair(), Wanted(renderings)
        for family, table in TABLES.items():
            for section in sections_to_compare(touched, family):
                keys = named_keys(touched, section)
                if keys:
                    elements = [self._nft.get_element(table, section.spec, key) for key in sorted(keys)]
                    found = [each for each in elements if each is not None]
                    compare(repair, section, found, wanted.of_keys(section, keys), may_remove=may_remove)
                else:
                    dump = self._nft.dump_elements(table, section.spec, is_watched=True)
                    compare(repair, section, dump, wanted.of(section), may_remove=may_remove)
            if is_structure_suspect(touched, family):
                restructure(repair, touched, self._table_state(family))
        return repair

    def _table_state(self, family: Family) -> TableState:
        table = TABLES[family]
        chains = {name for each, name in self._chains if each is family and endpoint_chain_of(name) is not None}
        return TableState(
            family=family,
            settings=self._skeleton_settings(family),
            endpoint_chains=frozenset(chains),
            chain_names=tuple(self._retried(self._nft.chain_names, table)),
            set_names=tuple(self._retried(self._nft.set_names, table)),
        )

    def _claimed(self, remembered: bytes, found: dict[int, packed.Records]) -> bytes:
        self._ledger.take(found)
        return packed.merge(remembered, found)

    def _find_adoption(self, family: Family) -> Adoption:
        state = self._nft.dump_elements(TABLES[family], layout.STATE)
        return adoption(state, TABLES[family], self._skeleton_settings(family))

    def _read_elements(self) -> tuple[Ledger, Observation]:
        ledger, observation = Ledger(), Observation()
        for family, table in TABLES.items():
            if self._exists[family]:
                self._chains.update((family, name) for name in self._nft.chain_names(table))
                observation.read(family, partial(self._nft.dump_elements, table), ledger)
        return ledger, observation

    def _retried(self, read: Callable[..., Result], *arguments: object) -> Result:
        """Read again while others change their own tables under the dump."""
        for _ in range(_DUMP_ATTEMPTS):
            try:
                return read(*arguments)
            except DumpInterruptedError:
                continue
            except NftablesError as error:
                raise KernelError(f"reading our tables: {error}") from error
        raise KernelError(f"our tables changed during each of {_DUMP_ATTEMPTS} attempts to read them")

    def _make_context(self) -> RenderContext:
        return RenderContext(
            detects=frozenset(family for family in names.Family if self.settings.detects(family)),
            masquerade_all=self.settings.masquerade_all,
            capabilities=CAPABILITIES,
        )

    def _skeleton_settings(self, family: Family) -> SkeletonSettings:
        return SkeletonSettings(
            masquerade_bit=self._masquerade_bit,
            masquerade_all=self.settings.masquerade_all,
            masquerade_local=self._masquerade_local,
            pods=pods_of(self.settings, family),
        )
