# SPDX-License-Identifier: Apache-2.0
"""Figures against size, as pictures: one file of each format for each axis and unit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.figure import Figure as Picture

if TYPE_CHECKING:
    from pointsman_lab.bench.report import Figure

_FORMATS: Final = ("svg", "png")
_MEDIAN: Final = 50
_INCHES: Final = (9.0, 5.5)
_Lines = dict[tuple[str, str], dict[int, float]]


def draw(directory: Path, figures: Sequence[Figure]) -> list[Path]:
    """Draw what was measured at several sizes; the SVG files, by name. Both axes are logarithmic."""
    by_picture: dict[tuple[str, str], _Lines] = defaultdict(lambda: defaultdict(dict))
    for figure in figures:
        if figure.percentile in {None, _MEDIAN} and figure.value > 0:
            by_picture[figure.axis, figure.unit][figure.name, figure.who][figure.size] = figure.value
    drawn = []
    for (axis, unit), lines in sorted(by_picture.items()):
        several = {title: line for title, line in lines.items() if len(line) > 1}
        if several:
            drawn.append(_draw(directory, axis, unit, several))
    return drawn


def _draw(directory: Path, axis: str, unit: str, lines: _Lines) -> Path:
    picture = Picture(figsize=_INCHES, layout="constrained")
    axes = picture.add_subplot(xscale="log", yscale="log", xlabel=axis, ylabel=unit)
    for (name, who), values in sorted(lines.items()):
        sizes = sorted(values)
        style = "o-" if who == "pointsman" else "s--"
        axes.plot(sizes, [values[size] for size in sizes], style, label=f"{who}: {name}")
    axes.grid(visible=True, which="both", alpha=0.3)
    picture.legend(loc="outside lower center", fontsize="x-small")
    stem = "-".join(f"{unit} by {axis}".replace("/", " per ").split())
    for kind in _FORMATS:
        picture.savefig(directory / f"{stem}.{kind}", metadata={"Date": None} if kind == "svg" else None)
    return directory / f"{stem}.svg"
