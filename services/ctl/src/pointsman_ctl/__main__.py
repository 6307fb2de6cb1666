# SPDX-License-Identifier: Apache-2.0
"""The commands `pointsmanctl` and `kubectl-pointsman`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pointsman_chassis.errors import ConfigError
from pointsman_ctl import console
from pointsman_ctl.app import application
from pointsman_ctl.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, CtlError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status, see `errors.py`."""
    name = Path(sys.argv[0]).name
    program = "kubectl pointsman" if name == "kubectl-pointsman" else "pointsmanctl"
    variable = f"_{'kubectl_pointsman' if program != 'pointsmanctl' else 'pointsmanctl'}_COMPLETE".upper()
    try:
        status = application().main(
            args=list(arguments) if arguments is not None else None,
            prog_name=program,
            complete_var=variable,
            standalone_mode=False,
        )
    except BrokenPipeError:
        # Whoever reads has enough (`| head`); Python would complain of stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except (click.ClickException, click.Abort, KeyboardInterrupt, ConfigError, CtlError) as error:
        return _told(error)
    return status if isinstance(status, int) else EXIT_OK


def _told(error: BaseException) -> int:
    """Say what is wrong; the exit status that goes with it."""
    console.progress("")
    match error:
        case click.ClickException():
            error.show()
            return error.exit_code
        case ConfigError():
            console.note(f"error: {error}")
            return EXIT_USAGE
        case CtlError():
            console.note(f"error: {error}")
            return error.exit_status
    return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
