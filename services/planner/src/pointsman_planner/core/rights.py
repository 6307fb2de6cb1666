# SPDX-License-Identifier: Apache-2.0
"""Rights of controllers: who may do what with which things, in which namespaces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

ANY: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """What a call needs."""

    verb: str
    resource: str
    namespace: str = ""
    """Empty = the whole cluster."""
    is_filtered: bool = False
    """Whether the answer is cut down to the namespaces in which the caller has the right, rather than refused."""

    def __str__(self) -> str:
        where = f"in namespace {self.namespace[:256]!r}" if self.namespace else "in the whole cluster"
        return f"{self.verb} {self.resource} {where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Gives every right that it names to everybody whom it names; `*` stands for all, except among users and groups."""

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    verbs: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()

    def is_about(self, user: str, groups: Iterable[str]) -> bool:
        """Whether somebody is named."""
        return user in self.users or not self.groups.isdisjoint(groups)

    def gives(self, verb: str, resource: str) -> bool:
        """Whether it is about this verb and resource, in whatever namespaces."""
        return not self.verbs.isdisjoint((verb, ANY)) and not self.resources.isdisjoint((resource, ANY))


@dataclass(frozen=True, slots=True)
class Sight:
    """The namespaces that somebody sees; None = all, and what is in none."""

    namespaces: frozenset[str] | None = None

    def sees(self, namespace: str) -> bool:
        """Whether things of a namespace are seen; empty = things of the whole cluster."""
        return self.namespaces is None or namespace in self.namespaces

    def __or__(self, other: Sight) -> Sight:
        if self.namespaces is None or other.namespaces is None:
            return EVERYTHING
        return Sight(self.namespaces | other.namespaces)


EVERYTHING: Final = Sight()
NOTHING: Final = Sight(frozenset())


def sight(rules: Iterable[Rule], user: str, groups: Iterable[str], right: Right) -> Sight:
    """Where rules give somebody a right, whatever its namespace."""
    held = tuple(groups)
    seen: set[str] = set()
    for rule in rules:
        if rule.gives(right.verb, right.resource) and rule.is_about(user, held):
            seen |= rule.namespaces
    return EVERYTHING if ANY in seen else Sight(frozenset(seen))
