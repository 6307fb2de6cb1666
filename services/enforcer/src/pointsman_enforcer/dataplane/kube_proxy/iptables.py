# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's iptables rules, of its iptables, ipvs and userspace modes: a `Leftover` for each variant of the tool."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from pointsman_chassis.errors import UnsupportedError
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.kube_proxy.rules import Rules, read_rules, removal_text
from pointsman_enforcer.dataplane.leftovers import LeftoverError
from pointsman_enforcer.dataplane.modes.own_leftovers import has_legacy_tables
from pointsman_enforcer.dataplane.nftables.errors import NftablesError
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket
from pointsman_enforcer.dataplane.xtables.tools import Tools, Variant
from pointsman_model.names import Family

_SHOWN_MAX: Final = 3


class KubeProxyIptables:
    """The rules of both families that one variant of the tool shows."""

    is_waiting = False
    """Never: connections are kept by the connection table, not by rules, so all of them can go at once."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._kept: frozenset[tuple[Family, str, str]] = frozenset()

    @property
    def name(self) -> str:
        """See `Leftover.name`."""
        return f"kube-proxy's iptables rules ({self._variant.value})"

    async def find(self) -> str:
        """See `Leftover.find`."""
        found = await self._each(remove=False)
        return "; ".join(_words(family, rules) for family, rules in found.items() if rules.count)

    async def remove(self) -> int:
        """See `Leftover.remove`: one run of iptables-restore for each family."""
        return sum(rules.count for rules in (await self._each(remove=True)).values())

    async def _each(self, *, remove: bool) -> dict[Family, Rules]:
        found: dict[Family, Rules] = {}
        for family in Family:
            tools = self._open(family)
            if tools is None:
                continue
            try:
                saved = await tools.save(family)
                found[family] = rules = await asyncio.to_thread(read_rules, saved)  # seconds for a large cluster
                if remove and rules.count:
                    await tools.restore(family, await asyncio.to_thread(removal_text, rules))
            except (CommandError, ValueError) as error:
                raise LeftoverError(f"{self.name}: {error}") from error
            finally:
                tools.close()
        self._tell_kept(found)
        return found

    def _open(self, family: Family) -> Tools | None:
        """The programs of a family; None where nothing can have been written with them."""
        is_there = has_legacy_tables(family) if self._variant is Variant.LEGACY else _has_nf_tables()
        if not is_there:
            return None
        try:
            return Tools(self._variant, (family,))
        except UnsupportedError:
            return None

    def _tell_kept(self, found: dict[Family, Rules]) -> None:
        """Say once what stays, though kube-proxy made it."""
        kept = frozenset((family, *chain) for family, rules in found.items() for chain in rules.kept)
        if kept - self._kept:
            structlog.get_logger("kube-proxy").info(
                "chains of kube-proxy stay: a kubelet or rules of others use them",
                chains=sorted({f"{table} {name}" for _, table, name in kept}),
            )
        self._kept = kept


def _words(family: Family, rules: Rules) -> str:
    names = sorted({name for _, name in rules.chains})
    shown = ", ".join([*names[:_SHOWN_MAX], *(["..."] if len(names) > _SHOWN_MAX else [])])
    return f"IPv{family.value}: {len(rules.chains)} chains ({shown}) and {len(rules.jumps)} rules that lead to them"


def _has_nf_tables() -> bool:
    """Whether the kernel has nf_tables, and we may ask: iptables-nft fails without."""
    try:
        with NftSocket() as nft:
            nft.generation()
    except (NftablesError, OSError):
        return False
    return True
