# SPDX-License-Identifier: Apache-2.0
"""When changes of endpoints were called for, from the annotation of a slice to what an enforcer observes of it.

Watcher's decoder, planner, plan stream messages, the enforcer's transaction and its programming times.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from conformance.addresses import events_in
from conformance.model import NODE, Event, Finding, IpFamily
from conformance.objects import apply, delete, node, service, service_cidr, slice_of
from conformance.pipeline import ApiServer

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_enforcer.core.messages import TransactionBuilder
from pointsman_enforcer.core.programming_time import programming_times
from pointsman_model.cluster import ClusterPosition
from pointsman_planner.api.plan_codec import decode_message
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.planner import Batch, Planner
from support.model_enforcer import ModelEnforcer

_BASE = 1_800_000_000
_STARTED, _APPLIED = 100, 200
"""When the enforcer's process began, and when everything is programmed; seconds after the base, as all times here."""
_SECOND = 1_000_000_000
SERVICES = apply(service("svc1"), service("svc2", "172.30.0.42"))


def _slice(at: int | None, address: str = "10.180.0.1", of: str = "svc1") -> str:
    time = "" if at is None else datetime.fromtimestamp(_BASE + at, UTC).isoformat()
    return slice_of(of, f"{address}@L", triggered_at=time)


def _observed(family: IpFamily, *events: Event) -> str:
    """Service and trigger time of every change that counts, when all of these were waiting for one sync."""
    server, planner = ApiServer(), Planner()
    beginning = (*apply(node(), service_cidr()), *events_in(family, SERVICES))
    planner.apply(Batch(changes=tuple(server.changes(beginning)), position=ClusterPosition(epoch="e", revision=1)))
    hello = decode_message(ModelEnforcer(NODE).hello().SerializeToString())
    if not isinstance(hello, Hello):
        raise TypeError(f"a hello became {hello}")
    session = planner.open(hello, now_ns=0)
    _origins(session)
    for revision, event in enumerate(events_in(family, events), start=2):
        changes = tuple(server.changes([event]))
        planner.apply(Batch(changes=changes, position=ClusterPosition(epoch="e", revision=revision)))
    found = programming_times(
        _origins(session),
        started_at_ns=(_BASE + _STARTED) * _SECOND,
        applied_at_ns=(_BASE + _APPLIED) * _SECOND,
        is_failed=lambda _: False,
    )
    return str([(origin.service.name, round(_APPLIED - seconds)) for origin, seconds in found])


def _origins(session: Any) -> list[Any]:
    """The next transaction as an enforcer takes it in; what it says of the changes."""
    frame = session.next_transaction(now_ns=0)
    if frame is None:
        return []
    messages = [pb.StreamNodePlanResponse.FromString(part) for part in frame.parts()]
    builder = TransactionBuilder(messages[0].transaction.nonce)
    taken = [builder.add(message.transaction) for message in messages]
    transaction = taken[-1]
    if transaction is None:
        raise ValueError("the last part of a transaction did not complete it")
    return list(transaction.origins)


def every_change_counts(_: object, family: IpFamily) -> Iterator[Finding]:
    """Row 137."""
    first, second, other = _slice(101), _slice(105, "10.180.0.2"), _slice(103, of="svc2")
    yield Finding("one added", "[('svc1', 101)]", _observed(family, *apply(first)))
    both = "[('svc1', 101), ('svc1', 105)]"
    yield Finding("added, then changed before a sync", both, _observed(family, *apply(first, second)))
    apart = "[('svc1', 101), ('svc1', 105), ('svc2', 103)]"
    yield Finding("two services", apart, _observed(family, *apply(first, second, other)))


def some_do_not_count(_: object, family: IpFamily) -> Iterator[Finding]:
    """Row 138."""
    yield Finding("no annotation", "[]", _observed(family, *apply(_slice(None))))
    yield Finding("older than the process", "[]", _observed(family, *apply(_slice(99))))
    mixed = apply(_slice(99), _slice(102, "10.180.0.2"), _slice(None, of="svc2"))
    yield Finding("one of three", "[('svc1', 102)]", _observed(family, *mixed))


def what_is_gone_does_not_count(_: object, family: IpFamily) -> Iterator[Finding]:
    """Row 139."""
    first, again = _slice(101), _slice(107)
    yield Finding("added and deleted", "[]", _observed(family, *apply(first), *delete(first)))
    events = (*apply(first), *delete(first), *apply(again))
    yield Finding("added, deleted, added", "[('svc1', 107)]", _observed(family, *events))
