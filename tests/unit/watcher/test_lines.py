# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from pointsman_watcher.core.lines import LineSplitter


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b".")), max_size=10), st.data())
def test_lines_come_out_the_same_however_the_bytes_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    rest = b"".join(line + b"\n" for line in lines)
    splitter = LineSplitter(line_bytes_max=100)
    found: list[bytes] = []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += splitter.feed(rest[:size])
        rest = rest[size:]
    assert found == [line for line in lines if line]
    assert not splitter.is_mid_line


def test_a_line_above_the_bound_is_skipped_to_its_end_without_being_kept() -> None:
    splitter = LineSplitter(line_bytes_max=10)
    assert splitter.feed(b"first\n" + b"x" * 8) == [b"first"]
    for _ in range(1000):
        assert splitter.feed(b"x" * 8) == []
    assert splitter._parts == []
    assert splitter.feed(b"\nlast\n") == [b"last"]
    assert splitter.skipped_count == 1


def test_an_unfinished_line_is_known() -> None:
    splitter = LineSplitter(line_bytes_max=10)
    assert splitter.feed(b"begin") == []
    assert splitter.is_mid_line
    assert splitter.feed(b"ning\n\n\n") == [b"beginning"]
    assert not splitter.is_mid_line
