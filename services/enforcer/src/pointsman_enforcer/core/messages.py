# SPDX-License-Identifier: Apache-2.0
"""Between `pointsman.plan.v1` messages and the enforcer's values, checking what a message may not say.

The one place that bounds a transaction: a planner, or whoever pretends to be one, cannot make a node hold more.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_enforcer.core.conditions import ServiceConditions
from pointsman_enforcer.core.drift import DriftReport
from pointsman_enforcer.core.errors import PlanProtocolError
from pointsman_enforcer.core.transaction import ChangeOrigin, Position, Transaction
from pointsman_model.digest import BUCKET_COUNT
from pointsman_model.names import Family, ServiceKey
from pointsman_model.wire.plan import PlanFormatError, node_facts_from_pb, node_facts_to_pb

SERVICES_MAX: Final = 100_000
"""Services that one transaction may name; ten times the largest cluster we are measured at."""
PARTS_MAX: Final = 20_000
PLAN_BYTES_MAX: Final = 1 << 20
NAME_BYTES_MAX: Final = 253
ORIGINS_MAX: Final = 64
_FAMILIES: Final = {int(family): family for family in Family}


class TransactionBuilder:
    """Collects the parts of one transaction."""

    def __init__(self, nonce: int) -> None:
        self.nonce = nonce
        self._updates: dict[ServiceKey, bytes] = {}
        self._removals: dict[ServiceKey, None] = {}
        self._buckets: set[int] = set()
        self._replaces_all = False
        self._facts: pb.NodeFacts | None = None
        self._origins: list[ChangeOrigin] = []
        self._parts = 0

    def add(self, part: pb.Transaction) -> Transaction | None:
        """Take the next part; the whole transaction once its last part has come, before that None.

        Raises:
            PlanProtocolError: the part is not the next one, or breaks a rule; nothing of the transaction counts then.
        """
        if part.nonce != self.nonce:
            raise PlanProtocolError(f"transaction {part.nonce} begins before transaction {self.nonce} is complete")
        if part.part != self._parts:
            raise PlanProtocolError(f"transaction {self.nonce}: part {part.part} came where {self._parts} was due")
        if self._parts >= PARTS_MAX:
            raise PlanProtocolError(f"transaction {self.nonce} has more than {PARTS_MAX} parts")
        self._parts += 1
        self._add_services(part)
        for bucket in part.replaced_buckets:
            if bucket >= BUCKET_COUNT:
                raise PlanProtocolError(f"transaction {self.nonce}: bucket {bucket} is not below {BUCKET_COUNT}")
            self._buckets.add(bucket)
        self._replaces_all = self._replaces_all or part.replaces_all
        if part.HasField("node"):
            self._facts = part.node
        self._origins.extend(_origin(item) for item in part.origins[: ORIGINS_MAX - len(self._origins)])
        return self._finish(part) if part.commit else None

    def _add_services(self, part: pb.Transaction) -> None:
        for update in part.updates:
            key = self._key(update.name)
            if len(update.plan) > PLAN_BYTES_MAX:
                raise PlanProtocolError(f"plan of {key} has {len(update.plan)} bytes, more than {PLAN_BYTES_MAX}")
            self._updates[key] = update.plan
        for name in part.removals:
            self._removals[self._key(name)] = None
        if len(self._updates) + len(self._removals) > SERVICES_MAX:
            raise PlanProtocolError(f"transaction {self.nonce} names more than {SERVICES_MAX} services")

    def _key(self, name: types_pb2.NamespacedName) -> ServiceKey:
        key = service_key(name)
        if key in self._updates or key in self._removals:
            raise PlanProtocolError(f"transaction {self.nonce} names {key} twice")
        return key

    def _finish(self, last: pb.Transaction) -> Transaction:
        try:
            facts = None if self._facts is None else node_facts_from_pb(self._facts)
        except PlanFormatError as error:
            raise PlanProtocolError(f"transaction {self.nonce}: {error}") from error
        return Transaction(
            nonce=self.nonce,
            position=position_from_pb(last.position),
            updates=self._updates,
            removals=tuple(self._removals),
            replaced_buckets=frozenset(self._buckets),
            replaces_all=self._replaces_all,
            facts=facts,
            digest=last.digest,
            in_sync=last.in_sync,
            origins=tuple(self._origins),
        )


def service_key(name: types_pb2.NamespacedName) -> ServiceKey:
    """The key in a message; PlanProtocolError when it could be no Kubernetes name (and so could forge a digest)."""
    key = ServiceKey(name.namespace, name.name)
    for part in key:
        if not part or len(part) > NAME_BYTES_MAX or not part.isprintable() or not part.isascii():
            raise PlanProtocolError(f"{part[:64]!r} is not a namespace or name")
    return key


def transaction_to_pb(transaction: Transaction) -> pb.Transaction:
    """The whole transaction in one message, for the disk; origins are left out."""
    message = pb.Transaction(
        nonce=transaction.nonce,
        commit=True,
        position=position_to_pb(transaction.position),
        removals=[name_to_pb(key) for key in transaction.removals],
        replaced_buckets=sorted(transaction.replaced_buckets),
        replaces_all=transaction.replaces_all,
        digest=transaction.digest,
        in_sync=transaction.in_sync,
    )
    add = message.updates.add
    for key, plan in transaction.updates.items():
        update = add(plan=plan)
        update.name.namespace, update.name.name = key
    if transaction.facts is not None:
        message.node.CopyFrom(node_facts_to_pb(transaction.facts))
    return message


def name_to_pb(key: ServiceKey) -> types_pb2.NamespacedName:
    """The message for a key."""
    return types_pb2.NamespacedName(namespace=key.namespace, name=key.name)


def position_to_pb(position: Position) -> pb.Position:
    """The message for a position."""
    return pb.Position(epoch=position.epoch, revision=position.revision)


def position_from_pb(message: pb.Position) -> Position:
    """The position in a message."""
    return Position(message.epoch, message.revision)


def timestamp(nanoseconds: int) -> Timestamp:
    """A point in time as a message."""
    return Timestamp(seconds=nanoseconds // 1_000_000_000, nanos=nanoseconds % 1_000_000_000)


def drift_to_pb(report: DriftReport) -> pb.DriftReport:
    """The message for a report of drift."""
    message = pb.DriftReport(
        repairs=report.repairs,
        repaired_at=timestamp(report.repaired_at_ns),
        kinds=report.kinds,
        objects=report.objects,
        process=report.process,
        process_id=report.process_id,
    )
    message.duration.FromNanoseconds(report.duration_ns)
    return message


def conditions_to_pb(conditions: ServiceConditions) -> pb.Conditions:
    """The message for all conditions."""
    message = pb.Conditions(total=len(conditions))
    for each in conditions.listed():
        added = message.conditions.add(
            service=name_to_pb(each.service),
            kind=pb.ServiceCondition.Kind.ValueType(each.kind),
            message=each.message,
        )
        added.since.CopyFrom(timestamp(each.since_ns))
    return message


def _origin(message: pb.ChangeOrigin) -> ChangeOrigin:
    return ChangeOrigin(
        ServiceKey(message.service.namespace, message.service.name),
        message.trace.traceparent,
        _nanoseconds(message.trigger_time),
        _nanoseconds(message.observed_at),
        _FAMILIES.get(message.family),
    )


def _nanoseconds(message: Timestamp) -> int:
    return message.seconds * 1_000_000_000 + message.nanos
