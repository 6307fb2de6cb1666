# SPDX-License-Identifier: Apache-2.0
"""Runs iptables-restore, iptables-save and ipset in one network namespace, one at a time.

Two programs are called iptables: the legacy one replaces whole tables, the other one writes nf_tables. Which of them a
host uses is for `detect`; using the other one would make rules that the host's own tools do not show.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

from pointsman_chassis.errors import UnsupportedError
from pointsman_enforcer.dataplane import exec  # noqa: A004 - the door is named after what passes it
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_model.names import Family

LOCK_SECONDS: Final = 5
"""How long a restore waits for the lock that all users of legacy iptables share."""
_TIMEOUT_SECONDS: Final = 120.0
_HINTS: Final = (":KUBE-IPTABLES-HINT", ":KUBE-KUBELET-CANARY")
"""Chains that a kubelet makes, with the variant that its host uses."""
_LINE: Final = re.compile(r"line:? (\d+)")
_PROMPT: Final = "ipset> "
"""What ipset prints before each command that it reads."""
_LEGACY_TABLES: Final = Path("/proc/thread-self/net/ip_tables_names")
Result = TypeVar("Result")


class Variant(Enum):
    """Which of the two programs called iptables."""

    LEGACY = "legacy"
    NFT = "nft"


class Tools:
    """The programs of one variant, run in the network namespace of the thread that makes this object."""

    def __init__(self, variant: Variant, families: Sequence[Family] = tuple(Family)) -> None:
        """Only rules of `families` can be read and written. UnsupportedError when a program is not installed."""
        self.variant = variant
        self.families = tuple(families)
        self._paths = {name: _path(name) for family in families for name in programs(variant, family)}
        self._paths.update({name: _path(name) for name in (*(_lister(variant, each) for each in families), "ipset")})
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xtables")
        self._looking = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xtables-look")
        for each in (self._thread, self._looking):
            each.submit(int).result()  # a thread belongs to the namespace of the thread that starts it
        self.runs = 0
        """Programs run so far."""
        self.process_ids: set[int] = set()
        """Of every restore so far that may still be heard of; who listens to commits takes them out."""

    def inside(self, function: Callable[[], Result]) -> Result:
        """Call something in the namespace, and wait for it."""
        return self._thread.submit(function).result()

    def sysctl(self, path: Path) -> str:
        """What a file below /proc/sys says in the namespace; empty when there is none."""
        return self.inside(lambda: _content(path))

    def set_sysctl(self, path: Path, value: str) -> None:
        """Have it say this. OSError when we may not."""
        if self.sysctl(path) != value:
            self.inside(lambda: path.write_text(f"{value}\n"))

    async def restore(self, family: Family, text: str) -> None:
        """One transaction over the tables that `text` names; chains it does not name stay. CommandError if refused."""
        await self._run(lambda: self.restore_blocking(family, text))

    def restore_blocking(self, family: Family, text: str) -> None:
        """As `restore`, on the thread of the tools; call it through `inside`."""
        program = programs(self.variant, family)[0]
        argv = [self._paths[program], "-w", str(LOCK_SECONDS), "--noflush", "--counters"]
        try:
            self._execute(argv, text)
        except CommandError as error:
            raise CommandError(f"{error}{_faulty_line(str(error), text)}") from error

    async def save(self, family: Family) -> str:
        """Every table of a family that exists, as text."""
        return await self._run(lambda: self.save_blocking(family))

    def save_blocking(self, family: Family) -> str:
        """As `save`, on a thread of the tools."""
        return self._execute([self._paths[programs(self.variant, family)[1]]], "")

    def list_chain(self, family: Family, table: str, chain: str) -> str:
        """The rules of one chain with their counters, `-c PACKETS BYTES`; on a thread of the tools."""
        program = self._paths[_lister(self.variant, family)]
        return self._execute([program, "-w", str(LOCK_SECONDS), "-t", table, "-v", "-S", chain], "")

    async def ipset(self, lines: str) -> None:
        """Run commands of `ipset restore`; what exists already, or not any more, is no error."""
        await self._run(lambda: self._execute([self._paths["ipset"], "restore", "-exist"], lines))

    async def ipset_save(self) -> str:
        """Every set with its elements, as text."""
        return await self._run(lambda: self._execute([self._paths["ipset"], "save"], ""))

    def ipset_names(self) -> list[str]:
        """Names of all sets; on a thread of the tools."""
        return self._execute([self._paths["ipset"], "list", "-name"], "").split()

    def ipset_save_of(self, names: Iterable[str]) -> str:
        """These sets with their elements, without those that are not there; on a thread of the tools."""
        commands = "".join(f"save {name}\n" for name in names)
        return self._execute([self._paths["ipset"], "-"], commands).replace(_PROMPT, "")

    def look(self, function: Callable[[], Result]) -> Future[Result]:
        """Call something in the namespace that only reads, on a thread of its own: no change waits for it."""
        return self._looking.submit(function)

    def close(self) -> None:
        """End the threads."""
        self._thread.shutdown()
        self._looking.shutdown()

    async def _run(self, function: Callable[[], Result]) -> Result:
        return await asyncio.wrap_future(self._thread.submit(function))

    def _execute(self, argv: list[str], text: str) -> str:
        self.runs += 1
        return exec.run(argv, stdin=text.encode(), timeout_seconds=_TIMEOUT_SECONDS, on_started=self.process_ids.add)


def detect() -> Variant:
    """The variant that this host uses: what a kubelet made, else where more rules are, else what `iptables` is.

    Raises:
        UnsupportedError: neither is installed.
    """
    usable = [variant for variant in Variant if exec.find(programs(variant, Family.IPV4)[0])]
    if len(usable) < len(Variant):
        if not usable:
            raise UnsupportedError("iptables mode needs iptables-legacy-restore or iptables-nft-restore, none is here")
        return usable[0]
    saved = {variant: _saved(variant) for variant in Variant}
    for variant, text in saved.items():
        if any(hint in text for hint in _HINTS):
            return variant
    rules = {variant: text.count("\n-A ") for variant, text in saved.items()}
    if rules[Variant.LEGACY] != rules[Variant.NFT]:
        return max(rules, key=rules.__getitem__)
    return Variant.LEGACY if "legacy" in exec.run([_path("iptables"), "--version"]) else Variant.NFT


def _saved(variant: Variant) -> str:
    """Rules of both families; asking legacy iptables makes its tables, so it is asked only where there are some."""
    if variant is Variant.LEGACY and not _legacy_tables():
        return ""
    found = []
    for family in Family:
        try:
            found.append(exec.run([_path(programs(variant, family)[1])]))
        except CommandError:
            continue
    return "\n".join(found)


def _content(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _legacy_tables() -> str:
    try:
        return _LEGACY_TABLES.read_text()
    except OSError:
        return ""


def programs(variant: Variant, family: Family) -> tuple[str, str]:
    """Names of restore and save, as installed."""
    prefix = "iptables" if family is Family.IPV4 else "ip6tables"
    return f"{prefix}-{variant.value}-restore", f"{prefix}-{variant.value}-save"


def _lister(variant: Variant, family: Family) -> str:
    return f"{'iptables' if family is Family.IPV4 else 'ip6tables'}-{variant.value}"


def _path(name: str) -> str:
    found = exec.find(name)
    if found is None:
        raise UnsupportedError(f"iptables mode needs the program {name}, which is not installed")
    return found


def _faulty_line(said: str, text: str) -> str:
    """The line that a restore complained of, as it says only its number."""
    match = _LINE.search(said)
    number = int(match[1]) if match else 0
    return f": {text.splitlines()[number - 1]}" if 0 < number <= text.count("\n") else ""
