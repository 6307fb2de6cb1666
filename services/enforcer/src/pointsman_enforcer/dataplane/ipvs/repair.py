# SPDX-License-Identifier: Apache-2.0
"""Brings what does not depend on single services to what it should be, and mends what somebody else changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeVar

from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.ipvs import layout, node, static
from pointsman_enforcer.dataplane.ipvs.change import Sums
from pointsman_enforcer.dataplane.ipvs.genetlink.model import Timeouts
from pointsman_enforcer.dataplane.ipvs.layout import Kind, Records, set_name
from pointsman_enforcer.dataplane.ipvs.node import Sysctls
from pointsman_enforcer.dataplane.ipvs.observe import parse_sets
from pointsman_enforcer.dataplane.ipvs.servers import Servers
from pointsman_enforcer.dataplane.ipvs.watch import Suspicion, Watch
from pointsman_enforcer.dataplane.xtables.text import IPVS_PREFIX, Chains, Jump, Rules, parse_rules, restore_text
from pointsman_enforcer.dataplane.xtables.tools import Tools
from pointsman_model.names import Family
from pointsman_model.plan import DataplaneSettings

SET_NAMES: Final = tuple(set_name(role, family) for role in layout.ROLES for family in Family)
_DESTROY_ATTEMPTS: Final = 20
"""nf_tables lets go of the sets of deleted rules a moment after the rules are gone."""
_NEVER_SET: Final = Timeouts()
Result = TypeVar("Result")


class Inside(Protocol):
    """Calls something on the thread that talks to IPVS."""

    async def __call__(self, function: Callable[[], Result]) -> Result:
        """What it gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a dataplane is made of."""

    tools: Tools
    servers: Servers
    sysctls: Sysctls
    watch: Watch
    inside: Inside


class Repaired(NamedTuple):
    """What a repair found and did."""

    kinds: tuple[str, ...]
    objects: int
    sums: Sums | None
    """What sets hold now, if they were looked at."""


class Repair:
    """Works for one dataplane. `write_node` and `restore_timeouts` are for the thread of the servers."""

    def __init__(self, parts: Parts, timeouts: Timeouts) -> None:
        self._tools, self._servers, self._sysctls, self._watch = parts.tools, parts.servers, parts.sysctls, parts.watch
        self._inside = parts.inside
        self._timeouts = timeouts
        self._found_timeouts = _NEVER_SET
        """What somebody else had set before we did."""

    async def write_static(self, settings: DataplaneSettings) -> int:
        """Sets, chains and jumps that are missing or differ; how many."""
        names = await self._inside(self._tools.ipset_names)
        lines = [line for family in Family for line in static.create_lines(family) if line.split()[1] not in names]
        await self._ipset(lines)
        count = len(lines)
        for family in Family:
            count += await self._write_rules(family, static.static_chains(family, settings), static.JUMPS)
        await self._inside(self._watch.settle_rules)
        return count

    def write_node(self) -> int:
        """Sysctls, routes and timeouts; how many sysctls and timeouts differed."""
        count = self._sysctls.set()
        node.route()
        if not self._servers.has_timeouts(self._timeouts):
            count += 1
            before = self._servers.set_timeouts(self._timeouts)
            if self._found_timeouts == _NEVER_SET:
                self._found_timeouts = before
        return count

    def restore_timeouts(self) -> None:
        """Those that were there before this process set others."""
        if self._found_timeouts != _NEVER_SET:
            self._servers.set_timeouts(self._found_timeouts)
            self._found_timeouts = _NEVER_SET

    async def remove_static(self) -> None:
        """Chains, the rules that lead to them, routes, and last the sets: by them a removal cut short is known."""
        for family in Family:
            saved = parse_rules(await self._tools.save(family), IPVS_PREFIX)
            text = restore_text(dict.fromkeys(saved.chains), unjumps=sorted(saved.jumps))
            if text:
                await self._tools.restore(family, text)
        await self._inside(node.unroute)
        names, _ = parse_sets(await self._tools.ipset_save())
        for name in sorted(names):
            await self._destroy(name)

    async def take_nothing_new(self) -> None:
        """Of the rules only those stay that known connections need. Sets stay: they say whose virtual servers are."""
        for family in Family:
            saved = parse_rules(await self._tools.save(family), IPVS_PREFIX)
            if saved.chains:
                await self._write_rules(family, static.retired_chains(family, saved.chains), sorted(saved.jumps))

    async def mend(
        self, suspicion: Suspicion, settings: DataplaneSettings, renderings: Sequence[bytes], *, may_remove: bool
    ) -> Repaired:
        """What is suspected is read, and written where it differs."""
        done: dict[str, int] = {}
        if suspicion.rules or suspicion.sets:
            done["rule"] = await self.write_static(settings)
        if suspicion.routes or suspicion.sysctls:
            done["route"] = await self._inside(self.write_node) + suspicion.routes
        if suspicion.servers:
            # Before the sets, which lead to them.
            done["virtual server"] = await self._inside(lambda: self._mend_servers(suspicion))
        sums = None
        if suspicion.sets:
            done["element"], sums = await self._mend_sets(renderings, may_remove=may_remove)
        kinds = tuple(kind for kind, objects in done.items() if objects)
        return Repaired(kinds, sum(done.values()), sums)

    def _mend_servers(self, suspicion: Suspicion) -> int:
        """When one is found wrong others may be."""
        messages = self._servers.mend({*suspicion.servers, *self._servers.missing()})
        self._watch.settle_servers()
        return messages

    async def _mend_sets(self, renderings: Iterable[bytes], *, may_remove: bool) -> tuple[int, Sums]:
        text = await self._inside(lambda: self._tools.ipset_save_of(SET_NAMES))
        _, found = parse_sets(text)
        wanted: Records = {
            record._replace(kind=Kind.MEMBER): value
            for rendering in renderings
            for record, value in layout.records(rendering)
            if record.kind in (Kind.MEMBER, Kind.SHARED)
        }
        have = {record._replace(kind=Kind.MEMBER): value for record, value in found.items()}
        lines = [
            f"add {record.key.decode()} {value.decode()}".rstrip()
            for record, value in wanted.items()
            if have.get(record) != value
        ]
        extra = have.keys() - wanted.keys()
        if may_remove:
            lines += [f"del {record.key.decode()}" for record in extra]
        await self._ipset(lines)
        sums = Sums()
        for record, value in {**({} if may_remove else have), **wanted}.items():
            sums.add(record.key, value)
        return len(lines), sums

    async def _write_rules(self, family: Family, wanted: Chains, jumps: Iterable[Jump]) -> int:
        saved = parse_rules(await self._tools.save(family), IPVS_PREFIX)
        chains: dict[tuple[str, str], Rules | None] = {
            name: rules for name, rules in wanted.items() if saved.chains.get(name) != rules
        }
        missing = sorted(set(jumps) - saved.jumps)
        text = restore_text(chains, jumps=missing)
        if text:
            await self._tools.restore(family, text)
        return len(chains) + len(missing)

    async def _destroy(self, name: str) -> None:
        for attempt in range(_DESTROY_ATTEMPTS):
            try:
                await self._ipset([f"destroy {name}"])
            except CommandError:
                if attempt == _DESTROY_ATTEMPTS - 1:
                    raise
            else:
                return

    async def _ipset(self, lines: Sequence[str]) -> None:
        if lines:
            await self._tools.ipset("\n".join(lines) + "\n")
