# SPDX-License-Identifier: Apache-2.0
"""`pointsman-enforcer --convert-config FILE`: the configuration on stdout, the account of it on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, TextIO

from pointsman_chassis.errors import ConfigError
from pointsman_chassis.settings import dump_document
from pointsman_enforcer.convert.conversion import Row, convert
from pointsman_enforcer.convert.source import read_source
from pointsman_enforcer.settings import KIND

_SIZE_MAX_BYTES: Final = 4 << 20
_HEAD: Final = ("FIELD", "OUTCOME", "WHY")


def convert_file(
    name: str, *, stdin: BinaryIO | None = None, stdout: TextIO | None = None, stderr: TextIO | None = None
) -> None:
    """Convert a file, `-` for standard input.

    Raises:
        ConfigError: it cannot be read or is wrong; nothing has been written then.
    """
    conversion = convert(
        *read_source(_read(name, stdin or sys.stdin.buffer), "standard input" if name == "-" else name)
    )
    (stdout or sys.stdout).write(dump_document(conversion.fields, KIND))
    (stderr or sys.stderr).write("".join(f"{line}\n" for line in table(conversion.rows)))


def table(rows: Iterable[Row]) -> Iterator[str]:
    """The account, a line for each row, in columns."""
    cells = [_HEAD, *((row.field, row.outcome.value, row.reason) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in (0, 1)]
    for field, outcome, reason in cells:
        yield f"{field:<{widths[0]}}  {outcome:<{widths[1]}}  {reason}".rstrip()


def _read(name: str, stdin: BinaryIO) -> bytes:
    try:
        with stdin if name == "-" else Path(name).open("rb") as file:
            content = file.read(_SIZE_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {name}: {error.strerror or error}") from error
    if len(content) > _SIZE_MAX_BYTES:
        raise ConfigError(f"{name} is larger than {_SIZE_MAX_BYTES} bytes")
    return content
