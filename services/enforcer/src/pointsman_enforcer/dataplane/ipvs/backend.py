# SPDX-License-Identifier: Apache-2.0
"""The IPVS dataplane: virtual servers known by marks, sets that lead to them, and a few static rules.

Ownership: chains named POINTSMAN-IPVS-*, sets named pointsman-ipvs-*, one routing table, and the virtual servers that
`observe` describes. A restarted process reads all of it once and writes what differs; everybody else's virtual servers
stay. What talks to IPVS does so on one thread, so that no send, however long, keeps the loop waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from pointsman_chassis.errors import UnsupportedError
from pointsman_enforcer.core.stale_flows import Place
from pointsman_enforcer.dataplane.base import (
    Applied,
    Found,
    KernelError,
    Mended,
    ProxyMode,
    ReadBack,
    UnsupportedPlanError,
)
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.ipvs import layout, node
from pointsman_enforcer.dataplane.ipvs.change import IpvsChange, Ledger, diff
from pointsman_enforcer.dataplane.ipvs.genetlink.channel import IpvsChannel, IpvsError
from pointsman_enforcer.dataplane.ipvs.genetlink.model import ServiceFlags, Timeouts
from pointsman_enforcer.dataplane.ipvs.layout import Id, Kind, Records
from pointsman_enforcer.dataplane.ipvs.node import Sysctls
from pointsman_enforcer.dataplane.ipvs.observe import Observation, parse_sets, places_of
from pointsman_enforcer.dataplane.ipvs.read_back import Reader
from pointsman_enforcer.dataplane.ipvs.render import CAPABILITIES, Numbers, RenderContext, render_node, render_service
from pointsman_enforcer.dataplane.ipvs.repair import SET_NAMES, Parts, Repair
from pointsman_enforcer.dataplane.ipvs.schedulers import NAMES, Scheduler
from pointsman_enforcer.dataplane.ipvs.servers import Servers
from pointsman_enforcer.dataplane.ipvs.signs import SignReader
from pointsman_enforcer.dataplane.ipvs.watch import Watch, Watched
from pointsman_enforcer.dataplane.node_settings import NodeSettings, effective_settings
from pointsman_enforcer.dataplane.xtables.affinity import UnreadMemory
from pointsman_enforcer.dataplane.xtables.tools import Tools, Variant
from pointsman_model.names import Prefix
from pointsman_model.plan import DataplaneSettings, NodeFacts, ServicePlan

_KEEP: Final = Timeouts()
Result = TypeVar("Result")


class IpvsDataplane:
    """See `dataplane.base.Dataplane`. One per network namespace: that of the thread that makes it."""

    mode = ProxyMode.IPVS
    capabilities = CAPABILITIES

    def __init__(
        self,
        *,
        node_settings: NodeSettings,
        variant: Variant = Variant.LEGACY,
        scheduler: str = "",
        flags: ServiceFlags = ServiceFlags.NONE,
        timeouts: Timeouts = _KEEP,
        exclude_cidrs: Sequence[Prefix] = (),
        strict_arp: bool = False,
    ) -> None:
        """UnsupportedError when a tool or a scheduler is missing, IpvsError when there is no IPVS."""
        self._node_settings = node_settings
        self._tools = Tools(variant)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ipvs")
        self._timeouts = timeouts
        self._schedulers: set[str] = set()
        try:
            self._thread.submit(self._open, exclude_cidrs, strict_arp).result()
            if scheduler and not (scheduler in NAMES and self._has_scheduler(scheduler)):
                raise UnsupportedError(f"IPVS has no scheduler {scheduler!r} in this kernel")
        except OSError as error:
            raise IpvsError(f"IPVS cannot be used here: {error}") from error
        self.affinity = UnreadMemory()
        settings = effective_settings(node_settings, None)
        self._context = RenderContext(settings=settings, scheduler=Scheduler(scheduler, flags))
        self._numbers = Numbers()
        self._ledger = Ledger()
        self._observation: Observation | None = None

    def _open(self, excluded: Sequence[Prefix], strict_arp: bool) -> None:  # noqa: FBT001 - of a thread's call
        """On the thread: whatever is opened here is of its namespace."""
        self._channel = IpvsChannel()
        self._sysctls = Sysctls(strict_arp=strict_arp)
        self._servers = Servers(self._channel, excluded=excluded, removing=self._sysctls.forgetting)
        self._signs = SignReader(self._tools.variant)
        self._watch = Watch(
            Watched(
                signs=self._signs,
                servers=self._servers,
                sysctls=self._sysctls,
                timeouts=self._timeouts,
                sums=lambda: self._ledger.sums,
                read_sets=lambda: self._tools.ipset_save_of(SET_NAMES),
            ),
            self._thread,
        )
        self._reader = Reader(self._watch.suspect)
        parts = Parts(
            tools=self._tools,
            servers=self._servers,
            sysctls=self._sysctls,
            watch=self._watch,
            inside=self._inside,
        )
        self._repair = Repair(parts, self._timeouts)

    @property
    def settings(self) -> DataplaneSettings:
        """See `Dataplane.settings`."""
        return self._context.settings

    @property
    def counters(self) -> tuple[int, int]:
        """Messages to IPVS and programs run, and bytes of messages, since the start."""
        return self._channel.messages + self._tools.runs, self._channel.bytes

    def configure(self, facts: NodeFacts) -> bool:
        """See `Dataplane.configure`."""
        before = self._context
        settings = effective_settings(self._node_settings, facts)
        self._context = replace(before, settings=settings, addresses=facts.addresses)
        return self._context != before

    async def observe(self) -> Found:
        """See `Dataplane.observe`."""
        with _told("reading what is ours"):
            sets, elements = parse_sets(await self._tools.ipset_save())
            addresses = self._context.addresses or await self._inside(node.addresses)
            places = set(places_of(elements, addresses))
            servers = await self._inside(lambda: self._servers.read(places))
        self._ledger = Ledger()
        self._observation = Observation({**elements, **servers}, self._ledger)
        return Found.OURS if sets else Found.NOTHING

    async def prepare(self, *, whole_plan: bool = False) -> None:  # noqa: ARG002 - what is ours is always adopted
        """See `Dataplane.prepare`: sets, rules and routes stand before the first virtual server."""
        with _told("static rules"), self._writing():
            await self._repair.write_static(self.settings)
            await self._inside(self._repair.write_node)

    def claim(self, plan: ServicePlan, remembered: bytes) -> bytes:
        """See `Dataplane.claim`."""
        if self._observation is None:
            return remembered
        wanted = layout.unpack(render_service(plan, self._context, self._numbers))
        return _merged(remembered, self._observation.claim(wanted, self._ledger))

    def claim_node(self, remembered: bytes) -> bytes:
        """See `Dataplane.claim_node`."""
        return remembered if self._observation is None else _merged(remembered, self._observation.claim_node())

    def render(self, plan: ServicePlan, _previous: bytes) -> bytes:
        """See `Dataplane.render`; a scheduler that this kernel lacks is refused, too."""
        rendering = render_service(plan, self._context, self._numbers)
        name = plan.ipvs_scheduler.partition(",")[0].strip()
        if name and not self._has_scheduler(name):
            raise UnsupportedPlanError(f"this kernel has no scheduler {name} (module ip_vs_{name})")
        return rendering

    def render_node(self, facts: NodeFacts, *, drop_unallocated: bool) -> bytes:
        """See `Dataplane.render_node`."""
        return render_node(facts, self.settings, drop_unallocated=drop_unallocated)

    def diff(self, old: bytes, new: bytes) -> IpvsChange:
        """See `Dataplane.diff`."""
        return diff(old, new)

    async def apply(self, change: IpvsChange) -> Applied:
        """What comes, then the sets that lead to it, then what goes: an order that hurts nobody at any point.

        IPVS has no transactions: a virtual server that is refused has all of them put back. After a refusal by ipset
        the kernel is read again.
        """
        before = self.counters
        operations = self._ledger.resolve(change)
        with self._writing():
            await self._inside(lambda: self._servers.put(operations.servers))
            try:
                if operations.elements:
                    await self._tools.ipset("\n".join(operations.elements) + "\n")
            except CommandError as error:
                raise KernelError(str(error), outcome_known=False) from error
            await self._inside(lambda: self._remove(operations.gone))
            self._ledger.commit(change)
        after = self.counters
        return Applied(after[0] - before[0], after[1] - before[1])

    def watch(self, noticed: Callable[[], None]) -> None:
        """See `Dataplane.watch`: nobody announces changes of IPVS or of sets, so they are looked for."""
        self._watch.start(noticed)

    async def mend(self, renderings: Sequence[bytes], *, may_remove: bool) -> Mended:
        """See `Dataplane.mend`."""
        before = self.counters
        with _told("mending what is ours"):
            suspicion = await self._inside(self._watch.take)
            if not suspicion.is_any:
                return Mended()
            try:
                with self._writing():
                    mended = await self._repair.mend(suspicion, self.settings, renderings, may_remove=may_remove)
            except BaseException:
                self._watch.suspect(suspicion)
                raise
        if mended.sums is not None:
            self._ledger.sums = mended.sums
        applied = Applied(self.counters[0] - before[0], self.counters[1] - before[1])
        return Mended(kinds=mended.kinds, objects=mended.objects, applied=applied)

    def look_at_everything(self) -> None:
        """Have the next look be the slow one."""
        self._watch.hurry()

    def is_frontend(self, place: Place) -> bool:
        """See `Dataplane.is_frontend`."""
        return self._ledger.is_taken(place)

    def read_back(self, rendering: bytes, start: int, most: int) -> ReadBack:
        """See `Dataplane.read_back`."""
        return self._reader.read_back(rendering, start, most)

    def leftover(self) -> Iterator[IpvsChange]:
        """See `Dataplane.leftover`."""
        if self._observation is not None:
            yield from self._observation.leftover(self._ledger)
            self._observation = None

    def describe(self, change: IpvsChange) -> Iterator[str]:
        """The change in ipvsadm's nouns and as input of ipset."""
        operations = self._ledger.resolve(change)
        yield from (_words("put", record, value) for record, value in operations.servers)
        yield from operations.elements
        yield from (_words("remove", record, value) for record, value in operations.gone)

    async def cleanup(self) -> None:
        """See `Dataplane.cleanup`."""
        await self.observe()
        with _told("removing what is ours"), self._writing():
            removed = await self._inside(self._servers.flush)
            await self._repair.remove_static()
            await self._inside(self._repair.restore_timeouts)
        structlog.get_logger("ipvs").info("cleaned up", virtual_servers=removed)

    async def retire(self) -> int:
        """Take no new connection, and remove whatever has none; how many virtual servers still have some.

        For a node that changes to another mode: what IPVS holds goes on as it is, until it ends. To be repeated; at 0
        nothing of ours is left but what `cleanup` removes at once. Works without a plan.
        """
        await self.observe()
        with _told("leaving ipvs"), self._writing():
            await self._repair.take_nothing_new()
            return await self._inside(self._servers.retire)

    def close(self) -> None:
        """See `Dataplane.close`."""
        self._watch.close()
        self._thread.shutdown()
        for each in (self._channel, self._signs, self._reader, self._sysctls):
            each.close()
        self._tools.close()

    def _remove(self, gone: Sequence[tuple[Id, bytes]]) -> None:
        if gone:
            self._servers.remove(gone)
        self._watch.settle_servers()

    def _has_scheduler(self, name: str) -> bool:
        """Once it was there it stays: the kernel is asked only for what it has not shown yet."""
        if name not in self._schedulers and self._thread.submit(self._servers.has_scheduler, name).result():
            self._schedulers.add(name)
        return name in self._schedulers

    async def _inside(self, function: Callable[[], Result]) -> Result:
        """Call something on the thread that talks to IPVS; IpvsError becomes KernelError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        except IpvsError as error:
            raise KernelError(str(error), outcome_known=False) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """While it is entered, what is looked at is being changed by us."""
        self._watch.begin_write()
        try:
            yield
        finally:
            self._watch.end_write()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of tools and of the kernel become KernelError, with what was being done."""
    try:
        yield
    except (CommandError, IpvsError, OSError, ValueError, KernelError) as error:
        raise KernelError(f"{what}: {error}", outcome_known=False) from error


def _words(verb: str, record: Id, value: bytes) -> str:
    if record.kind is Kind.SERVER:
        server, _ = layout.server_of(record, value)
        return f"{verb} {server.id} -s {server.scheduler}"
    place, real = layout.real_of(record, value)
    return f"{verb} {place} -r {real.id.address.hex()}:{real.id.port} -w {real.weight}"


def _merged(remembered: bytes, found: Records) -> bytes:
    return layout.pack({**layout.unpack(remembered), **found}) if found else remembered
