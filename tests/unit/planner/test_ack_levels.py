# SPDX-License-Identifier: Apache-2.0
"""What a node has acknowledged is kept level by level, with the position of the transaction it speaks of."""

from pointsman_model.cluster import ClusterPosition
from pointsman_planner.core.messages import Ack, AckLevel
from pointsman_planner.core.reached import ReachedLevels


def ack(nonce: int, level: AckLevel, digest: int = 0, programmed: int | None = None) -> Ack:
    return Ack(nonce=nonce, level=level, digest=digest, programmed_digest=digest if programmed is None else programmed)


def levels(count: int = 3) -> ReachedLevels:
    made = ReachedLevels()
    for nonce in range(1, count + 1):
        made.sent(nonce, ClusterPosition(epoch="e", revision=10 * nonce))
    return made


def shown(made: ReachedLevels) -> dict[str, tuple[int, int]]:
    return {each.level.name: (each.position.revision, each.digest) for each in made}


def test_a_level_includes_the_lower_ones() -> None:
    made = levels()
    made.acknowledged(ack(2, AckLevel.VERIFIED, 7), now_ns=5)
    assert shown(made) == {"RECEIVED": (20, 7), "PROGRAMMED": (20, 7), "VERIFIED": (20, 7)}
    assert {each.at_ns for each in made} == {5}


def test_received_speaks_of_the_plan_and_the_others_of_the_kernel() -> None:
    made = levels()
    made.acknowledged(ack(1, AckLevel.PROGRAMMED, 8, programmed=5), now_ns=1)
    assert shown(made) == {"RECEIVED": (10, 8), "PROGRAMMED": (10, 5)}


def test_levels_that_come_late_never_take_another_one_back() -> None:
    made = levels()
    made.acknowledged(ack(3, AckLevel.RECEIVED, 3), now_ns=1)
    made.acknowledged(ack(2, AckLevel.PROGRAMMED, 2), now_ns=2)
    made.acknowledged(ack(1, AckLevel.VERIFIED, 1), now_ns=3)
    assert shown(made) == {"RECEIVED": (30, 3), "PROGRAMMED": (20, 2), "VERIFIED": (10, 1)}


def test_an_ack_without_a_transaction_speaks_of_the_last_one() -> None:
    made = levels()
    made.acknowledged(ack(0, AckLevel.PROGRAMMED, 4), now_ns=1)
    assert shown(made) == {}, "nothing was acknowledged yet, so there is nothing to speak of"
    made.acknowledged(ack(2, AckLevel.PROGRAMMED, 2), now_ns=2)
    made.acknowledged(ack(0, AckLevel.PROGRAMMED, 4), now_ns=3)
    assert shown(made)["PROGRAMMED"] == (20, 4)


def test_an_ack_of_a_transaction_that_nobody_remembers_proves_nothing() -> None:
    made = levels(100)
    made.acknowledged(ack(3, AckLevel.VERIFIED, 3), now_ns=1)
    assert shown(made) == {}
