# SPDX-License-Identifier: Apache-2.0
"""The lossless report: what was measured, the table people read, and the figures for the benchmark's report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pointsman_lab.bench.availability import Broken, Outcome, Window
from pointsman_lab.bench.report import Figure

NOTHING_BROKEN: Final = Broken(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A scenario and what came of it; `outcome` is None when it broke off, and `note` then says why."""

    name: str
    outcome: Outcome | None
    windows: tuple[Window, ...] = ()
    broken: Broken = NOTHING_BROKEN
    held_questions: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def window_seconds(self) -> float:
        """How long success was impossible, in all."""
        return sum(window.end - window.start for window in self.windows)


def figures_of(results: Sequence[Measured], *, services: int) -> list[Figure]:
    """The report's figures; a scenario that broke off has none."""
    found = []
    for measured in results:
        if measured.outcome is None:
            continue
        outcome = measured.outcome
        values: tuple[tuple[str, float, str, float | None], ...] = (
            ("connections opened", outcome.opened, "connections", None),
            ("failed", outcome.failed, "connections", None),
            ("failed outside the unavoidable window", outcome.outside, "connections", 0.0),
            ("held connections and flows broken outside the unavoidable window", measured.broken.outside, "flows", 0.0),
            ("unavoidable window", round(measured.window_seconds * 1e3, 1), "ms", None),
            ("worst latency", round(outcome.worst_seconds * 1e3, 1), "ms", None),
        )
        found += [
            Figure(name=f"{measured.name}: {what}", size=services, value=value, unit=unit, target=target)
            for what, value, unit, target in values
        ]
    return found


def markdown(results: Sequence[Measured], *, allowance_seconds: float) -> str:
    """The table for people."""
    lines = [
        "# Lossless updates",
        "",
        "Real TCP connections, one after the other from several workers: opened, one question, one answer, closed. The",
        "unavoidable window is the time in which no endpoint was usable by the API server's own events, or in which a",
        "third party had removed the table and the kernel did not have the Service again. A failure counts as outside",
        "when no instant of it lies in a window; windows are lengthened by",
        f"{allowance_seconds * 1e3:g} ms for the change",
        "on its way into the kernel. `late` is how long after its window the last failure began. `reset` are held TCP",
        "connections that ended and held UDP flows that moved to another pod, of 32 that are used all the time.",
        "",
        "| scenario | opened | failed | failed outside | reset | reset outside | worst ms | window ms | late ms | |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    lines += [_row(measured) for measured in results]
    return "\n".join(lines) + "\n"


def _row(measured: Measured) -> str:
    outcome = measured.outcome
    if outcome is None:
        return f"| {measured.name} | | | | | | | | | broke off: {measured.note} |"
    cells = (
        f"{outcome.opened:,}",
        f"{outcome.failed:,}",
        f"{outcome.outside:,}",
        f"{measured.broken.total:,}",
        f"{measured.broken.outside:,}",
        f"{outcome.worst_seconds * 1e3:,.1f}",
        f"{measured.window_seconds * 1e3:,.1f}",
        f"{outcome.late_seconds * 1e3:,.1f}",
        "; ".join(filter(None, (measured.note, _failures(outcome)))),
    )
    return f"| {measured.name} | {' | '.join(cells)} |"


def _failures(outcome: Outcome) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(outcome.failures.items()))


def write(directory: Path, results: Sequence[Measured], *, allowance_seconds: float) -> None:
    """Write lossless.json (a list of scenarios) and lossless.md."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "lossless.json").write_text(json.dumps([asdict(measured) for measured in results], indent=1) + "\n")
    (directory / "lossless.md").write_text(markdown(results, allowance_seconds=allowance_seconds))
