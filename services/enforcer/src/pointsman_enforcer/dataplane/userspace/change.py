# SPDX-License-Identifier: Apache-2.0
"""The difference between two renderings: elements of rules, and listeners to open, to change and to close."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from pointsman_enforcer.dataplane.nftables.change import NftChange
from pointsman_enforcer.dataplane.nftables.change import diff as diff_rules
from pointsman_enforcer.dataplane.userspace.target import listeners_of, rules_of


@dataclass(slots=True)
class UserspaceChange:
    """Built up by `include`, so not frozen."""

    rules: NftChange = field(default_factory=NftChange)
    serves: dict[bytes, bytes] = field(default_factory=dict)
    """Targets by the key of their listener."""
    closes: dict[bytes, None] = field(default_factory=dict)
    """Keys of listeners."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return self.rules.is_empty and not self.serves and not self.closes

    @property
    def operations(self) -> int:
        """Elements and listeners touched."""
        return self.rules.operations + len(self.serves) + len(self.closes)

    def include(self, other: Self) -> None:
        """Also do what `other` does. A listener that one of them closes and the other serves is served."""
        self.rules.include(other.rules)
        self.serves.update(other.serves)
        self.closes.update(other.closes)
        for key in self.closes.keys() & self.serves.keys():
            del self.closes[key]


def diff(old: bytes, new: bytes) -> UserspaceChange:
    """What turns one rendering into another."""
    if old == new:
        return UserspaceChange()
    before, after = listeners_of(old), listeners_of(new)
    return UserspaceChange(
        rules=diff_rules(rules_of(old), rules_of(new)),
        serves={key: target for key, target in after.items() if before.get(key) != target},
        closes=dict.fromkeys(before.keys() - after.keys()),
    )
