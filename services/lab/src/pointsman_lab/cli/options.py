# SPDX-License-Identifier: Apache-2.0
"""What the commands share: the --name option, and how a command runs and fails."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from pointsman_lab.apiserver.errors import ApiError
from pointsman_lab.errors import LabError, LabUsageError

Name = Annotated[str, typer.Option("--name", help="Which lab, when several run side by side.")]

_FAILED = 1
_USAGE = 2


def run(command: Coroutine[Any, Any, None]) -> None:
    """Runs a command; an error becomes one message and exit status 1, or 2 when the user can mend it."""
    try:
        asyncio.run(command)
    except (LabError, ApiError) as error:
        print(f"pointsman-lab: {error}", file=sys.stderr)
        raise typer.Exit(_USAGE if isinstance(error, LabUsageError) else _FAILED) from error
