# SPDX-License-Identifier: Apache-2.0
"""oomScoreAdj: how unlikely the kernel is to end this process when memory runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

_FILE: Final = Path("/proc/self/oom_score_adj")


def adjust_oom_score(value: int, *, file: Path = _FILE) -> bool:
    """Set the value unless it is set already; whether it now is. A refusal is said, and does not end the process."""
    try:
        if int(file.read_text()) != value:
            file.write_text(f"{value}\n")
    except (OSError, ValueError) as error:
        log = structlog.get_logger("app")
        log.info("oomScoreAdj not set; it takes CAP_SYS_RESOURCE to lower it", field="oomScoreAdj", error=str(error))
        return False
    return True
