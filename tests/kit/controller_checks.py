# SPDX-License-Identifier: Apache-2.0
"""What a controller must do, judged from the calls that it made: pure, so that a test can show that it can fail.

Rules are numbered as in the comment of `OverrideService`, after `O`; `W` is the comment of WaitConverged. A controller
may always stop: what it must not do is go on as if nothing had happened, or ask again without pause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import grpc

from kit.control_api import Call
from kit.verdicts import BrokenRuleError, Result, UnseenRuleError, require

_PAUSE_SECONDS = 0.05
_WRITES = frozenset({"ApplyOverride", "RenewOverride", "DeleteOverride"})
_READS = frozenset({"GetOverride", "ListOverrides", "WatchOverrides"})
Outcome = tuple[str, str, Result, str]


def judged(calls: Sequence[Call]) -> Iterator[Outcome]:
    """Rule, fact, result and what was seen, for every rule."""
    for rule, fact, check in CHECKS:
        try:
            check(calls)
        except BrokenRuleError as error:
            yield rule, fact, Result.BROKEN, str(error)
        except UnseenRuleError as error:
            yield rule, fact, Result.UNSEEN, str(error)
        else:
            yield rule, fact, Result.PASSED, ""


def _applied(calls: Sequence[Call]) -> list[Call]:
    return _some([call for call in calls if call.method == "ApplyOverride"], "it applied no override")


def _some(calls: list[Call], why_not: str) -> list[Call]:
    if not calls:
        raise UnseenRuleError(why_not)
    return calls


def owner(calls: Sequence[Call]) -> None:
    """Every override says whose it is, and always the same."""
    owners = {call.request.override.owner for call in _applied(calls)}
    require("" not in owners, "an override has no owner")
    require(len(owners) == 1, f"one controller called itself {sorted(owners)}")


def legal(calls: Sequence[Call]) -> None:
    """Nothing was refused as invalid."""
    bad = [call for call in _applied(calls) if call.code is grpc.StatusCode.INVALID_ARGUMENT]
    require(not bad, f"{len(bad)} calls were refused as invalid")


def etags(calls: Sequence[Call]) -> None:
    """After ABORTED it reads before it writes that override again."""
    for index, call in enumerate(_conflicts(calls)):
        after = calls[calls.index(call) + 1 :]
        for later in after:
            if later.method in _READS:
                break
            is_same = later.method in _WRITES and _name(later) == _name(call)
            is_blind = is_same and getattr(_message(later), "etag", "") == getattr(_message(call), "etag", "")
            require(not is_blind, f"conflict {index + 1}: it sent the same stale etag again without reading")


def _conflicts(calls: Sequence[Call]) -> list[Call]:
    found = [call for call in calls if call.method in _WRITES and call.code is grpc.StatusCode.ABORTED]
    return _some(found, "it met no conflict; begin with --faults conflict")


def lease(calls: Sequence[Call]) -> None:
    """A lapsed override is applied anew, not renewed again."""
    lapsed = [call for call in calls if call.method == "RenewOverride" and call.code is grpc.StatusCode.NOT_FOUND]
    for call in _some(lapsed, "it renewed nothing that had lapsed; begin with --faults expired"):
        for later in calls[calls.index(call) + 1 :]:
            if later.method == "ApplyOverride" and _name(later) == _name(call):
                break
            is_again = later.method == "RenewOverride" and _name(later) == _name(call)
            require(not is_again, "it renewed an override again that was gone")


def unavailable(calls: Sequence[Call]) -> None:
    """It pauses before it repeats a call that failed with UNAVAILABLE."""
    failed = [call for call in calls if call.code is grpc.StatusCode.UNAVAILABLE]
    for call in _some(failed, "no call failed so; begin with --faults unavailable"):
        later = next((each for each in calls[calls.index(call) + 1 :] if each.method == call.method), None)
        if later is not None:
            require(later.at - call.at >= _PAUSE_SECONDS, f"it repeated the call after {later.at - call.at:.3f} s")


def advances(calls: Sequence[Call]) -> None:
    """Between two different wishes for weights every node has the first one."""
    wishes = [call for call in _applied(calls) if call.code is grpc.StatusCode.OK and _weights(call)]
    steps = [(one, two) for one, two in pairwise(wishes) if _weights(one) != _weights(two)]
    if not steps and not any(call.method == "WaitConverged" for call in calls):
        raise UnseenRuleError("it took no step")
    for number, (one, two) in enumerate(steps, start=1):
        between = calls[calls.index(one) : calls.index(two)]
        is_proved = any(call.method == "WaitConverged" and call.is_converged for call in between)
        require(is_proved, f"step {number + 1} was taken before WaitConverged had said converged of the step before")


def deadlines(calls: Sequence[Call]) -> None:
    """The call lives longer than the wait that it asks for."""
    waits = _some([call for call in calls if call.method == "WaitConverged"], "it did not wait for nodes")
    require(all(call.has_deadline_for_answer for call in waits), "the deadline of the call ends before the wait does")


def _message(call: Call) -> object:
    return call.request.override if call.method == "ApplyOverride" else call.request


def _name(call: Call) -> tuple[str, str]:
    name = _message(call).name  # type: ignore[attr-defined]  # every write names an override
    return name.namespace, name.name


def _weights(call: Call) -> bytes:
    found: bytes = call.request.override.spec.weight.SerializeToString(deterministic=True)
    return found


CHECKS: Final[tuple[tuple[str, str, Callable[[Sequence[Call]], None]], ...]] = (
    ("O", "every override names its owner, always the same", owner),
    ("O7", "no override breaks a rule", legal),
    ("O4", "after a conflict it reads before it writes again", etags),
    ("O5", "a lapsed override is applied anew", lease),
    ("O6", "it pauses before it repeats a call that failed with UNAVAILABLE", unavailable),
    ("W", "it takes a step only when every node has the one before", advances),
    ("W", "its deadline for WaitConverged is longer than the wait", deadlines),
)
"""Rule, fact and check."""
