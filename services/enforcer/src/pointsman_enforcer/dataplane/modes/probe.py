# SPDX-License-Identifier: Apache-2.0
"""`pointsman-enforcer probe`: which modes this host can run, why not the others, and what each is capable of.

Needs no configuration and changes nothing: see `trial`. Mode `auto` asks the same questions of its candidates.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from pointsman_chassis.errors import PointsmanError
from pointsman_enforcer.dataplane import exec  # noqa: A004 - the door is named after what passes it
from pointsman_enforcer.dataplane.modes.factory import make_dataplane
from pointsman_enforcer.dataplane.modes.trial import Outcome, Trial, try_mode
from pointsman_enforcer.mode_settings import IptablesSettings, UserspaceSettings
from pointsman_enforcer.settings import EnforcerConfiguration

_TOOLS: Final = ("nft", "iptables", "iptables-legacy", "iptables-nft", "ipset", "ipvsadm")
_REASON_SHOWN_MAX: Final = 240
"""Characters; JSON has all of them."""
_DEFAULTS: Final = EnforcerConfiguration()
_COLUMNS: Final = ("MODE", "SETTINGS", "OUTCOME", "FAMILIES", "CAPABILITIES")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to run. `settings` is what to write beside the mode, for people."""

    config: EnforcerConfiguration
    settings: str = ""
    needs_rules: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """What a host can run."""

    kernel: str
    tools: tuple[tuple[str, str], ...]
    """Name, and what the tool (or the kernel's IPVS) says it is; empty when it is not there."""
    trials: tuple[tuple[Candidate, Trial], ...]

    @property
    def is_usable(self) -> bool:
        """Whether some mode works, other than without rules."""
        return any(each.needs_rules and trial.outcome is Outcome.WORKS for each, trial in self.trials)

    @property
    def works(self) -> bool:
        """Whether anything that was tried works."""
        return any(trial.outcome is Outcome.WORKS for _, trial in self.trials)

    @property
    def is_undecided(self) -> bool:
        """Whether something could not be tried."""
        return any(trial.outcome is Outcome.NOT_TRIED for _, trial in self.trials)

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kernel": self.kernel,
            "tools": dict(self.tools),
            "modes": [
                {
                    "mode": each.config.mode,
                    "settings": each.settings,
                    "outcome": trial.outcome.value,
                    "reason": trial.reason,
                    "families": list(trial.families),
                    "capabilities": list(trial.capabilities),
                }
                for each, trial in self.trials
            ],
        }


def candidates() -> tuple[Candidate, ...]:
    """Every mode, in the order in which `auto` prefers them, with what changes how it works."""
    legacy, nft = (IptablesSettings(variant=variant) for variant in ("legacy", "nft"))
    found = [Candidate(config=_DEFAULTS)]
    for variant in (legacy, nft):
        config = structs.replace(_DEFAULTS, mode="iptables", iptables=variant)
        found.append(Candidate(config=config, settings=f"iptables.variant: {variant.variant}"))
    for variant in (legacy, nft):
        config = structs.replace(_DEFAULTS, mode="ipvs", iptables=variant)
        found.append(Candidate(config=config, settings=f"iptables.variant: {variant.variant}"))
    found.append(_userspace(UserspaceSettings(), "nftables"))
    for section in (legacy, nft):
        proxy = _userspace(UserspaceSettings(redirect="iptables"), f"iptables, variant: {section.variant}")
        found.append(replace(proxy, config=structs.replace(proxy.config, iptables=section)))
    found.append(replace(_userspace(UserspaceSettings(redirect="none"), "none"), needs_rules=False))
    return tuple(found)


def _userspace(section: UserspaceSettings, words: str) -> Candidate:
    config = structs.replace(_DEFAULTS, mode="userspace", userspace=section)
    return Candidate(config=config, settings=f"userspace.redirect: {words}")


def probe(wanted: Sequence[Candidate]) -> ProbeReport:
    """Try each candidate, some at a time."""
    with ThreadPoolExecutor(max_workers=2) as threads:
        trials = list(threads.map(lambda each: try_mode(each.config), wanted))
    return ProbeReport(
        kernel=os.uname().release,
        tools=(*((name, tool_version(name)) for name in _TOOLS), ("ip_vs", _ipvs_version())),
        trials=tuple(zip(wanted, trials, strict=True)),
    )


def why_not(config: EnforcerConfiguration) -> str:
    """Why this host cannot run a configuration; empty when it can, or when what can be seen without a trial says so."""
    trial = try_mode(config)
    if trial.outcome is not Outcome.NOT_TRIED:
        return "" if trial.outcome is Outcome.WORKS else trial.reason
    try:
        make_dataplane(config).close()
    except PointsmanError as error:
        return str(error)
    return ""


def tool_version(name: str) -> str:
    """What a tool says it is; empty when it is not installed."""
    path = exec.find(name)
    if path is None:
        return ""
    try:
        return exec.run([path, "--version"]).strip().partition("\n")[0] or name
    except exec.CommandError as error:
        return f"does not run: {str(error).partition(chr(10))[0]}"


def _ipvs_version() -> str:
    """What the kernel says, once it is loaded; empty before."""
    try:
        return Path("/proc/thread-self/net/ip_vs").read_text().partition("\n")[0]
    except OSError:
        return ""


def as_text(report: ProbeReport) -> Iterator[str]:
    """The report for people, line by line."""
    yield f"kernel           {report.kernel}"
    for name, version in report.tools:
        yield f"{name:<16} {version or ('not loaded' if name == 'ip_vs' else 'not installed')}"
    yield ""
    rows = [_COLUMNS]
    for each, trial in report.trials:
        able = (", ".join(trial.families), ", ".join(trial.capabilities))
        rows.append((each.config.mode, each.settings, trial.outcome.value, *able))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    reasons = ["", *(trial.reason for _, trial in report.trials)]
    for row, reason in zip(rows, reasons, strict=True):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if reason:
            line = "; ".join(reason.splitlines())
            yield f"    {line if len(line) <= _REASON_SHOWN_MAX else line[:_REASON_SHOWN_MAX] + ' ...'}"


def as_json(report: ProbeReport) -> str:
    """The report for programs."""
    return json.dumps(report.as_data(), indent=2)
