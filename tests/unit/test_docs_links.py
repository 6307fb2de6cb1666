# SPDX-License-Identifier: Apache-2.0
"""Documents lead somewhere: links between files, to headings in them, and the make targets that they name."""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote

ROOT: Final = Path(__file__).resolve().parents[2]
NOT_OURS: Final = frozenset({"build", "dist"})
"""Folders at the top that hold what is made, not what is written; those that begin with a dot are left out too."""
FENCE: Final = re.compile(r"^ *(`{3,}|~{3,})")
SPAN: Final = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK: Final = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+(?:\"[^\"]*\"|'[^']*'))?\s*\)")
DEFINITION: Final = re.compile(r"^ {0,3}\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
HEADING: Final = re.compile(r"^ {0,3}#{1,6}\s+(.+?)(?:\s+#+)?\s*$", re.MULTILINE)
SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
MENTION: Final = re.compile(r"(?:^|[;&|]\s*|^sudo\s+)make\s+((?:[A-Z_]+=\S*\s+)*)([a-z][a-z0-9-]*)")
TARGET: Final = re.compile(r"^([a-z][a-z0-9-]*):(?!=)", re.MULTILINE)


def documents() -> list[Path]:
    found = []
    for folder, inner, files in os.walk(ROOT):
        inner[:] = [name for name in inner if not name.startswith(".") and name != "node_modules"]
        if Path(folder) == ROOT:
            inner[:] = [name for name in inner if name not in NOT_OURS]
        found += [Path(folder, name) for name in files if name.endswith(".md")]
    return sorted(found)


@cache
def prose(path: Path) -> str:
    """A document without its fenced blocks; the lines keep their numbers."""
    lines, fence = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        match = FENCE.match(line)
        if fence:
            is_end = match is not None and match[1].startswith(fence) and not line.strip(" `~")
            fence = "" if is_end else fence
            lines.append("")
        elif match:
            fence = match[1]
            lines.append("")
        else:
            lines.append(line)
    return "\n".join(lines)


def links(path: Path) -> Iterator[tuple[int, str]]:
    """Line and target of every link within the repository."""
    text = SPAN.sub(lambda match: "\n" * match[0].count("\n"), prose(path))
    for pattern in (LINK, DEFINITION):
        for match in pattern.finditer(text):
            if not SCHEME.match(match[1]):
                yield text.count("\n", 0, match.start()) + 1, match[1]


@cache
def anchors(path: Path) -> frozenset[str]:
    """Of the headings, as GitHub makes them: equal ones are numbered."""
    found: set[str] = set()
    for match in HEADING.finditer(prose(path)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1])
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        free = (f"{slug}-{number}" if number else slug for number in range(len(found) + 1))
        found.add(next(each for each in free if each not in found))
    return frozenset(found)


def broken(path: Path, link: str) -> str:
    """What is wrong with a link of this document; empty when nothing is."""
    place, _, anchor = unquote(link).partition("#")
    base = ROOT if place.startswith("/") else path.parent
    target = Path(os.path.normpath(base / place.lstrip("/"))) if place else path
    if not target.is_relative_to(ROOT):
        return "leads out of the repository"
    if not target.exists():
        return "leads nowhere"
    if anchor and target.suffix == ".md" and anchor not in anchors(target):
        return "names a heading that is not there"
    return ""


def mentions(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every make target in code: a span, or an indented block."""
    text = prose(path)
    spans = [(text.count("\n", 0, match.start()) + 1, match[2].strip()) for match in SPAN.finditer(text)]
    for number, code in (*spans, *indented(text)):
        for match in MENTION.finditer(code):
            yield number, match[2]


def indented(text: str) -> Iterator[tuple[int, str]]:
    """The lines of indented code, which begins after an empty line; the second paragraph of a list's entry is none."""
    is_open, is_list = True, False
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            is_open = True
        elif line.startswith("    ") and is_open and not is_list:
            yield number, line.strip()
        else:
            is_open = False
            is_list = line.startswith(" ") if is_list else re.match(r"\s*(?:[-*+]|\d+[.)])\s", line) is not None


def test_every_link_leads_to_a_file_and_a_heading_that_are_there() -> None:
    checked = [(path, number, link) for path in documents() for number, link in links(path)]
    assert len(checked) > 50
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {link} {problem}"
        for path, number, link in checked
        if (problem := broken(path, link))
    ]
    assert wrong == []


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    named = [(path, number, name) for path in documents() for number, name in mentions(path)]
    assert len(named) > 50
    assert [f"{path.relative_to(ROOT)}:{line}: make {name}" for path, line, name in named if name not in targets] == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = ROOT / "docs" / "modes.md"
    assert broken(page, "no-such-page.md") == "leads nowhere"
    assert broken(page, "modes.md#no-such-heading") == "names a heading that is not there"
    assert broken(page, "../../elsewhere") == "leads out of the repository"
    assert broken(page, "../README.md#modes") == ""
    written = tmp_path / "page.md"
    written.write_text(
        "# One `two`, three\n## Same\n## Same\n```\n# no heading\n[a](in-a-block)\nmake nothing\n```\n"
        "`[b](in-code)` [c](d.md#e 'f') [c](d.md#e)\n[g]: h.md\n`make one` make two\n\n    make three A=1\n"
    )
    assert anchors(written) == {"one-two-three", "same", "same-1"}
    assert sorted(links(written)) == [(9, "d.md#e"), (9, "d.md#e"), (10, "h.md")]
    assert list(mentions(written)) == [(11, "one"), (13, "three")]
