# SPDX-License-Identifier: Apache-2.0
"""What the controllers need of an API client: to follow a kind, and five verbs. Pure interface.

`resource` is a plural as the API spells it: pods, services, nodes, deployments, endpointslices.
"""

import enum
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pointsman_lab.controller.objects import Object


class ChangeKind(enum.Enum):
    """LISTED carries everything there is and replaces what was known; the others carry one object."""

    LISTED = enum.auto()
    PUT = enum.auto()
    DELETED = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One step of a followed kind."""

    kind: ChangeKind
    objects: Sequence[Object]


class ApiConflictError(Exception):
    """Somebody else was faster, or the object is there already: look again and decide anew."""


class ApiUnavailableError(Exception):
    """The API server did not answer; try later."""


class Gateway(Protocol):
    """The API, as the controllers see it. Every verb answers with the object as stored; a missing one is None."""

    def follow(self, resource: str, *, label_selector: str = "") -> AsyncIterator[Change]:
        """LISTED, then every change; lists again after an interruption. Never ends."""

    async def create(self, resource: str, obj: Object) -> Object:
        """Creates an object."""

    async def replace(self, resource: str, obj: Object) -> Object | None:
        """Replaces an object at the resourceVersion it carries."""

    async def patch(
        self, resource: str, namespace: str, name: str, patch: Object, *, subresource: str = ""
    ) -> Object | None:
        """Merge-patches an object."""

    async def bind(self, namespace: str, name: str, node: str) -> None:
        """Assigns a pod to a node."""

    async def delete(
        self, resource: str, namespace: str, name: str, *, uid: str = "", grace_seconds: int | None = None
    ) -> Object | None:
        """Deletes an object, or asks for its deletion; answers with what is left of it."""
