# SPDX-License-Identifier: Apache-2.0
"""Files that commands write."""

from pathlib import Path

from pointsman_ctl.errors import UsageError


def write_text(name: str, text: str) -> None:
    """Writes a file.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {name}: {error.strerror or error}") from error
