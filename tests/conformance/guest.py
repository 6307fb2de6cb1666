# SPDX-License-Identifier: Apache-2.0
"""Modes that the kernel here cannot do run in a guest: the same command, with the same arguments, in another kernel."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from conformance.executors.modes import KernelMode

from pointsman_lab.errors import LabError
from pointsman_lab.guest.machine import run_in_guest

_IS_GUEST: Final = "POINTSMAN_CONFORMANCE_GUEST"
_TIMEOUT_SECONDS: Final = 7200.0
_SHARED_INSIDE: Final = Path("/run/guest")
"""Where the guest has the directory that it shares with the caller, see `run_in_guest`."""
_SUMMARY: Final = "summary.json"
_PROGRAM: Final = Path(__file__).with_name("run.py")


def is_inside() -> bool:
    """Whether this process runs in the guest already."""
    return _IS_GUEST in os.environ


def run(argv: Sequence[str], mode: KernelMode, summary: Path | None) -> int:
    """Run the command in a guest that has the mode's modules; its exit status, 2 when there is no guest.

    The counts that are asked for come back through the directory that the guest shares.
    """
    counted = ("--summary", str(_SHARED_INSIDE / _SUMMARY)) if summary is not None else ()
    with tempfile.TemporaryDirectory(prefix="pointsman-conformance-") as shared:
        try:
            result = run_in_guest(
                [sys.executable, str(_PROGRAM), *argv, *counted],
                shared=Path(shared),
                modules=mode.guest_modules,
                environment={_IS_GUEST: "1", "PYTHONDONTWRITEBYTECODE": "1"},
                timeout_seconds=_TIMEOUT_SECONDS,
                written=_say,
            )
        except LabError as error:
            sys.stderr.write(f"conformance: {error}" + "\n")
            return 2
        made = Path(shared, _SUMMARY)
        if summary is not None and made.exists():
            summary.write_bytes(made.read_bytes())
    return result.status


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
