# SPDX-License-Identifier: Apache-2.0
"""The demo of a mode that the kernel here may not have, played in a guest: the same program, in another kernel."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from pointsman_lab.demo.modes import DemoMode
from pointsman_lab.guest.machine import run_in_guest

_IS_GUEST: Final = "POINTSMAN_DEMO_GUEST"
_TIMEOUT_SECONDS: Final = 900.0
_MEMORY_MIB: Final = 3072


def is_wanted(mode: DemoMode) -> bool:
    """Whether the mode needs a guest and this is not one."""
    return bool(mode.guest_modules) and _IS_GUEST not in os.environ


def play_in_guest(mode: DemoMode) -> int:
    """Play, printing what the guest says as it comes; the demo's exit status.

    Raises:
        LabError: there is no guest, or it did not end.
    """
    _say("the demo is played in a User-Mode-Linux guest, with one processor; it is slow")
    with tempfile.TemporaryDirectory(prefix="pointsman-demo-") as shared:
        result = run_in_guest(
            [sys.executable, "-m", "pointsman_lab.demo", "--mode", mode.name],
            shared=Path(shared),
            modules=mode.guest_modules,
            environment={_IS_GUEST: "1", "PYTHONDONTWRITEBYTECODE": "1", "TERM": "dumb"},
            memory_mib=_MEMORY_MIB,
            timeout_seconds=_TIMEOUT_SECONDS,
            written=_say,
        )
    return result.status


def _say(line: str) -> None:
    print(line, flush=True)
