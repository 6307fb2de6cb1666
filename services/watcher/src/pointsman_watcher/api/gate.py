# SPDX-License-Identifier: Apache-2.0
"""Decides for a watcher who may follow the cluster: planners, by the names in their certificates."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from pointsman_chassis.caller import PLAINTEXT, Caller, Proof, certificate_caller
from pointsman_chassis.errors import ForbiddenError, UnauthenticatedError
from pointsman_chassis.guard import GuardedContext

_HEALTH: Final = "/grpc.health.v1.Health/"
_CLUSTER: Final = "/pointsman.cluster.v1.ClusterService/"


class WatcherGate:
    """The gate of one watcher."""

    def __init__(self, *, planners: Iterable[str], is_plaintext: bool) -> None:
        self._planners = frozenset(planners)
        self._is_plaintext = is_plaintext

    async def identify(self, context: Any) -> Caller:
        """See `Gate.identify`."""
        return PLAINTEXT if self._is_plaintext else certificate_caller(context.auth_context())

    async def authorize(self, caller: Caller, method: str, request: Any) -> None:  # noqa: ARG002 - as Gate has it
        """See `Gate.authorize`."""
        if caller.proof is Proof.PLAINTEXT or method.startswith(_HEALTH):
            return
        if not caller.is_known:
            raise UnauthenticatedError("show a client certificate")
        if method.startswith(_CLUSTER) and self._planners.isdisjoint(caller.names):
            raise ForbiddenError(
                f"{caller} is no planner: none of its certificate's names is in the list `planners` of this watcher"
            )

    def recheck_seconds(self, caller: Caller, method: str) -> float:  # noqa: ARG002 - as Gate has it
        """Never: names do not change while a certificate is valid."""
        return math.inf

    async def recheck(self, context: GuardedContext[None], method: str, request: Any) -> None:
        """See `recheck_seconds`."""
