# SPDX-License-Identifier: Apache-2.0
"""The plan on disk: cut, flipped, spliced. What is read is a plan that this node had, or says that it is not whole."""

from __future__ import annotations

from dataclasses import dataclass

from fuzz.harness import Target
from fuzz.mutation import mutated_bytes
from hypothesis import strategies as st

from pointsman_enforcer.core.plan_log import MAGIC, encode_record, encode_snapshot, load
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Position, Transaction
from pointsman_model.names import ServiceKey
from support.enforcer_plans import FACTS, digest_of, key

Plans = dict[ServiceKey, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class _History:
    """A file in pieces (a snapshot, then changes), and the plan after each piece."""

    pieces: tuple[bytes, ...]
    states: tuple[Plans, ...]


@st.composite
def _histories(draw: st.DrawFn) -> _History:
    store = PlanStore()
    state: Plans = {key(index): f"plan {index}".encode() for index in range(draw(st.integers(0, 4)))}
    first = Transaction(nonce=1, updates=state, replaces_all=True, facts=FACTS, digest=digest_of(state), in_sync=True)
    store.apply(first)
    pieces, states = [b"".join(encode_snapshot(store.snapshot()))], [dict(state)]
    for nonce in range(2, draw(st.integers(2, 7))):
        updates: Plans = {key(draw(st.integers(0, 5))): f"change {nonce}".encode() * draw(st.integers(1, 40))}
        removable = [name for name in state if name not in updates]
        removals = tuple(removable[: draw(st.integers(0, 1))])
        state = {name: plan for name, plan in {**state, **updates}.items() if name not in removals}
        digest = digest_of(state)
        position = Position("fuzz", nonce)
        pieces.append(
            encode_record(
                Transaction(
                    nonce=nonce, position=position, updates=updates, removals=removals, digest=digest, in_sync=True
                )
            )
        )
        states.append(dict(state))
    return _History(pieces=tuple(pieces), states=tuple(states))


_damaged = _histories().flatmap(
    lambda history: st.tuples(
        st.just(history),
        st.one_of(
            mutated_bytes(st.just(b"".join(history.pieces))),
            mutated_bytes(st.just(MAGIC + b"".join(history.pieces)[len(MAGIC) :]), changes_max=1),
            st.lists(st.sampled_from(history.pieces), max_size=8).map(b"".join),
            st.permutations(history.pieces).map(b"".join),
        ),
    )
)


def check(value: tuple[_History, bytes]) -> None:
    """`load` never raises; each plan is one that the service had; a whole plan is one that the node had."""
    history, data = value
    result = load(data)
    held = dict(result.store.snapshot().updates)
    had = {(name, plan) for state in history.states for name, plan in state.items()}
    assert set(held.items()) <= had
    assert 0 <= result.good_bytes <= len(data)
    if result.store.is_complete:
        assert not result.problem
        assert held in history.states
    elif not result.problem:
        assert not held
    again = load(b"".join(encode_snapshot(result.store.snapshot())))
    assert dict(again.store.snapshot().updates) == held


TARGETS = (Target(name="enforcer: plan on disk", values=_damaged, check=check, examples=250),)
