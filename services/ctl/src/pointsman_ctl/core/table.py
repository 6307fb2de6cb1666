# SPDX-License-Identifier: Apache-2.0
"""Rows in columns, as kubectl prints them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import click

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[R]):
    """A column of rows of type R."""

    head: str
    cell: Callable[[R], object]
    is_wide: bool = False
    """Shown with `-o wide` only."""
    colour: Callable[[R], str] | None = None
    """Name of the colour of a cell, or empty."""


def render_table(
    rows: Iterable[R], columns: Sequence[Column[R]], *, is_wide: bool = False, heads: bool = True, colours: bool = False
) -> list[str]:
    """The lines. Every cell but the last of a line is padded; control characters in cells are shown as `?`."""
    shown = [column for column in columns if is_wide or not column.is_wide]
    kept = list(rows)
    cells = [[_text(column.cell(row)) for column in shown] for row in kept]
    lines = ([[column.head for column in shown]] if heads else []) + cells
    widths = [max((len(line[index]) for line in lines), default=0) for index in range(len(shown))]
    paints: list[list[str]] = [[column.colour(row) if column.colour else "" for column in shown] for row in kept]
    if heads:
        paints.insert(0, [""] * len(shown))
    return [
        _line(line, widths, paint if colours else [""] * len(shown)) for line, paint in zip(lines, paints, strict=True)
    ]


def _line(cells: Sequence[str], widths: Sequence[int], paint: Sequence[str]) -> str:
    last = len(cells) - 1
    padded = (
        _painted(cell, colour) + ("" if index == last else " " * (width - len(cell) + 3))
        for index, (cell, width, colour) in enumerate(zip(cells, widths, paint, strict=True))
    )
    return "".join(padded).rstrip()


def _painted(cell: str, colour: str) -> str:
    return click.style(cell, fg=colour) if colour and cell else cell


def _text(value: Any) -> str:
    text = "-" if value is None or value == "" else str(value)
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)
