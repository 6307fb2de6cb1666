# SPDX-License-Identifier: Apache-2.0
"""The page of every configuration field, made of the settings classes and their docs.

`PYTHONPATH=tests python -m support.configuration_reference` writes the page.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Union

import msgspec
import yaml

from pointsman_chassis.duration import Duration
from pointsman_chassis.settings import Settings, settings_as_data
from pointsman_enforcer.settings import KIND as ENFORCER_KIND
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_planner.access.settings import RULES_KIND, RulesFile
from pointsman_planner.settings import KIND as PLANNER_KIND
from pointsman_planner.settings import PlannerSettings
from pointsman_watcher.settings import KIND as WATCHER_KIND
from pointsman_watcher.settings import WatcherSettings

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"
KINDS: Final[Mapping[str, type[Settings]]] = {
    WATCHER_KIND: WatcherSettings,
    PLANNER_KIND: PlannerSettings,
    RULES_KIND: RulesFile,
    ENFORCER_KIND: EnforcerConfiguration,
}
_WORDS: Final[Mapping[type, str]] = {
    str: "text",
    bool: "boolean",
    int: "integer",
    float: "number",
    Duration: "duration",
    type(None): "null",
}
_SUBJECTS: Final[Mapping[str, str]] = {
    WATCHER_KIND: "What `pointsman-watcher --config` takes.",
    PLANNER_KIND: "What `pointsman-planner --config` takes.",
    RULES_KIND: "The file that `access.rulesFile` of a PlannerConfiguration names.",
    ENFORCER_KIND: "What `pointsman-enforcer --config` takes. Words of kube-proxy mean what they mean there.",
}
_INTRODUCTION: Final = """\
# Configuration

Every field of every configuration file, as its source describes it. Written by `make docs`; do not edit.

A configuration is YAML, and begins with its version and kind:

    apiVersion: config.pointsman.io/v1alpha1
    kind: EnforcerConfiguration

A field that is left out has its default. Unknown fields, fields given twice and values that cannot work are refused at
the start, all of them at once, each with its path. `--config` takes a file, or a directory whose `*.yaml` are laid over
one another in the order of their names: mappings are merged, everything else is replaced. `--write-config-to FILE`
writes the effective configuration; `/configz` of a running process shows it.

Paths name a field of a section after a dot, and a field of each entry of a list after `[].`. A duration is text with a
unit, such as `250ms`, `5s` or `1h30m`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A field, as the file has it."""

    path: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The fields of one mapping; the path is empty for the file itself."""

    path: str
    meaning: str
    entries: tuple[Entry, ...]


def sections(settings_type: type[Settings]) -> Iterator[Section]:
    """The file's own fields, then those of each section in it, depth first, in the order of the source."""
    yield from _sections(settings_type, "", settings_as_data(settings_type()))


def _sections(settings_type: type[Settings], path: str, defaults: Mapping[str, Any]) -> Iterator[Section]:
    docs = field_docs(settings_type)
    entries: list[Entry] = []
    inner: list[Section] = []
    for field in msgspec.structs.fields(settings_type):
        own = f"{path}.{field.encode_name}" if path else field.encode_name
        nested, is_list = _nested(field.type)
        default = defaults[field.encode_name]
        meaning = docs.get(field.name) or (_flowed(nested.__doc__ or "") if nested else "")
        is_section = nested is not None and not is_list
        shown = "" if is_section else _code(default)
        entries.append(Entry(path=own, type=_words(field.type), default=shown, meaning=meaning))
        if nested is not None:
            inside = _item_defaults(nested) if is_list else default
            inner += _sections(nested, f"{own}[]" if is_list else own, inside)
    yield Section(path=path, meaning=_flowed(settings_type.__doc__ or ""), entries=tuple(entries))
    yield from inner


@cache
def field_docs(settings_type: type[Settings]) -> Mapping[str, str]:
    """By the field's name in Python, the string below it, on one line; a class's own before those it inherits."""
    docs: dict[str, str] = {}
    for each in reversed(settings_type.__mro__):
        if not issubclass(each, Settings) or each is Settings:
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(definition, ast.ClassDef)
        for statement, following in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                docs.pop(statement.target.id, None)
                match following:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        docs[statement.target.id] = _flowed(text)
    return docs


def _item_defaults(settings_type: type[Settings]) -> Mapping[str, Any]:
    """Of an entry of a list, which need not be valid without any value."""
    fields = msgspec.structs.fields(settings_type)
    return {field.encode_name: msgspec.to_builtins(field.default) for field in fields if not field.required}


def _nested(annotation: Any) -> tuple[type[Settings] | None, bool]:
    """The settings class that a field holds, and whether it holds a list of them."""
    arguments = typing.get_args(annotation)
    inner = arguments[0] if typing.get_origin(annotation) is tuple else annotation
    is_settings = isinstance(inner, type) and issubclass(inner, Settings)
    return (inner if is_settings else None), inner is not annotation


def _words(annotation: Any) -> str:
    """A type in a reader's words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in {Union, types.UnionType}:
        return " or ".join(_words(each) for each in arguments)
    if origin is tuple and arguments[1:] == (...,):
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return f"mapping of {_words(arguments[0])} to {_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return "section"
    return _WORDS[annotation]


def _code(value: Any) -> str:
    """A value as YAML writes it."""
    is_plain = isinstance(value, str) and yaml.safe_load(value) == value
    return f"`{value if is_plain else json.dumps(value)}`"


def _flowed(text: str) -> str:
    return " ".join(text.split())


def _table(section: Section) -> Iterator[str]:
    yield from ("| field | type | default | meaning |", "|---|---|---|---|")
    for each in section.entries:
        cells = (f"`{each.path}`", each.type, each.default, each.meaning.replace("<", "&lt;"))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def page() -> str:
    """The reference, as Markdown."""
    lines = [_INTRODUCTION]
    for kind, settings_type in KINDS.items():
        lines += [f"## {kind}", "", _SUBJECTS[kind], ""]
        for section in sections(settings_type):
            if section.path:
                lines += [f"### {kind}: {section.path}", "", section.meaning, ""]
            lines += _table(section)
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
