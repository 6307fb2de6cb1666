# SPDX-License-Identifier: Apache-2.0
"""Figures, their targets, and the two files a bench run writes. Pure but for `write`."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value; met when value <= target. `percentile` is 50, 90, 99, or null for a single measurement."""

    name: str
    size: int
    """Number of services; where they differ only by number, of ten endpoints each."""
    value: float
    unit: str
    percentile: int | None = None
    target: float | None = None

    @property
    def verdict(self) -> str:
        """met, missed, or nothing when there is no target."""
        if self.target is None:
            return ""
        return "met" if self.value <= self.target else "missed"


def percentiles(
    name: str, size: int, unit: str, values: Sequence[float], targets: dict[int, float] | None = None
) -> list[Figure]:
    """p50, p90 and p99 of a non-empty sample, by the nearest-rank method."""
    ordered = sorted(values)
    return [
        Figure(
            name=name,
            size=size,
            percentile=percent,
            value=round(ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)], 4),
            unit=unit,
            target=(targets or {}).get(percent),
        )
        for percent in PERCENTILES
    ]


def markdown(figures: Sequence[Figure], *, changes: int) -> str:
    """The report for people."""
    lines = [
        "# Benchmark",
        "",
        "Whole pipeline on one machine: lab API server, watcher, planner and one enforcer, each a process.",
        f"Linux {platform.release()}, Python {platform.python_version()}. {changes} changes a figure, one at a time.",
        "Kernel commits are timed by an independent listener in the node's namespace.",
        "",
        "| figure | services | percentile | value | unit | target | |",
        "|---|---:|---:|---:|---|---:|---|",
    ]
    for figure in figures:
        percentile = f"p{figure.percentile}" if figure.percentile else ""
        target = "" if figure.target is None else f"{figure.target:g}"
        value = f"{figure.value:,.4g} | {figure.unit} | {target} | {figure.verdict}"
        lines.append(f"| {figure.name} | {figure.size:,} | {percentile} | {value} |")
    return "\n".join(lines) + "\n"


def write(directory: Path, figures: Sequence[Figure], *, changes: int) -> None:
    """Write report.json (a list of figures) and report.md."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    (directory / "report.md").write_text(markdown(figures, changes=changes))
