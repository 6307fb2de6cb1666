# SPDX-License-Identifier: Apache-2.0
"""The executors can fail: wrong expectations, wrong plans, wrong packets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from conformance import command, report
from conformance.build import DROP, NONE, REJECT, probe, to
from conformance.executors import pure, sctp
from conformance.executors.kernel import CONNECTIONS_MIN, connections_of, groups
from conformance.executors.modes import MODES
from conformance.executors.observation import observed
from conformance.executors.prober import Seen
from conformance.executors.rendered import executor as rendered
from conformance.model import DAMAGES, EVERY_MODE, Expectation, Outcome, Row, RowResult
from conformance.table import all_rows, runnable

ROWS = [row for row in runnable(all_rows(), "nftables") if not row.needs_dataplane]
VIP, A, B = "172.30.0.41", "10.180.0.1", "10.180.2.1"


def _with(row: Row, wrong: Expectation) -> Row:
    """The row with another expectation of its last probe."""
    *steps, last = row.steps
    *probes, final = last.probes
    return replace(row, steps=(*steps, replace(last, probes=(*probes, final._replace(expect=wrong)))))


def _wrong(right: Expectation) -> Sequence[Expectation]:
    others = [Expectation(outcome) for outcome in (Outcome.REJECT, Outcome.DROP, Outcome.NONE)]
    if right.outcome is not Outcome.FORWARD:
        return [other for other in others if other != right]
    first, *rest = right.targets
    return [
        *others,
        Expectation(Outcome.FORWARD, tuple(rest)),
        Expectation(Outcome.FORWARD, (*right.targets, first._replace(port=9))),
        Expectation(Outcome.FORWARD, (first._replace(masquerade=not first.masquerade), *rest)),
        Expectation(Outcome.FORWARD, (first._replace(port=first.port + 1), *rest)),
    ]


def test_no_row_passes_with_any_other_expectation() -> None:
    for row in (row for row in ROWS if row.section != 7 or row.number.startswith("85")):
        for wrong in _wrong(row.steps[-1].probes[-1].expect):
            result = pure.run_row(_with(row, wrong))
            assert len(result.failures) == 1, f"{row.id} passes with {wrong}"
            assert result.failures[0].expected == str(wrong)


A_PROBE = probe("10.0.0.2", VIP, to(A, B, m=False))
FROM_NODE = probe("192.168.0.2", VIP, to(A, m=True))
REACHED_A, REACHED_B = Seen("", A, 80, "10.0.0.2"), Seen("", B, 80, "10.0.0.2")


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ([REACHED_A, REACHED_B, REACHED_A], f"{{{A}:80 -M, {B}:80 -M}}"),
        ([REACHED_A], f"{{{A}:80 -M}}"),
        ([REACHED_A._replace(peer="192.168.1.2")], f"{{{A}:80 M}}"),
        ([REACHED_A._replace(peer="10.9.9.9")], f"{A}:80 -M with source 10.9.9.9"),
        ([Seen("", VIP, 80, "10.0.0.2")], "NONE"),
        ([Seen("", VIP, 80, "192.168.0.2")], "NONE with source 192.168.0.2"),
        ([Seen("REJECT"), Seen("REJECT")], "REJECT"),
        ([Seen("DROP")], "DROP"),
        ([REACHED_A, Seen("DROP")], f"mixed: 1 x {A}:80 -M, 1 x DROP"),
        ([Seen("REJECT"), Seen("DROP")], "mixed: 1 x DROP, 1 x REJECT"),
        ([Seen("EHOSTUNREACH")], "EHOSTUNREACH"),
    ],
)
def test_what_was_seen_is_told_in_the_words_of_an_expectation(seen: list[Seen], words: str) -> None:
    assert observed(A_PROBE, seen) == words


def test_a_process_of_the_node_may_look_the_same_masqueraded_or_not() -> None:
    unchanged = [Seen("", A, 80, "192.168.0.2")]
    assert observed(FROM_NODE, unchanged) == str(FROM_NODE.expect)
    assert observed(FROM_NODE._replace(expect=to(A, m=False)), unchanged) == f"{{{A}:80 -M}}"


def test_enough_connections_are_made_to_see_every_endpoint() -> None:
    many = to(*(f"10.1.0.{number}" for number in range(1, 21)), m=False)
    assert connections_of(A_PROBE) == CONNECTIONS_MIN
    assert (1 - 1 / 20) ** connections_of(A_PROBE._replace(expect=many)) < 1e-9


def test_rows_share_a_programming_only_when_nothing_changes_after_it() -> None:
    grouped = list(groups(ROWS))
    assert sorted(row.id for group in grouped for row in group) == sorted(row.id for row in ROWS)
    assert any(len(group) > 20 for group in grouped)
    for group in grouped:
        assert len({(row.steps[0].events, row.settings, row.node_name) for row in group}) == 1
        assert len(group) == 1 or all(len(row.steps) == 1 for row in group)


def test_the_matrix_counts_failures_and_names_what_was_not_run() -> None:
    rows = all_rows()
    wrong = _with(ROWS[0], REJECT)
    results = [pure.run_row(wrong), *(pure.run_row(row) for row in ROWS[1:3])]
    lines = list(report.matrix(rows, results, ["pure"], "nftables"))
    assert lines[1].split() == ["1", "ClusterIP", "basics", "0/1", "1/1", "-", "-"] or "1/2" in lines[1]
    assert report.closing(results) == "2 passed, 1 failed"
    told = list(report.failures(results))
    assert told[0].startswith("FAILED pure:")
    assert "expected REJECT, observed {" in told[1]
    named = "\n".join(report.not_run(rows, "nftables", ["pure"]))
    for words in ("only ipvs: 24", "only iptables: 46", "not by the plan alone"):
        assert words in named


def test_the_command_says_what_it_needs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.main(["--mode", "iptables"]) == 2
    assert "no dataplane for mode iptables" in capsys.readouterr().err
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert command.main(["--mode", "nftables"]) == 2
    assert "needs root" in capsys.readouterr().err


def test_the_command_ends_with_the_counts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structlog.configure", lambda **_: None)
    assert command.main(["--mode", "nftables", "--executor", "pure", "--section", "6"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("14 passed, 0 failed")
    assert command.main(["--mode", "nftables", "--executor", "rendered", "--row", "78", "--row", "81-IPv6"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("3 passed, 0 failed")
    assert command.main(["--mode", "nftables", "--row", "7777"]) == 2
    assert "nothing is row ['7777']" in capsys.readouterr().err

    def fail(rows: Sequence[Row]) -> list[RowResult]:
        raise ValueError(rows[0].id)

    monkeypatch.setattr(pure, "run_group", fail)
    assert command.main(["--mode", "nftables", "--executor", "pure", "--section", "6"]) == 1
    assert capsys.readouterr().out.rstrip().endswith("0 passed, 14 failed")


def test_every_mode_can_be_damaged_in_every_way_and_is_held_to_rows_that_exist() -> None:
    assert all(mode.damages.keys() == DAMAGES for mode in MODES.values())
    assert rendered.DAMAGES_DONE.keys() == DAMAGES
    assert {mode.rows for mode in MODES.values()} <= EVERY_MODE
    assert all(name == mode.name for name, mode in MODES.items())


def test_sctp_packets_carry_the_right_checksum_and_come_back_as_they_were() -> None:
    assert sctp.crc32c(b"123456789") == 0xE3069283
    opened = sctp.parse(sctp.init(10001, 53, 77))
    assert opened == sctp.Packet(10001, 53, sctp.INIT, 77, "")
    answered = sctp.parse(sctp.init_ack(opened, "10.0.0.1 53 10.0.0.2 10001"))
    assert answered == sctp.Packet(53, 10001, sctp.INIT_ACK, 1, "10.0.0.1 53 10.0.0.2 10001")
    assert sctp.parse(b"short") is None


def test_expectations_other_than_sets_read_as_one_word() -> None:
    assert [str(one) for one in (REJECT, DROP, NONE)] == ["REJECT", "DROP", "NONE"]
    assert {"nftables", "iptables", "ipvs"} == EVERY_MODE
