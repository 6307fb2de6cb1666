# SPDX-License-Identifier: Apache-2.0
"""The only door to other programs: argument list, bytes in, text out, a time limit. Nothing here runs per change."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from pointsman_chassis.errors import PointsmanError


class CommandError(PointsmanError):
    """A program could not be run, ran out of time, or ended with a status other than 0."""


def find(name: str) -> str | None:
    """Path of a program, None when it is not installed."""
    return shutil.which(name)


def run(argv: Sequence[str], *, stdin: bytes = b"", timeout_seconds: float = 10.0) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        CommandError: with the program's own words.
    """
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout_seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"running {argv[0]}: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise CommandError(f"{' '.join(argv)} ended with status {done.returncode}: {said}")
    return done.stdout.decode("utf-8", "replace")
