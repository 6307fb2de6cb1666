# SPDX-License-Identifier: Apache-2.0
"""The plan on disk survives being cut, flipped and filled with noise: it is then an older plan, and never a crash."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman_enforcer.core.plan_log import MAGIC, encode_record, encode_snapshot, load
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Position, Transaction
from support.enforcer_plans import FACTS, digest_of, key, numbered, whole


def history() -> tuple[list[bytes], list[dict[object, bytes]]]:
    """The pieces of a file with a snapshot and three changes, and the plan after each piece."""
    store = PlanStore()
    store.apply(whole({key(each): numbered(each, 2) for each in range(3)}))
    pieces, states = [b"".join(encode_snapshot(store.snapshot()))], [dict(store.snapshot().updates)]
    for nonce in range(2, 5):
        updates = {key(nonce): f"plan {nonce}".encode()}
        after = {**states[-1], **updates}
        del after[key(nonce - 2)]
        transaction = Transaction(
            nonce=nonce,
            position=Position("e", nonce),
            updates=updates,
            removals=(key(nonce - 2),),
            digest=digest_of(after),  # type: ignore[arg-type]  # keys are service keys
            in_sync=True,
        )
        pieces.append(encode_record(transaction))
        states.append(after)
    return pieces, states


def held(store: PlanStore) -> dict[object, bytes]:
    return dict(store.snapshot().updates)


def test_what_was_written_is_read_back() -> None:
    pieces, states = history()
    result = load(b"".join(pieces))
    assert result.problem == ""
    assert held(result.store) == states[-1]
    assert result.store.facts == FACTS
    assert result.store.position == Position("e", 4)
    assert result.store.is_complete


def test_a_file_cut_at_any_byte_holds_the_last_whole_record() -> None:
    pieces, states = history()
    data = b"".join(pieces)
    ends = [sum(map(len, pieces[: count + 1])) for count in range(len(pieces))]
    for length in range(len(data)):
        result = load(data[:length])
        whole_pieces = sum(end <= length for end in ends)
        assert held(result.store) == (states[whole_pieces - 1] if whole_pieces else {})
        assert bool(result.problem) == (length not in {*ends, len(MAGIC)})


def test_a_byte_flipped_anywhere_is_noticed_and_costs_only_what_follows() -> None:
    pieces, states = history()
    data = b"".join(pieces)
    allowed: list[dict[object, bytes]] = [{}, *states[:-1]]
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 0x55
        result = load(bytes(broken))
        assert result.problem
        assert held(result.store) in allowed
        assert not result.store.is_complete
        assert result.good_bytes <= position


@settings(max_examples=300)
@given(noise=st.binary(max_size=400), with_magic=st.booleans())
def test_noise_is_no_plan(noise: bytes, with_magic: bool) -> None:
    result = load(MAGIC + noise if with_magic else noise)
    assert len(result.store) == 0


def test_a_snapshot_of_nothing_is_a_file() -> None:
    result = load(b"".join(encode_snapshot(PlanStore().snapshot())))
    assert (result.problem, len(result.store), result.store.is_complete) == ("", 0, False)


def test_a_large_snapshot_is_several_records_and_one_plan() -> None:
    store = PlanStore()
    store.apply(whole({key(each): numbered(each, 1) for each in range(2500)}))
    pieces = list(encode_snapshot(store.snapshot()))
    assert len(pieces) == 4
    assert held(load(b"".join(pieces)).store) == held(store)
    assert load(b"".join(pieces)).store.is_complete
    assert not load(b"".join(pieces[:3])).store.is_complete, "part of a snapshot is not a whole plan"


def test_a_change_costs_its_own_size() -> None:
    sizes = []
    for count in (10, 1000):
        store = PlanStore()
        store.apply(whole({key(each): numbered(each) for each in range(count)}))
        sizes.append(len(encode_record(Transaction(nonce=2, updates={key(1): b"x" * 100}, digest=store.digest))))
    assert sizes[0] == sizes[1]
