# SPDX-License-Identifier: Apache-2.0
"""Every fuzz target for a moment, always with the same values; `make fuzz` goes on with new ones."""

import pytest
from fuzz.catalogue import TARGETS
from fuzz.harness import Executions, HangError, Target, run_examples
from hypothesis import strategies as st


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_nothing_a_stranger_sends_does_harm(target: Target) -> None:
    executions = Executions()
    run_examples(target, executions, examples=target.examples)
    assert executions.count > 0


def test_a_crash_is_a_failure() -> None:
    def crash(number: int) -> None:
        if number > 100:
            raise ZeroDivisionError

    target = Target(name="crash", values=st.integers(0, 1000), check=crash)
    with pytest.raises(ZeroDivisionError):
        run_examples(target, Executions(), examples=50)


def test_a_hang_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(_: int) -> None:
        while True:
            pass

    monkeypatch.setattr("fuzz.harness.EXAMPLE_SECONDS_MAX", 0.05)
    with pytest.raises(HangError):
        run_examples(Target(name="hang", values=st.integers(0, 1), check=hang), Executions(), examples=1)
