# SPDX-License-Identifier: Apache-2.0
"""The plan this node holds: one packed plan for each service, and the digests that prove it.

A plan is kept as the bytes that were received. Ten thousand of them are a few megabytes, they can be hashed, compared
and written to disk without being understood, and a malformed one harms nobody but its own service.
"""

from __future__ import annotations

from collections.abc import Iterator

from pointsman_enforcer.core.transaction import NO_POSITION, PlanChange, Transaction
from pointsman_model.digest import DigestBuckets, bucket_of, plan_digest
from pointsman_model.names import ServiceKey
from pointsman_model.plan import NodeFacts


class PlanStore:
    """Held plans by service key, in the order in which they first arrived (which is the planner's priority)."""

    def __init__(self) -> None:
        self._plans: dict[ServiceKey, bytes] = {}
        self._buckets = DigestBuckets()
        self.facts: NodeFacts | None = None
        """None until some planner, or the disk, has told."""
        self.position = NO_POSITION
        self.is_complete = False
        """Whether this has ever been a whole plan. What is not in an incomplete plan may exist all the same."""

    def __len__(self) -> int:
        return len(self._plans)

    def __iter__(self) -> Iterator[ServiceKey]:
        return iter(self._plans)

    def get(self, key: ServiceKey) -> bytes | None:
        """The plan of a service, None when the node holds none."""
        return self._plans.get(key)

    @property
    def digest(self) -> int:
        """Digest of the whole plan."""
        return self._buckets.total

    @property
    def bucket_digests(self) -> tuple[int, ...]:
        """The 1024 bucket digests."""
        return self._buckets.sums

    def apply(self, transaction: Transaction) -> list[PlanChange]:
        """Make the plan what the transaction says, and return the services whose plan differs now.

        Updates come first, in their order, then removals. Equal bytes are no change. Costs the transaction, except that
        replaced buckets cost one pass over the keys.
        """
        changes = []
        for key, plan in transaction.updates.items():
            change = self._put(key, plan)
            if change is not None:
                changes.append(change)
        for key in (*transaction.removals, *self._unnamed(transaction)):
            change = self._remove(key)
            if change is not None:
                changes.append(change)
        if transaction.facts is not None:
            self.facts = transaction.facts
        self.position = transaction.position
        self.is_complete = self.is_complete or (transaction.in_sync and self.digest == transaction.digest)
        return changes

    def snapshot(self) -> Transaction:
        """One transaction that makes an empty store equal to this one."""
        return Transaction(
            nonce=1,
            position=self.position,
            updates=dict(self._plans),
            facts=self.facts,
            digest=self.digest,
            in_sync=self.is_complete,
            replaces_all=True,
        )

    def _unnamed(self, transaction: Transaction) -> list[ServiceKey]:
        """Held services that a replaced bucket covers and no update names, sorted."""
        if transaction.replaces_all:
            candidates = [key for key in self._plans if key not in transaction.updates]
        elif transaction.replaced_buckets:
            candidates = [
                key
                for key in self._plans
                if key not in transaction.updates and bucket_of(key) in transaction.replaced_buckets
            ]
        else:
            return []
        return sorted(candidates)

    def _put(self, key: ServiceKey, plan: bytes) -> PlanChange | None:
        held = self._plans.get(key)
        if held == plan:
            return None
        old = 0 if held is None else plan_digest(key, held)
        new = plan_digest(key, plan)
        self._plans[key] = plan
        self._buckets.replace(bucket_of(key), old, new)
        return PlanChange(key, old, new, held)

    def _remove(self, key: ServiceKey) -> PlanChange | None:
        held = self._plans.pop(key, None)
        if held is None:
            return None
        old = plan_digest(key, held)
        self._buckets.replace(bucket_of(key), old, 0)
        return PlanChange(key, old, 0, held)
