# SPDX-License-Identifier: Apache-2.0
"""The only door to other programs: argument list, bytes in, text out, a time limit. Nothing here runs per change."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence

from pointsman_chassis.errors import PointsmanError


class CommandError(PointsmanError):
    """A program could not be run, ran out of time, or ended with a status other than 0."""


def find(name: str) -> str | None:
    """Path of a program, None when it is not installed."""
    return shutil.which(name)


def _ignore(_: int) -> None:
    """Nobody wants to know."""


def run(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout_seconds: float = 10.0,
    on_started: Callable[[int], object] = _ignore,
) -> str:
    """Run a program to its end and return what it printed; `on_started` is told the number of its process.

    Raises:
        CommandError: with the program's own words.
    """
    try:
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            on_started(process.pid)
            try:
                printed, said = process.communicate(stdin, timeout=timeout_seconds)
            except BaseException:
                process.kill()
                raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"running {argv[0]}: {error}") from error
    if process.returncode != 0:
        words = said.decode("utf-8", "replace").strip()
        raise CommandError(f"{' '.join(argv)} ended with status {process.returncode}: {words}")
    return printed.decode("utf-8", "replace")
