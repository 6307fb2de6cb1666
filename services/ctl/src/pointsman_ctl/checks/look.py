# SPDX-License-Identifier: Apache-2.0
"""How a check is made: timed, and never raising."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pointsman_chassis.errors import ConfigError
from pointsman_ctl.core.verdict import Result, failed
from pointsman_ctl.errors import CtlError

_HINT: Final = "  hint: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at something, which may give several results."""

    category: str
    name: str
    see: Callable[[], Awaitable[Sequence[Result]]]
    hint: str
    """What to do when it cannot even be looked at."""


async def look(what: Look) -> list[Result]:
    """The results, each with the time that the look took."""
    started = time.monotonic()
    try:
        results = await what.see()
    except (CtlError, ConfigError) as error:
        # What is said of several planners has a hint for each: one line of each, and one advice.
        complaints: list[str] = []
        hints: list[str] = []
        for line in str(error).splitlines():
            (hints if line.startswith(_HINT) else complaints).append(line)
        message, hint = "; ".join(complaints), hints[0].removeprefix(_HINT) if hints else ""
        results = [failed(what.category, what.name, message, hint or what.hint)]
    seconds = time.monotonic() - started
    return [replace(result, seconds=seconds) for result in results]
