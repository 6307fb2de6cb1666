# SPDX-License-Identifier: Apache-2.0
"""What the reconciler tells whoever looks after flows that outlive the rules they began under."""

from __future__ import annotations

from typing import Protocol

from pointsman_model.names import ServiceKey
from pointsman_model.plan import ServicePlan


class Flows(Protocol):
    """Told of every service before and after the kernel is; each call returns at once."""

    def expect(self, key: ServiceKey, plan: ServicePlan) -> None:
        """The kernel is about to be given this plan (an empty one when the service is to go)."""

    def programmed(self, key: ServiceKey) -> None:
        """The kernel has the plan expected last."""

    def suspect_all(self) -> None:
        """Some rules may have been missing for a time, and packets have passed meanwhile."""

    def synced(self, *, is_confirmed: bool) -> None:
        """A sync is over and reported. `is_confirmed`: a planner has said that the plan held is the whole plan."""


class NoFlows:
    """Looks after none."""

    def expect(self, key: ServiceKey, plan: ServicePlan) -> None:
        """Nothing."""

    def programmed(self, key: ServiceKey) -> None:
        """Nothing."""

    def suspect_all(self) -> None:
        """Nothing."""

    def synced(self, *, is_confirmed: bool) -> None:
        """Nothing."""
