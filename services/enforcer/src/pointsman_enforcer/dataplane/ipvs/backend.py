# SPDX-License-Identifier: Apache-2.0
"""The IPVS dataplane: virtual servers known by marks, sets that lead to them, and a few static rules.

Ownership: chains named POINTSMAN-*, sets named pointsman-*, one routing table, and the virtual servers that `observe`
describes. A restarted process reads all of it once and writes what differs; everybody else's virtual servers stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import structlog

from pointsman_enforcer.core.stale_flows import Place
from pointsman_enforcer.dataplane.base import Applied, Found, KernelError, Mended, ProxyMode
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.ipvs import layout, node, static
from pointsman_enforcer.dataplane.ipvs.change import IpvsChange, Ledger, diff
from pointsman_enforcer.dataplane.ipvs.genetlink.channel import IpvsChannel, IpvsError
from pointsman_enforcer.dataplane.ipvs.genetlink.model import ServiceFlags, Timeouts
from pointsman_enforcer.dataplane.ipvs.layout import Id, Kind, Records
from pointsman_enforcer.dataplane.ipvs.observe import Observation, parse_sets, places_of
from pointsman_enforcer.dataplane.ipvs.render import CAPABILITIES, Numbers, RenderContext, render_node, render_service
from pointsman_enforcer.dataplane.ipvs.servers import Servers
from pointsman_enforcer.dataplane.node_settings import NodeSettings, effective_settings
from pointsman_enforcer.dataplane.xtables.affinity import UnreadMemory
from pointsman_enforcer.dataplane.xtables.text import IPVS_PREFIX, parse_rules, restore_text
from pointsman_enforcer.dataplane.xtables.tools import Tools, Variant
from pointsman_model.names import Family
from pointsman_model.plan import NodeFacts, ServicePlan

_KEEP: Final = Timeouts()
POLL_SECONDS: Final = 1.0
"""How often is looked whether somebody else changed something, and whether something has had its last connection."""


class IpvsDataplane:
    """See `dataplane.base.Dataplane`. One per network namespace: that of the thread that makes it."""

    mode = ProxyMode.IPVS
    capabilities = CAPABILITIES
    read_back = None
    """Sets can only be read whole: see `mend`."""

    def __init__(
        self,
        *,
        node_settings: NodeSettings,
        variant: Variant = Variant.LEGACY,
        scheduler: str = "",
        flags: ServiceFlags = ServiceFlags.NONE,
        timeouts: Timeouts = _KEEP,
    ) -> None:
        """UnsupportedError when a tool is missing, IpvsError when there is no IPVS."""
        self._node_settings = node_settings
        self._tools = Tools(variant)
        self._channel = self._tools.inside(IpvsChannel)
        self._servers = Servers(self._channel)
        self._timeouts = timeouts
        self.affinity = UnreadMemory()
        self.settings = effective_settings(node_settings, None)
        self._context = RenderContext(settings=self.settings, scheduler=scheduler, flags=flags)
        self._numbers = Numbers()
        self._ledger = Ledger()
        self._observation: Observation | None = None
        self._is_changed = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def counters(self) -> tuple[int, int]:
        """Messages to IPVS and programs run, and bytes of messages, since the start."""
        return self._channel.messages + self._tools.runs, self._channel.bytes

    def configure(self, facts: NodeFacts) -> bool:
        """See `Dataplane.configure`."""
        before = self._context
        self.settings = effective_settings(self._node_settings, facts)
        self._context = replace(before, settings=self.settings, addresses=facts.addresses)
        return self._context != before

    async def observe(self) -> Found:
        """See `Dataplane.observe`."""
        found, is_ours = await self._read()
        self._ledger = Ledger()
        self._observation = Observation(found, self._ledger)
        return Found.OURS if is_ours else Found.NOTHING

    async def prepare(self, *, whole_plan: bool = False) -> None:  # noqa: ARG002 - what is ours is always adopted
        """See `Dataplane.prepare`: sets, rules and routes stand before the first virtual server."""
        try:
            await self._write_static()
            self._tools.inside(node.prepare)
            self._servers.set_timeouts(self._timeouts)
        except (CommandError, OSError) as error:
            raise KernelError(f"static rules: {error}") from error

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
        """See `Dataplane.render`."""
        return render_service(plan, self._context, self._numbers)

    def render_node(self, facts: NodeFacts, *, drop_unallocated: bool) -> bytes:
        """See `Dataplane.render_node`."""
        return render_node(facts, self.settings, drop_unallocated=drop_unallocated)

    def diff(self, old: bytes, new: bytes) -> IpvsChange:
        """See `Dataplane.diff`."""
        return diff(old, new)

    async def apply(self, change: IpvsChange) -> Applied:
        """What comes, then the sets that lead to it, then what goes: an order that hurts nobody at any point.

        IPVS has no transactions; after a refusal the kernel is read again.
        """
        before = self.counters
        operations = self._ledger.resolve(change)
        try:
            self._servers.put(operations.servers)
            await self._ipset(operations.elements)
            self._servers.remove(operations.gone)
        except (CommandError, IpvsError) as error:
            raise KernelError(str(error), outcome_known=False) from error
        self._ledger.commit(change)
        after = self.counters
        return Applied(after[0] - before[0], after[1] - before[1])

    def watch(self, noticed: Callable[[], None]) -> None:
        """See `Dataplane.watch`: nobody announces changes of IPVS or of sets, so they are looked for."""
        loop = asyncio.get_running_loop()

        def poll() -> None:
            self._is_changed = True
            noticed()
            self._timer = loop.call_later(POLL_SECONDS, poll)

        self._timer = loop.call_later(POLL_SECONDS, poll)

    async def mend(self, _renderings: Sequence[bytes], *, may_remove: bool) -> Mended:
        """See `Dataplane.mend`: everything of ours is read and compared with what was written."""
        if not self._is_changed:
            return Mended()
        self._is_changed = False
        before = self.counters
        try:
            objects = await self._mend(may_remove=may_remove)
            if self._servers.is_draining:
                self._servers.drain()
        except (KernelError, CommandError, IpvsError, ValueError) as error:
            self._is_changed = True
            raise KernelError(f"mending what is ours: {error}") from error
        if not objects:
            return Mended()
        applied = Applied(self.counters[0] - before[0], self.counters[1] - before[1])
        return Mended(kinds=("rule",), objects=objects, applied=applied)

    def is_frontend(self, place: Place) -> bool:
        """See `Dataplane.is_frontend`."""
        return self._ledger.is_taken(place)

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
        try:
            await self._read()
            removed = self._servers.flush()
            for family in Family:
                saved = parse_rules(await self._tools.save(family), IPVS_PREFIX)
                text = restore_text(dict.fromkeys(saved.chains), unjumps=sorted(saved.jumps))
                if text:
                    await self._tools.restore(family, text)
            names, _ = parse_sets(await self._tools.ipset_save())
            await self._ipset([f"destroy {name}" for name in sorted(names)])
            self._tools.inside(node.undo)
        except (CommandError, IpvsError) as error:
            raise KernelError(f"removing what is ours: {error}") from error
        structlog.get_logger("ipvs").info("cleaned up", virtual_servers=removed)

    def close(self) -> None:
        """See `Dataplane.close`."""
        if self._timer is not None:
            self._timer.cancel()
        self._channel.close()
        self._tools.close()

    async def _read(self) -> tuple[Records, bool]:
        """Elements and servers of ours, and whether there was anything at all."""
        try:
            sets, elements = parse_sets(await self._tools.ipset_save())
            servers = self._servers.read(set(places_of(elements, self._context.addresses)))
        except (CommandError, IpvsError, ValueError) as error:
            raise KernelError(f"reading what is ours: {error}") from error
        return {**elements, **servers}, bool(sets)

    async def _write_static(self) -> int:
        """Sets, chains and jumps that are missing or differ; how many."""
        sets, _ = parse_sets(await self._tools.ipset_save())
        lines = [line for family in Family for line in static.create_lines(family) if line.split()[1] not in sets]
        await self._ipset(lines)
        count = len(lines)
        for family in Family:
            saved = parse_rules(await self._tools.save(family), IPVS_PREFIX)
            have, jumps = saved.chains, saved.jumps
            wanted = static.static_chains(family, self.settings)
            chains: dict[tuple[str, str], tuple[str, ...] | None] = {
                name: rules for name, rules in wanted.items() if have.get(name) != rules
            }
            missing = sorted(set(static.JUMPS) - jumps)
            text = restore_text(chains, jumps=missing)
            if text:
                await self._tools.restore(family, text)
            count += len(chains) + len(missing)
        return count

    async def _mend(self, *, may_remove: bool) -> int:
        objects = await self._write_static()
        self._tools.inside(node.prepare)
        _, elements = parse_sets(await self._tools.ipset_save())
        wanted = self._ledger.elements()
        lines = [
            f"add {each.key.decode()} {value.decode()}".rstrip()
            for each, value in wanted.items()
            if elements.get(each) != value
        ]
        lines += [f"del {each.key.decode()}" for each in elements if each not in wanted and may_remove]
        servers = {record: value for record, value in self._ledger.owned.items() if record.kind is not Kind.MEMBER}
        missing = self._servers.differing(servers)
        self._servers.put(sorted(missing))
        await self._ipset(lines)
        return objects + len(lines) + len(missing)

    async def _ipset(self, lines: Sequence[str]) -> None:
        if lines:
            await self._tools.ipset("\n".join(lines) + "\n")


def _words(verb: str, record: Id, value: bytes) -> str:
    if record.kind is Kind.SERVER:
        server, _ = layout.server_of(record, value)
        return f"{verb} {server.id} -s {server.scheduler}"
    place, real = layout.real_of(record, value)
    return f"{verb} {place} -r {real.id.address.hex()}:{real.id.port} -w {real.weight}"


def _merged(remembered: bytes, found: Records) -> bytes:
    return layout.pack({**layout.unpack(remembered), **found}) if found else remembered
