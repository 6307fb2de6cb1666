# SPDX-License-Identifier: Apache-2.0
"""Files of the command line: YAML or JSON, `-` for standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from pointsman_chassis.settings import parse_yaml
from pointsman_ctl.errors import UsageError

_SIZE_MAX_BYTES: Final = 64 << 20


def read_documents(files: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Each document with where it stands; the `items` of a list one by one.

    Raises:
        UsageError: a file cannot be read.
        ConfigError: one is not YAML.
    """
    for file in files:
        for number, document in enumerate(parse_yaml(read_file(file), source=file), 1):
            items = document.get("items") if isinstance(document, dict) else None
            for index, item in enumerate(items if isinstance(items, list) else [document]):
                yield f"{file} (document {number}{f', item {index}' if items else ''})", item


def read_file(name: str) -> bytes:
    """A file's content, bounded.

    Raises:
        UsageError: it cannot be read, or is larger than anything this command takes.
    """
    try:
        if name == "-":
            content = sys.stdin.buffer.read(_SIZE_MAX_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(_SIZE_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror or error}") from error
    if len(content) > _SIZE_MAX_BYTES:
        raise UsageError(f"{name} is larger than {_SIZE_MAX_BYTES >> 20} MiB")
    return content
