# SPDX-License-Identifier: Apache-2.0
"""The difference between two renderings: of their rules, and listeners to open, to change and to close."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from pointsman_enforcer.dataplane.userspace.target import listeners_of, rules_of


@dataclass(slots=True)
class UserspaceChange:
    """Built up by `include`, so not frozen."""

    rules: Any = None
    """The change of the dataplane that has the rules; None where there are none at all."""
    serves: dict[bytes, bytes] = field(default_factory=dict)
    """Targets by the key of their listener."""
    closes: dict[bytes, None] = field(default_factory=dict)
    """Keys of listeners."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return (self.rules is None or self.rules.is_empty) and not self.serves and not self.closes

    @property
    def operations(self) -> int:
        """What rules are made of, and listeners, touched."""
        rules = 0 if self.rules is None else self.rules.operations
        return int(rules) + len(self.serves) + len(self.closes)

    def include(self, other: Self) -> None:
        """Also do what `other` does. A listener that one of them closes and the other serves is served."""
        if other.rules is not None:
            self.rules.include(other.rules)
        self.serves.update(other.serves)
        self.closes.update(other.closes)
        for key in self.closes.keys() & self.serves.keys():
            del self.closes[key]


def diff(
    old: bytes, new: bytes, diff_rules: Callable[[bytes, bytes], Any] = lambda _old, _new: None
) -> UserspaceChange:
    """What turns one rendering into another; without `diff_rules` there are no rules."""
    before, after = listeners_of(old), listeners_of(new)
    return UserspaceChange(
        rules=diff_rules(rules_of(old), rules_of(new)),
        serves={key: target for key, target in after.items() if before.get(key) != target},
        closes=dict.fromkeys(before.keys() - after.keys()),
    )
