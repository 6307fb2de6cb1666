# SPDX-License-Identifier: Apache-2.0
"""What the pure part raises.

PlanProtocolError   the planner broke a rule of plan.v1: close the stream, keep what is programmed, dial again
    PlannerSilentError  it said nothing for too long
"""

from __future__ import annotations


class PlanProtocolError(Exception):
    """The other side of StreamNodePlan broke a rule; the text says which, and with what."""


class PlannerSilentError(PlanProtocolError):
    """The other side has said nothing for too long; it may be frozen, or unreachable."""
