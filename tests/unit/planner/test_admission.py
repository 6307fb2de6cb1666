# SPDX-License-Identifier: Apache-2.0
"""How many nodes are brought up to date at once, who waits, and who is told to come back."""

from hypothesis import given
from hypothesis import strategies as st

from pointsman_planner.core.admission import Admission, AdmissionLimits, Admitted

LIMITS = AdmissionLimits(slots=2, waiting_max=3, free_buckets=10, slot_seconds=30.0)


def test_nodes_that_agree_pass_whatever_the_crowd() -> None:
    admission: Admission[str] = Admission(LIMITS)
    for number in range(20):
        admission.ask(f"cold-{number}", buckets=1024, now=0.0)
    assert admission.ask("same", buckets=0, now=0.0) is Admitted.NOW
    assert admission.ask("nearly", buckets=10, now=0.0) is Admitted.NOW
    assert (admission.syncing, admission.waiting) == (2, 3)


def test_first_come_first_served_and_the_rest_refused() -> None:
    admission: Admission[str] = Admission(LIMITS)
    asked = [admission.ask(name, buckets=1024, now=0.0) for name in "abcdef"]
    assert asked == [Admitted.NOW] * 2 + [Admitted.LATER] * 3 + [Admitted.REFUSED]
    assert admission.done("a", now=1.0) == ("c",)
    assert admission.done("d", now=1.0) == ()
    assert admission.done("b", now=1.0) == ("e",)
    assert admission.done("nobody", now=1.0) == ()
    assert admission.ask("g", buckets=11, now=2.0) is Admitted.LATER


def test_a_slot_held_for_too_long_goes_to_the_next() -> None:
    admission: Admission[str] = Admission(LIMITS)
    admission.ask("a", buckets=1024, now=0.0)
    admission.ask("b", buckets=1024, now=20.0)
    admission.ask("c", buckets=1024, now=20.0)
    assert admission.overdue(now=29.0) == ()
    assert admission.overdue(now=31.0) == ("c",)
    assert admission.overdue(now=40.0) == ()
    assert admission.syncing == 2


@given(st.lists(st.tuples(st.sampled_from(["ask", "done", "overdue"]), st.integers(0, 9)), max_size=60))
def test_nobody_is_forgotten_and_no_bound_is_passed(steps: list[tuple[str, int]]) -> None:
    admission: Admission[int] = Admission(LIMITS)
    waiting: list[int] = []
    now, known = 0.0, set[int]()
    for step, key in steps:
        now += 7.0
        if step == "ask" and key not in known:
            answer = admission.ask(key, buckets=1024, now=now)
            if answer is not Admitted.REFUSED:
                known.add(key)
            if answer is Admitted.LATER:
                waiting.append(key)
            turn: tuple[int, ...] = ()
        elif step == "done":
            waiting = [each for each in waiting if each != key]
            known.discard(key)
            turn = admission.done(key, now=now)
        else:
            turn = admission.overdue(now=now)
        assert list(turn) == waiting[: len(turn)]
        waiting = waiting[len(turn) :]
        assert admission.waiting == len(waiting)
        assert admission.syncing <= LIMITS.slots
        assert not waiting or admission.syncing == LIMITS.slots
