# SPDX-License-Identifier: Apache-2.0
"""Tells the kernel: sets and elements that come, one restore for each family, elements and sets that go."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence

from pointsman_enforcer.dataplane.base import KernelError
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.iptables.change import Operations
from pointsman_enforcer.dataplane.xtables.text import restore_text
from pointsman_enforcer.dataplane.xtables.tools import Tools
from pointsman_model.names import Family

_OPPOSITE = {"add": "del", "create": "destroy"}


def text_of(operations: Operations, family: Family) -> str:
    """The restore that writes one family's chains; empty for nothing."""
    return restore_text({("nat", name): rules for (of, name), rules in operations.chains.items() if of is family})


class Writer:
    """Runs the tools, and counts what they are given."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._bytes = 0
        self._condemned: set[str] = set()
        """Sets of clients to destroy; rules that were deleted a moment ago may still hold them."""

    @property
    def counters(self) -> tuple[int, int]:
        """Programs run and bytes given to them since the start."""
        return self._tools.runs, self._bytes

    async def execute(self, operations: Operations) -> None:
        """Do all of it but destroy sets; what came for rules that are then refused is taken back.

        Raises:
            KernelError: refused.
        """
        texts = {family: text_of(operations, family) for family in self._tools.families}
        try:
            await self.commit(sets_before=operations.sets_before, restores=texts, sets_after=operations.sets_after)
        except KernelError as error:
            if error.outcome_known:
                await self._take_back(operations.sets_before)
            raise

    async def commit(
        self,
        *,
        sets_before: Sequence[str] = (),
        restores: Mapping[Family, str] | None = None,
        sets_after: Sequence[str] = (),
    ) -> None:
        """Sets that come, restores, sets that go; KernelError when refused."""
        done: Family | None = None
        try:
            await self.ipset(sets_before)
            for family, text in (restores or {}).items():
                if text:
                    self._bytes += len(text)
                    await self._tools.restore(family, text)
                    done = family
            await self.ipset(sets_after)
        except CommandError as error:
            raise KernelError(str(error), outcome_known=done is None) from error

    async def ipset(self, lines: Sequence[str]) -> None:
        """Run commands of `ipset restore`; CommandError when one is refused."""
        if lines:
            text = "\n".join(lines) + "\n"
            self._bytes += len(text)
            await self._tools.ipset(text)

    async def destroy(self, names: Collection[str], wanted: Collection[str]) -> None:
        """Destroy sets, each by itself: one that is still held must not keep the others, and is tried again later."""
        self._condemned.update(names)
        self._condemned.difference_update(wanted)
        for name in sorted(self._condemned):
            with contextlib.suppress(CommandError):
                await self.ipset([f"destroy {name}"])
                self._condemned.discard(name)

    async def _take_back(self, lines: Sequence[str]) -> None:
        for line in reversed(lines):
            verb, name, element = [*line.split(" ", 2), ""][:3]
            with contextlib.suppress(CommandError):
                await self.ipset([f"{_OPPOSITE[verb]} {name} {element if verb == 'add' else ''}".rstrip()])
