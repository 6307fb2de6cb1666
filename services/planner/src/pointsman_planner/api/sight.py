# SPDX-License-Identifier: Apache-2.0
"""What the caller of a handler is, and what he may see, from the context that a guard has made."""

from __future__ import annotations

from typing import Any

from pointsman_chassis.guard import GuardedContext
from pointsman_planner.core.rights import EVERYTHING, NOTHING, Sight


def sight_of(context: Any) -> Sight:
    """What the answer may hold; everything on a server without a guard, whose callers nobody tells apart."""
    if not isinstance(context, GuardedContext):
        return EVERYTHING
    return context.granted if isinstance(context.granted, Sight) else NOTHING
