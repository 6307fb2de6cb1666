# SPDX-License-Identifier: Apache-2.0
"""How a check is made: timed, and never raising."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from pointsman_chassis.errors import ConfigError
from pointsman_ctl.core.verdict import Result, failed
from pointsman_ctl.errors import CtlError


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
        message, _, hint = str(error).partition("\n  hint: ")
        results = [failed(what.category, what.name, message, hint or what.hint)]
    seconds = time.monotonic() - started
    return [replace(result, seconds=seconds) for result in results]
