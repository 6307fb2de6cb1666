# SPDX-License-Identifier: Apache-2.0
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from pointsman_model.cluster import ObjectKey, ObjectKind
from pointsman_watcher.core.change_log import ChangeLog
from pointsman_watcher.core.object_store import ObjectStore, Update

WEB: Final = ObjectKey(ObjectKind.SERVICE, "shop", "web")
API: Final = ObjectKey(ObjectKind.SERVICE, "shop", "api")
NODE: Final = ObjectKey(ObjectKind.NODE, "", "n1")


def make_store(*, log_entries_max: int = 100) -> ObjectStore:
    return ObjectStore(epoch="e", log_entries_max=log_entries_max)


def apply(store: ObjectStore, *updates: tuple[ObjectKey, bytes | None]) -> int:
    return store.commit(store.real_changes(Update(key=key, body=body) for key, body in updates))


def test_one_batch_is_one_revision() -> None:
    store = make_store()
    assert apply(store, (WEB, b"1"), (API, b"1")) == 1
    assert apply(store, (WEB, b"2")) == 2
    assert [store.entry(key).revision for key in (WEB, API)] == [2, 1]
    assert len(store) == store.count(ObjectKind.SERVICE) == 2


def test_equal_bytes_change_nothing() -> None:
    store = make_store()
    apply(store, (WEB, b"1"))
    assert apply(store, (WEB, b"1")) == 1
    assert apply(store, (API, None)) == 1
    assert store.real_changes([Update(key=WEB, body=b"1", resource_version="9")]) == []


def test_away_and_back_within_one_batch_is_no_change() -> None:
    store = make_store()
    apply(store, (WEB, b"1"))
    assert apply(store, (WEB, None), (WEB, b"1")) == 1
    assert apply(store, (WEB, b"2"), (WEB, None)) == 2
    assert not store.is_present(WEB)
    assert store.count(ObjectKind.SERVICE) == 0


def test_a_relist_names_what_vanished_of_its_own_kind_only() -> None:
    store = make_store()
    apply(store, (WEB, b"1"), (API, b"1"), (NODE, b"1"))
    assert store.missing_from(ObjectKind.SERVICE, {WEB}) == [API]
    assert store.missing_from(ObjectKind.NODE, set()) == [NODE]
    assert store.missing_from(ObjectKind.ENDPOINT_SLICE, set()) == []


def test_a_resume_names_each_changed_key_once_oldest_change_first() -> None:
    store = make_store()
    for key, body in ((WEB, b"1"), (API, b"1"), (NODE, b"1"), (WEB, b"2"), (API, None)):
        apply(store, (key, body))
    assert store.keys_since("e", 1) == [NODE, WEB, API]
    assert store.keys_since("e", 5) == []


def test_a_position_of_another_history_or_of_the_future_is_unknown() -> None:
    store = make_store()
    apply(store, (WEB, b"1"))
    assert store.keys_since("other", 1) is None
    assert store.keys_since("e", 2) is None


def test_a_position_that_fell_out_of_the_log_is_unknown() -> None:
    store = make_store(log_entries_max=2)
    for body in (b"1", b"2", b"3", b"4"):
        apply(store, (WEB, body))
    assert store.keys_since("e", 1) is None
    assert store.keys_since("e", 2) == [WEB]


def test_a_removal_is_remembered_as_long_as_the_log_holds_it() -> None:
    store = make_store(log_entries_max=2)
    apply(store, (WEB, b"1"))
    store.commit([Update(key=WEB, body=None, traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01")])
    assert store.entry(WEB).trace
    apply(store, (API, b"1"), (NODE, b"1"))
    assert not store.entry(WEB).trace
    assert store.entry(WEB).body


def test_a_batch_larger_than_the_log_leaves_no_gap_unnoticed() -> None:
    log = ChangeLog(entries_max=2)
    for key in (WEB, API, NODE):
        log.append(7, key)
    assert len(log) == 2
    assert log.keys_since(6) is None
    assert log.keys_since(7) == []


KEYS = st.sampled_from([WEB, API, NODE])
UPDATES = st.lists(st.tuples(KEYS, st.none() | st.sampled_from([b"1", b"2"])), max_size=20)


@given(UPDATES, st.data())
def test_batching_and_repeating_events_does_not_change_the_outcome(
    updates: list[tuple[ObjectKey, bytes | None]], data: st.DataObject
) -> None:
    plain, batched = make_store(), make_store()
    for update in updates:
        apply(plain, update)
    rest = list(updates)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        batch, rest = rest[:size], rest[size:]
        repeated = [update for update in batch for _ in range(data.draw(st.integers(1, 2)))]
        apply(batched, *repeated)
    keys = {WEB, API, NODE}
    assert [plain.is_present(key) for key in keys] == [batched.is_present(key) for key in keys]
    assert [plain.entry(key).body for key in keys] == [batched.entry(key).body for key in keys]
    assert batched.revision <= plain.revision


@given(UPDATES, UPDATES, st.integers(1, 5))
def test_what_a_resume_names_covers_every_difference(
    before: list[tuple[ObjectKey, bytes | None]], after: list[tuple[ObjectKey, bytes | None]], entries_max: int
) -> None:
    store = make_store(log_entries_max=entries_max)
    for update in before:
        apply(store, update)
    position = store.revision
    known = {key: store.entry(key).body for key in store.present_keys()}
    for update in after:
        apply(store, update)
    named = store.keys_since("e", position)
    if named is None:
        assert store.revision - position > entries_max
        return
    for key in named:
        known.pop(key, None)
        if store.is_present(key):
            known[key] = store.entry(key).body
    assert known == {key: store.entry(key).body for key in store.present_keys()}
