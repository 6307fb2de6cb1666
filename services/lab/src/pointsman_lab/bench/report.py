# SPDX-License-Identifier: Apache-2.0
"""Figures, their targets and ratios, and the files a bench run writes. Pure but for `write`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pointsman_lab.bench.growth import growths
from pointsman_lab.bench.machine import facts
from pointsman_lab.bench.plots import draw

PERCENTILES = (50, 90, 99)
OURS = "pointsman"


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
    who: str = OURS
    """Whose: ours, or the peer's that was measured in the same run, under the same names."""
    axis: str = "services"
    """What `size` is the number of."""
    may_grow: float | None = None
    """The exponent with which it may grow with the size: 0 for what one change costs, 1 for what is about everything;
    null when nothing is said."""

    @property
    def verdict(self) -> str:
        """met, missed, or nothing when there is no target."""
        if self.target is None:
            return ""
        return "met" if self.value <= self.target else "missed"


def percentiles(
    name: str,
    size: int,
    unit: str,
    values: Sequence[float],
    targets: dict[int, float] | None = None,
    *,
    may_grow: float | None = None,
    who: str = OURS,
    axis: str = "services",
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
            may_grow=may_grow,
            who=who,
            axis=axis,
        )
        for percent in PERCENTILES
    ]


def ratios(figures: Sequence[Figure]) -> list[tuple[Figure, Figure, float]]:
    """Every figure of ours beside the peer's of the same name, size and percentile; the peer's value over ours."""
    ours = {_identity(figure): figure for figure in figures if figure.who == OURS}
    pairs = [(ours[_identity(each)], each) for each in figures if each.who != OURS and _identity(each) in ours]
    return [(own, peer, peer.value / own.value) for own, peer in pairs if own.value > 0]


def _identity(figure: Figure) -> tuple[str, str, int, int | None]:
    return figure.name, figure.axis, figure.size, figure.percentile


def markdown(figures: Sequence[Figure], *, changes: int, machine: Mapping[str, str], plots: Sequence[str] = ()) -> str:
    """The report for people: ratios, then growth, then every figure, then the machine."""
    return "\n".join(
        [
            "# Benchmark",
            "",
            "Whole pipeline on one machine: lab API server, watcher, planner and one enforcer, each a process.",
            f"{changes} changes a figure, one at a time.",
            "Kernel commits are timed by an independent listener in the node's namespace.",
            "",
            *_ratio_lines(figures),
            *_growth_lines(figures),
            *_figure_lines(figures),
            *(f"![{plot}]({plot})" for plot in plots),
            "",
            "## Machine",
            "",
            *(f"- {name}: {value}" for name, value in machine.items()),
            "",
        ]
    )


def _ratio_lines(figures: Sequence[Figure]) -> list[str]:
    lines = ["## Ratios to the peer", ""]
    found = ratios(figures)
    if not found:
        return [*lines, "No peer was run; give one with `PEER_KUBE_PROXY=/path/to/kube-proxy`.", ""]
    lines += ["| figure | size | percentile | ours | peer | peer / ours |", "|---|---:|---:|---:|---:|---:|"]
    for own, peer, ratio in found:
        sizes = f"{own.size:,} {own.axis} | {_percentile(own)}"
        values = f"{own.value:,.4g} {own.unit} | {peer.value:,.4g} {peer.unit} | **{ratio:,.3g}x**"
        lines.append(f"| {own.name} | {sizes} | {values} |")
    return [*lines, ""]


def _growth_lines(figures: Sequence[Figure]) -> list[str]:
    found = growths(figures)
    if not found:
        return []
    lines = ["## Growth", "", "value ~ size ^ exponent. What grows faster than it may is a defect.", ""]
    lines += ["| figure | whose | by | sizes | exponent | may be | |", "|---|---|---|---|---:|---:|---|"]
    for each in found:
        sizes = ", ".join(f"{size:,}" for size, _ in each.points)
        verdict = "**DEFECT**" if each.is_defect else "ok"
        exponents = f"{each.exponent:.2f} | {each.allowed:g}"
        lines.append(f"| {each.name} | {each.who} | {each.axis} | {sizes} | {exponents} | {verdict} |")
    return [*lines, ""]


def _figure_lines(figures: Sequence[Figure]) -> list[str]:
    lines = ["## Figures", "", "| figure | whose | size | percentile | value | unit | target | |"]
    lines.append("|---|---|---:|---:|---:|---|---:|---|")
    for figure in figures:
        target = "" if figure.target is None else f"{figure.target:g}"
        value = f"{figure.value:,.4g} | {figure.unit} | {target} | {figure.verdict}"
        size = f"{figure.size:,} {figure.axis} | {_percentile(figure)}"
        lines.append(f"| {figure.name} | {figure.who} | {size} | {value} |")
    return [*lines, ""]


def _percentile(figure: Figure) -> str:
    return f"p{figure.percentile}" if figure.percentile else ""


def write(directory: Path, figures: Sequence[Figure], *, changes: int) -> str:
    """Write report.json (machine, figures, growth), report.md and the plots, SVG and PNG; the text of report.md."""
    directory.mkdir(parents=True, exist_ok=True)
    machine = facts()
    grown = [{**asdict(each), "is_defect": each.is_defect} for each in growths(figures)]
    document = {"machine": machine, "figures": [asdict(figure) for figure in figures], "growth": grown}
    (directory / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    plots = [path.name for path in draw(directory, figures)]
    text = markdown(figures, changes=changes, machine=machine, plots=plots)
    (directory / "report.md").write_text(text)
    return text
