# SPDX-License-Identifier: Apache-2.0
"""How answers of the kernel become an outcome, without a kernel."""

from __future__ import annotations

import errno

from hypothesis import given
from hypothesis import strategies as st

from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.answers import Answer, read_answers, verdict_of
from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Table, add_chain, add_table

TABLE = Table(family=Family.IPV4)
FIRST = 100


def batch() -> Batch:
    made = Batch()
    made.extend([add_table(TABLE), add_chain(TABLE, "one"), add_chain(TABLE, "two")])
    return made


def error(sequence: int, code: int, reason: str = "") -> Answer:
    return Answer(uapi.NLMSG_ERROR, sequence, code, reason=reason)


def test_only_the_acknowledgement_of_the_last_message_proves_a_commit() -> None:
    assert verdict_of([error(FIRST + 3, 0)], batch=batch(), first=FIRST, lost=False) is None
    assert verdict_of([error(FIRST + 2, 0)], batch=batch(), first=FIRST, lost=False) is not None


def test_the_first_refused_message_is_told_with_the_kernels_words() -> None:
    answers = [error(FIRST + 3, errno.ENOENT), error(FIRST + 2, errno.EBUSY, "in use")]
    failure = verdict_of(answers, batch=batch(), first=FIRST, lost=False)
    assert failure is not None
    assert (failure.message_index, failure.errno, failure.reason) == (1, errno.EBUSY, "in use")
    assert "add chain one" in str(failure)
    assert "EBUSY" in str(failure)


def test_an_error_of_the_frame_outweighs_an_acknowledgement() -> None:
    answers = [error(FIRST, errno.ELOOP), error(FIRST + 3, 0)]
    failure = verdict_of(answers, batch=batch(), first=FIRST, lost=False)
    assert failure is not None
    assert (failure.message_index, failure.errno, failure.outcome_known) == (None, errno.ELOOP, True)


def test_lost_answers_leave_the_outcome_open() -> None:
    failure = verdict_of([], batch=batch(), first=FIRST, lost=True)
    assert failure is not None
    assert (failure.errno, failure.outcome_known) == (errno.ENOBUFS, False)


def test_answers_to_an_earlier_batch_are_not_mistaken_for_this_one() -> None:
    answers = [error(FIRST + 4, 0)]
    failure = verdict_of(answers, batch=batch(), first=FIRST, lost=False)
    assert failure is not None
    assert not failure.outcome_known


@given(st.binary(max_size=200))
def test_arbitrary_datagrams_are_read_or_refused(data: bytes) -> None:
    try:
        answers = list(read_answers(data))
    except ValueError:
        return
    assert len(answers) <= len(data) // 16
