# SPDX-License-Identifier: Apache-2.0
"""What CONTRIBUTING.md says about every source file, checked over all of them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[3]
SPDX: Final = "SPDX-License-Identifier: Apache-2.0"
FILE_LINES_MAX: Final = 400
FUNCTION_LINES_MAX: Final = 60


def sources(*folders: str, suffixes: tuple[str, ...] = (".py",)) -> list[Path]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)
    return sorted(path for path in found if ROOT / "proto" / "gen" not in path.parents)


def relative(paths: Iterator[Path] | list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_the_tree_is_seen() -> None:
    assert len(sources("services", "proto", "tests")) > 50


def test_every_source_file_names_its_licence_first() -> None:
    files = sources("services", "proto", "tests", "scripts", suffixes=(".py", ".proto", ".sh", ".lua"))
    without = [path for path in files if SPDX not in "".join(path.open(encoding="utf-8").readlines()[:2])]
    assert relative(without) == []


def test_no_file_outgrows_its_subject() -> None:
    long = [path for path in sources("services", "proto") if len(path.read_text().splitlines()) > FILE_LINES_MAX]
    assert relative(long) == []


def test_no_function_outgrows_the_screen() -> None:
    assert [found for path in sources("services", "proto") for found in _long_functions(path)] == []


def _long_functions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines"


@pytest.mark.parametrize("pattern", [r"\bTODO\b", r"\bFIXME\b", r"\bXXX\b"])
def test_nothing_is_left_for_later_in_a_comment(pattern: str) -> None:
    found = [path for path in sources("services", "proto", "scripts") if re.search(pattern, path.read_text())]
    assert relative(found) == []


def test_exemptions_from_a_linter_give_their_reason() -> None:
    exemption = re.compile(r"#\s*(?:noqa|type:\s*ignore)(?::\s*[A-Z0-9, ]+|\[[a-z, -]+\])?(?P<reason>.*)")
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources("services", "proto")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if (match := exemption.search(line)) and not re.match(r"\s*[-#]\s*\w", match["reason"])
    ]
    assert bare == []
