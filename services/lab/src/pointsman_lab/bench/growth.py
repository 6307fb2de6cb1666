# SPDX-License-Identifier: Apache-2.0
"""How a figure grows with the size it was measured at, as an exponent, and whether that is a defect. Pure.

value ~ size ** exponent: 0 is a cost that does not depend on the size, 1 one in step with it. What a single change
costs must not grow at all; what is about everything (a start, memory) must not grow faster than everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pointsman_lab.bench.report import Figure

TOLERANCE: Final = 0.2
"""Of an exponent: figures of a machine are never exact. From 100 to 40,000, 0.2 is a factor of 3.3."""
SPAN_MIN: Final = 10
"""Largest size over smallest: over less, noise looks like growth."""
_MEDIAN: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A figure over sizes."""

    name: str
    who: str
    axis: str
    exponent: float
    allowed: float
    points: tuple[tuple[int, float], ...]
    """Size and value, ascending."""

    @property
    def is_defect(self) -> bool:
        """Whether it grows faster than it may."""
        return self.exponent > self.allowed + TOLERANCE


def exponent_of(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the line of least squares through the logarithms of (size, value).

    Raises:
        ValueError: fewer than two sizes, or a size or value that is not above 0.
    """
    if len({size for size, _ in points}) < 2:
        raise ValueError("growth needs figures at two sizes or more")
    if any(size <= 0 or value <= 0 for size, value in points):
        raise ValueError("growth needs sizes and values above 0")
    x = [math.log(size) for size, _ in points]
    y = [math.log(value) for _, value in points]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def growths(figures: Iterable[Figure]) -> list[Growth]:
    """Of every figure that says how it may grow and was measured over a tenfold range; of percentiles, the median."""
    found: dict[tuple[str, str, str, float], dict[int, float]] = {}
    for figure in figures:
        if figure.may_grow is not None and figure.percentile in {None, _MEDIAN} and figure.value > 0:
            key = (figure.name, figure.who, figure.axis, figure.may_grow)
            found.setdefault(key, {})[figure.size] = figure.value
    return [
        Growth(
            name=name,
            who=who,
            axis=axis,
            exponent=round(exponent_of(list(values.items())), 2),
            allowed=allowed,
            points=tuple(sorted(values.items())),
        )
        for (name, who, axis, allowed), values in found.items()
        if max(values) >= SPAN_MIN * min(values)
    ]
