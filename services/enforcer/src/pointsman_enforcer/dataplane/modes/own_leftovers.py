# SPDX-License-Identifier: Apache-2.0
"""What our own other modes left: one list for whatever mode runs, and the classes for rules.

Known by their names alone, as everything of ours is. What the running mode uses is never on the list: the tables of
nftables mode are userspace mode's as well, ipsets are those of both variants of iptables, and ipvs has its own names.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from pointsman_chassis.errors import UnsupportedError
from pointsman_enforcer.dataplane.base import KernelError, ProxyMode
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.leftovers import Leftover, LeftoverError
from pointsman_enforcer.dataplane.modes.variant import variant_of
from pointsman_enforcer.dataplane.nftables import cleanup as nft_cleanup
from pointsman_enforcer.dataplane.nftables.apply import TABLES
from pointsman_enforcer.dataplane.nftables.errors import NftablesError
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.xtables.text import (
    IPVS_PREFIX,
    IPVS_SET_PREFIX,
    PREFIX,
    Saved,
    parse_rules,
    restore_text,
)
from pointsman_enforcer.dataplane.xtables.tools import Tools, Variant
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.names import Family

_LEGACY_TABLES: Final = {Family.IPV4: "ip_tables_names", Family.IPV6: "ip6_tables_names"}
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""These say nothing of what is there."""
_DESTROY_ATTEMPTS: Final = 20
"""nf_tables lets go of the sets of deleted rules a moment after the rules are gone."""


class Rules(Enum):
    """Kinds of rules that a mode may have in the kernel."""

    NFTABLES = "nftables"
    LEGACY = "iptables-legacy"
    NFT = "iptables-nft"
    IPVS_LEGACY = "ipvs with iptables-legacy"
    IPVS_NFT = "ipvs with iptables-nft"


_CHAINS: Final = {Variant.LEGACY: Rules.LEGACY, Variant.NFT: Rules.NFT}
_IPVS: Final = {Variant.LEGACY: Rules.IPVS_LEGACY, Variant.NFT: Rules.IPVS_NFT}


def rules_of(config: EnforcerConfiguration) -> frozenset[Rules]:
    """What the configured mode has; the mode is not `auto` any more."""
    mode = ProxyMode(config.mode)
    if mode is ProxyMode.IPVS:
        return frozenset({_IPVS[variant_of(config.iptables.variant)]})
    redirect = config.userspace.redirect if mode is ProxyMode.USERSPACE else mode.value
    if redirect == "iptables":
        return frozenset({_CHAINS[variant_of(config.iptables.variant)]})
    return frozenset({Rules.NFTABLES}) if redirect == "nftables" else frozenset()


def own_leftovers(in_use: frozenset[Rules], *, at_once: bool = False) -> list[Leftover]:
    """Everything of ours that the mode with these rules does not use; with none in use, everything there can be.

    With `at_once` nothing waits for its last connection.
    """
    found: list[Leftover] = []
    if Rules.NFTABLES not in in_use:
        found.append(NftablesLeftover())
    found.extend(IptablesLeftover(variant) for variant in Variant if _CHAINS[variant] not in in_use)
    if not in_use & {*_CHAINS.values()}:
        found.append(SetsLeftover())
    if not in_use & {*_IPVS.values()}:
        found.extend(IpvsLeftover(variant, at_once=at_once) for variant in Variant)
    else:  # virtual servers and sets are those of both variants
        found.extend(IptablesLeftover(each, IPVS_PREFIX) for each in Variant if _IPVS[each] not in in_use)
    return found


class NftablesLeftover:
    """The tables of nftables mode, which are those of userspace mode with redirect nftables."""

    name = "tables of our nftables or userspace mode"
    is_waiting = False
    """Never: the connection table keeps connections, not rules."""

    async def find(self) -> str:
        """See `Leftover.find`."""
        try:
            with NftSocket() as nft:
                there = [table for table in TABLES.values() if nft.table_exists(table)]
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise LeftoverError(f"{self.name}: {error}") from error
            return ""  # no nf_tables in this kernel, or not ours to use, so no tables of ours
        except NftablesError as error:
            raise LeftoverError(f"{self.name}: {error}") from error
        return ", ".join(f"table {table.family.keyword} {table.name}" for table in there)

    async def remove(self) -> int:
        """See `Leftover.remove`."""
        try:
            with NftSocket() as nft:
                return len(nft_cleanup.cleanup(nft))
        except (NftablesError, OSError) as error:
            raise LeftoverError(f"{self.name}: {error}") from error


class IptablesLeftover:
    """The chains of iptables or ipvs mode in one variant of the tool, with the rules that lead to them."""

    is_waiting = False
    """Never: as with nftables."""

    def __init__(self, variant: Variant, prefix: str = PREFIX) -> None:
        self._variant, self._prefix = variant, prefix

    @property
    def name(self) -> str:
        """See `Leftover.name`."""
        mode = ProxyMode.IPVS if self._prefix == IPVS_PREFIX else ProxyMode.IPTABLES
        return f"chains of our {mode.value} mode ({self._variant.value})"

    async def find(self) -> str:
        """See `Leftover.find`."""
        found = await self._each(remove=False)
        words = [f"{len(saved.chains)} IPv{family.value} chains" for family, saved in found.items() if saved.chains]
        return ", ".join(words)

    async def remove(self) -> int:
        """See `Leftover.remove`: one transaction for each table, what leads there before what is led to."""
        return sum(len(saved.chains) + len(saved.jumps) for saved in (await self._each(remove=True)).values())

    async def _each(self, *, remove: bool) -> dict[Family, Saved]:
        found: dict[Family, Saved] = {}
        for family in Family:
            if self._variant is Variant.LEGACY and not has_legacy_tables(family):
                continue
            tools = _open(self._variant, family)
            if tools is None:
                continue
            try:
                found[family] = saved = parse_rules(await tools.save(family), self._prefix)
                text = restore_text(dict.fromkeys(saved.chains), unjumps=sorted(saved.jumps))
                if remove and text:
                    await tools.restore(family, text)
            except CommandError as error:
                raise LeftoverError(f"{self.name}: {error}") from error
            finally:
                tools.close()
        return found


class SetsLeftover:
    """The ipsets of iptables mode: removed after the chains of both variants, which hold them."""

    name = "ipsets of our iptables mode"
    is_waiting = False
    """Never: as with nftables."""

    async def find(self) -> str:
        """See `Leftover.find`."""
        names = await self._names()
        return f"{len(names)} sets" if names else ""

    async def remove(self) -> int:
        """See `Leftover.remove`."""
        tools = _open(Variant.LEGACY) or _open(Variant.NFT)
        if tools is None:
            return 0
        names = await self._names()
        try:
            for name in names:
                await self._destroy(tools, name)
        finally:
            tools.close()
        return len(names)

    async def _names(self) -> Sequence[str]:
        from pointsman_enforcer.dataplane.iptables.observe import parse_sets  # noqa: PLC0415 - only where there are some

        tools = _open(Variant.LEGACY) or _open(Variant.NFT)
        if tools is None:
            return ()
        try:
            return sorted(parse_sets(await tools.ipset_save())[0])
        except CommandError as error:
            raise LeftoverError(f"{self.name}: {error}") from error
        finally:
            tools.close()

    async def _destroy(self, tools: Tools, name: str) -> None:
        for attempt in range(_DESTROY_ATTEMPTS):
            try:
                await tools.ipset(f"destroy {name}\n")
            except CommandError as error:
                if attempt == _DESTROY_ATTEMPTS - 1:
                    raise LeftoverError(f"{self.name}: {error}") from error
            else:
                return


class IpvsLeftover:
    """The virtual servers, sets, chains and routes of ipvs mode, with chains in one variant of the tool.

    IPVS itself translates each packet of its connections, so what has some waits for the last of them; it takes no new
    ones from the first `remove` on.
    """

    def __init__(self, variant: Variant, *, at_once: bool) -> None:
        self._variant, self._at_once = variant, at_once
        self.is_waiting = False

    @property
    def name(self) -> str:
        """See `Leftover.name`."""
        return f"virtual servers of our ipvs mode ({self._variant.value})"

    async def find(self) -> str:
        """See `Leftover.find`. Sets go last, so what is left of a removal that was cut short is known by them."""
        chains = await self._chains(self._variant)
        if chains:
            return f"{chains} chains, with their sets and virtual servers"
        sets = await self._sets()
        if not sets or any([await self._chains(each) for each in Variant if each is not self._variant]):
            return ""
        return f"{sets} sets without chains, with their virtual servers"

    async def remove(self) -> int:
        """See `Leftover.remove`."""
        from pointsman_enforcer.dataplane.ipvs.backend import IpvsDataplane  # noqa: PLC0415 - only where there is some
        from pointsman_enforcer.dataplane.ipvs.genetlink.channel import IpvsError  # noqa: PLC0415 - as above

        try:
            ipvs = IpvsDataplane(node_settings=NodeSettings(), variant=self._variant)
        except (IpvsError, UnsupportedError, OSError) as error:
            raise LeftoverError(f"{self.name}: {error}") from error
        try:
            left = 0 if self._at_once else await ipvs.retire()
            self.is_waiting = left > 0
            if not left:
                await ipvs.cleanup()
        except KernelError as error:
            raise LeftoverError(f"{self.name}: {error}") from error
        finally:
            ipvs.close()
        return 0 if self.is_waiting else 1

    async def _chains(self, variant: Variant) -> int:
        count = 0
        for family in Family:
            is_empty = variant is Variant.LEGACY and not has_legacy_tables(family)
            tools = None if is_empty else _open(variant, family)
            if tools is None:
                continue
            try:
                count += len(parse_rules(await tools.save(family), IPVS_PREFIX).chains)
            except CommandError as error:
                raise LeftoverError(f"{self.name}: {error}") from error
            finally:
                tools.close()
        return count

    async def _sets(self) -> int:
        tools = _open(self._variant)
        if tools is None:
            return 0
        try:
            saved = await tools.ipset_save()
        except CommandError as error:
            raise LeftoverError(f"{self.name}: {error}") from error
        finally:
            tools.close()
        return sum(line.startswith(f"create {IPVS_SET_PREFIX}") for line in saved.splitlines())


def has_legacy_tables(family: Family) -> bool:
    """Whether legacy iptables has tables here; asking its tool instead would make them. Raises LeftoverError."""
    try:
        return bool(Path(f"/proc/thread-self/net/{_LEGACY_TABLES[family]}").read_text())
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise LeftoverError(f"legacy iptables: {error}") from error
        return False


def _open(variant: Variant, family: Family = Family.IPV4) -> Tools | None:
    """The tools of one family; None where they are not installed, so nothing can have been written with them."""
    try:
        return Tools(variant, (family,))
    except UnsupportedError:
        return None
