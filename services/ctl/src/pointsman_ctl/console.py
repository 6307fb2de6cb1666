# SPDX-License-Identifier: Apache-2.0
"""The terminal: data to stdout, prose and progress to stderr, colours only where a person looks and wants them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, Final

import click
import msgspec
import yaml

_CLEAR: Final = "\x1b[H\x1b[2J\x1b[3J"


def has_colours() -> bool:
    """Whether stdout is a terminal and NO_COLOR is not set, see https://no-color.org."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def say(lines: Iterable[str]) -> None:
    """Data."""
    for line in lines:
        click.echo(line, color=True)


def note(text: str) -> None:
    """Prose, for whoever looks."""
    click.echo(text, err=True)


def progress(text: str) -> None:
    """How it goes: on a terminal only, and wiped by the next; empty wipes."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", err=True, nl=False)


def redraw(lines: Iterable[str]) -> None:
    """A page that takes the place of the last one."""
    click.echo(_CLEAR + "\n".join(lines), color=True)


def json_text(data: Any) -> str:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()


def yaml_text(data: Any) -> str:
    """A YAML document."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120).rstrip("\n")
