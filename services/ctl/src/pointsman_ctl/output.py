# SPDX-License-Identifier: Apache-2.0
"""`-o`: the same rows as a table, as data, or as names.

A view is what a command has to show: the data of every row, the columns of the table, and what a row is called. JSON
and YAML of a list are an object with `items`, as Kubernetes has it, so that more can be added beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from pointsman_ctl import console
from pointsman_ctl.core.table import Column, render_table

R = TypeVar("R")
FORMATS: Final = ("table", "wide", "json", "yaml", "name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a command shows what it has."""

    name: str = "table"
    heads: bool = True

    @property
    def is_data(self) -> bool:
        """JSON or YAML."""
        return self.name in ("json", "yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class View(Generic[R]):
    """Rows in every form."""

    rows: Sequence[R]
    columns: Sequence[Column[R]]
    name: Callable[[R], str]
    """`kind/name`, for `-o name`."""
    data: Callable[[R], Any]
    """The row for JSON and YAML."""
    about: dict[str, Any] = field(default_factory=dict)
    """What JSON and YAML have beside the items."""
    none: str = ""
    """What to tell a person when there are no rows."""


def lines(view: View[R], chosen: Format) -> list[str]:
    """The view in the chosen form."""
    if chosen.is_data:
        return [data_text({**view.about, "items": [view.data(row) for row in view.rows]}, chosen)]
    if chosen.name == "name":
        return [view.name(row) for row in view.rows]
    return render_table(
        view.rows, view.columns, is_wide=chosen.name == "wide", heads=chosen.heads, colours=console.has_colours()
    )


def show(view: View[R], chosen: Format) -> None:
    """Prints it."""
    if not view.rows and not chosen.is_data:
        console.note(view.none or "nothing found")
        return
    console.say(lines(view, chosen))


def data_text(data: Any, chosen: Format) -> str:
    """Plain data as JSON or YAML."""
    return console.yaml_text(data) if chosen.name == "yaml" else console.json_text(data)


def show_prose(data: Any, text: Sequence[str], chosen: Format) -> None:
    """Prints one answer: as data when asked for, else as text."""
    console.say([data_text(data, chosen)] if chosen.is_data else text)
